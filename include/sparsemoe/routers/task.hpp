// SPDX-License-Identifier: Apache-2.0
// routers/task.hpp -- task-level routing (Kudugunta et al. 2021, section 3.1): the task, a language pair or the target
// language, picks the experts, so a task's sub-network can be cut out and served alone. Task learns its choice: a table
// of logits (tasks, E) for each layer. StaticTask fixes it: expert j of task t is (k t + j) mod E, weight 1/k.
// Read next: model/extract.hpp, which cuts it out; routers/hash.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <int K = 2>
struct TaskTopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::task;
  static constexpr Gate gate = Gate::normalised;
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    return best<K>(p);
  }
};
using Task = TaskTopK<2>;
static_assert(check_router<Task>());

template <int K = 2>
struct StaticTaskTopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::none;
  static constexpr Gate gate = Gate::constant;
  static constexpr bool can_drop_tokens = false;
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo& info) const {
    Choice<K> c;
    for (int j = 0; j < K; ++j)
      c.expert[j] = j < p.size() ? static_cast<std::int32_t>((info.task * K + j) % p.size()) : Choice<K>::none;
    return c;
  }
};
using StaticTask = StaticTaskTopK<2>;
static_assert(check_router<StaticTask>());

/// Routers whose choice depends on the task alone, so that a task's sub-network is exact.
template <class Router>
inline constexpr bool routed_by_task = requires {
  requires Router::level == Level::task;
};
template <int K>
inline constexpr bool routed_by_task<StaticTaskTopK<K>> = true;

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// model/extract.hpp -- the plan of a sub-network: which experts of a stack's sparse layers some tasks use, how they are
// numbered in it, and the weights they are combined with. Under task routing these are constants of (layer, task), so
// the sub-network loses nothing (Kudugunta et al. 2021, section 3). Read next: model/extract_weights.hpp.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "sparsemoe/kernels/routing.hpp"
#include "sparsemoe/model/stack.hpp"
#include "sparsemoe/routers/task.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// How the sparse layers of a sub-network are routed.
enum class SubRouting {
  table,   // TaskTopK: a table of logits for the tasks and experts that are left
  rule,    // StaticTaskTopK: its rule still names the right experts; there is no table
  folded,  // Dense: the experts of the one task, weights multiplied in, are one feed-forward block
  gate,    // token or sentence level: the gate's columns of the experts that are left. Not exact
};

/// One sparse layer of a sub-network. An expert's number is its place in `kept`.
struct LayerPlan {
  index_t layer = 0, experts = 0;  // of the model
  std::vector<index_t> kept;       // the model's experts that are left
  std::vector<index_t> chosen;     // (tasks, K) numbers in the sub-network, best first; empty for SubRouting::gate
  std::vector<double> weight;      // (tasks, K) combine weights
  std::vector<double> table;       // (tasks, kept) logits for SubRouting::table, in the router's precision
};
struct StackPlan {
  InStack stack = InStack::none;
  SubRouting routing = SubRouting::table;
  index_t choices = 0;  // K
  std::vector<LayerPlan> layers;

  const LayerPlan* find(index_t layer) const {
    for (const auto& l : layers)
      if (l.layer == layer) return &l;
    return nullptr;
  }
};

/// What a layer does with each task: the experts, best first, and their combine weights, both (tasks, K).
template <class R>
struct TaskRoutes {
  std::vector<std::int32_t> chosen;
  std::vector<R> weight;
};

/// Routes tasks 0, 1, ... through the layer's own functors, so that choices, ties and rounding are the layer's.
/// logits (tasks, experts), empty for a router without scores.
template <class Router, class R>
TaskRoutes<R> task_routes(std::vector<R> logits, index_t tasks, index_t experts, const Router& router = {}) {
  static_assert(routed_by_task<Router>, "extract: use a router that chooses by the task alone, Task or StaticTask");
  constexpr int K = Router::top_k;
  const auto n = static_cast<std::size_t>(tasks);
  std::vector<std::int32_t> task(n), count(n, 1), slot(n * K, 0);
  for (std::size_t t = 0; t < n; ++t) task[t] = static_cast<std::int32_t>(t);
  const std::vector<std::uint8_t> valid(n, 1);
  std::vector<R> lse(n), entropy(n);
  TaskRoutes<R> routes{std::vector<std::int32_t>(n * K), std::vector<R>(n * K)};
  const Tokens tokens{tasks, 1, nullptr, valid.data(), task.data(), 0, nullptr};
  const Units units{Router::level, 1, task.data()};
  const Matrix<R> scores(logits.empty() ? nullptr : logits.data(), tasks, experts);
  const RouteRow<Router, R> route{
      router, scores, units, tokens, count.data(), false, Random{}, routes.chosen.data(), lse.data(), entropy.data()};
  const CombineWeights<Router, R> combine{
      {units, routes.chosen.data(), valid.data(), K}, scores, slot.data(), tasks, routes.weight.data()};
  for (index_t t = 0; t < tasks; ++t) route(SerialTeam{}, t);
  for (index_t t = 0; t < tasks; ++t) combine(t);
  return routes;
}

namespace detail {

/// Appends `expert` to `kept` if it is new; its number.
inline index_t number_of(std::vector<index_t>& kept, index_t expert) {
  const auto at = std::find(kept.begin(), kept.end(), expert);
  if (at == kept.end()) kept.push_back(expert);
  return static_cast<index_t>(std::find(kept.begin(), kept.end(), expert) - kept.begin());
}

}  // namespace detail

/// The plan of one layer under a learned table (all tasks, experts): the union of the tasks' experts, in their old
/// order, so that ties are broken as before. Leaving experts out of a softmax does not change w1 / (w1 + w2), but may
/// round it to a neighbouring number.
template <class Router, class R>
LayerPlan plan_learned_layer(index_t layer, const std::vector<R>& table, index_t all_tasks, index_t experts,
                             const std::vector<index_t>& tasks) {
  constexpr int K = Router::top_k;
  const auto routes = task_routes<Router, R>(table, all_tasks, experts);
  LayerPlan plan{layer, experts, {}, {}, {}, {}};
  for (const index_t t : tasks)
    for (int k = 0; k < K; ++k) {
      require(routes.chosen[static_cast<std::size_t>(t * K + k)] >= 0, "extract: task ", t, " has fewer than ", K,
              " experts");
      detail::number_of(plan.kept, routes.chosen[static_cast<std::size_t>(t * K + k)]);
    }
  std::sort(plan.kept.begin(), plan.kept.end());
  for (const index_t t : tasks) {
    const auto first = static_cast<std::size_t>(t * K);
    for (std::size_t k = first; k < first + K; ++k) {
      plan.chosen.push_back(detail::number_of(plan.kept, routes.chosen[k]));
      plan.weight.push_back(static_cast<double>(routes.weight[k]));
    }
    for (const index_t e : plan.kept)
      plan.table.push_back(static_cast<double>(table[static_cast<std::size_t>(t * experts + e)]));
  }
  return plan;
}

/// The plan of one layer under a fixed rule, experts numbered as the tasks come to them. The table, for a sub-network
/// in which the rule names other experts, has 0 for a task's experts and no chance for the others.
template <class Router>
LayerPlan plan_static_layer(index_t layer, index_t all_tasks, index_t experts, const std::vector<index_t>& tasks) {
  constexpr int K = Router::top_k;
  const auto routes = task_routes<Router, double>({}, all_tasks, experts);
  LayerPlan plan{layer, experts, {}, {}, {}, {}};
  for (const index_t t : tasks)
    for (auto k = static_cast<std::size_t>(t * K); k < static_cast<std::size_t>((t + 1) * K); ++k) {
      plan.chosen.push_back(detail::number_of(plan.kept, routes.chosen[k]));
      plan.weight.push_back(routes.weight[k]);
    }
  const std::size_t kept = plan.kept.size();
  plan.table.assign(tasks.size() * kept, -1e4);  // e^-10000 is 0, and a finite logit keeps the entropy finite
  for (std::size_t i = 0; i < plan.chosen.size(); ++i)
    plan.table[i / K * kept + static_cast<std::size_t>(plan.chosen[i])] = 0;
  return plan;
}

/// True if StaticTaskTopK<K> itself picks the planned experts in the layer of the sub-network.
template <int K>
bool static_rule_holds(const LayerPlan& plan) {
  const auto tasks = static_cast<index_t>(plan.chosen.size()) / K, kept = static_cast<index_t>(plan.kept.size());
  const auto routes = task_routes<StaticTaskTopK<K>, double>({}, tasks, kept);
  return std::equal(plan.chosen.begin(), plan.chosen.end(), routes.chosen.begin(), routes.chosen.end());
}

/// Whether the experts of a task are kept as experts, or folded into one feed-forward block.
enum class Fold { no, yes };

/// The plan of a stack for the tasks with these numbers, which become tasks 0, 1, ... in the sub-network.
/// read(l, count, R*) fills the `count` logits of the table of layer l, in the router's precision R.
/// Throws Error for an unknown or repeated task, for folding several tasks, and for a stack without a sparse layer.
template <class Router, class R, class Read>
StackPlan plan_stack(InStack stack, const StackConfig& config, const std::vector<index_t>& tasks, Fold fold,
                     Read&& read) {
  static_assert(routed_by_task<Router>, "extract: use a router that chooses by the task alone, Task or StaticTask");
  require(!tasks.empty(), "extract: name a task");
  require(config.moe.free.count() == 0 && config.moe.shared_hidden == 0,
          "extract: a stack with copies, constants, nulls or a shared expert cannot be cut");
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    require(tasks[i] >= 0 && tasks[i] < config.moe.tasks, "extract: there is no task ", tasks[i], "; the model has ",
            config.moe.tasks);
    require(std::find(tasks.begin(), tasks.begin() + static_cast<std::ptrdiff_t>(i), tasks[i]) ==
                tasks.begin() + static_cast<std::ptrdiff_t>(i),
            "extract: task ", tasks[i], " is named twice");
  }
  require(fold == Fold::no || tasks.size() == 1, "extract: only the experts of one task fold into a dense block; got ",
          tasks.size(), " tasks");
  StackPlan plan{stack, SubRouting::table, Router::top_k, {}};
  bool rule = Router::level == Level::none;
  for (index_t l = 0; l < config.layers; ++l) {
    if (!config.sparse(l)) continue;
    const index_t experts = config.experts_in(l);
    if constexpr (Router::level == Level::none) {
      plan.layers.push_back(plan_static_layer<Router>(l, config.moe.tasks, experts, tasks));
      rule = rule && static_rule_holds<Router::top_k>(plan.layers.back());
    } else {
      std::vector<R> table(static_cast<std::size_t>(config.moe.tasks * experts));
      read(l, config.moe.tasks * experts, table.data());
      plan.layers.push_back(plan_learned_layer<Router, R>(l, table, config.moe.tasks, experts, tasks));
    }
  }
  require(!plan.layers.empty(), "extract: the stack has no sparse layer");
  if (rule) plan.routing = SubRouting::rule;
  if (fold == Fold::yes) plan.routing = SubRouting::folded;
  return plan;
}

/// The configuration of the planned stack in a sub-network of `tasks` tasks.
inline StackConfig extracted_config(StackConfig config, const StackPlan& plan, index_t tasks) {
  const StackConfig before = config;
  config.moe.tasks = tasks;
  config.experts_of_layer.clear();
  config.hidden_of_layer.clear();
  for (index_t l = 0; l < config.layers; ++l) {
    const LayerPlan* layer = plan.find(l);
    const bool folded = layer != nullptr && plan.routing == SubRouting::folded;
    config.experts_of_layer.push_back(folded             ? 0
                                      : layer != nullptr ? static_cast<index_t>(layer->kept.size())
                                                         : before.experts_in(l));
    config.hidden_of_layer.push_back(before.hidden_in(l) * (folded ? plan.choices : 1));
  }
  return config;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// kernels/priority.hpp -- who gets a slot when there are too few: the order in which the choices of a group are counted
// against the capacity. Read next: kernels/dispatch.hpp, nn/dispatch.hpp.
#pragma once

#include "sparsemoe/kernels/dispatch.hpp"
#include "sparsemoe/kernels/order.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// position: first choices in token order, then second choices. random: the tokens of a rank in random order (the same
/// for all ranks). batch: in the order of their best score, highest first (batch-prioritised, V-MoE). score: each
/// expert keeps its choices of highest score, whatever their rank. All ties go to the earlier rank, then the earlier
/// token.
enum class Priority { position, random, batch, score };

/// queue(g): the choices of group g, each as its place in the order of SlotOrder, best first.
template <class R>
struct PriorityQueueRow {
  Priority priority;
  Choices choices;
  SlotOrder order;
  Matrix<const R> scores;  // (T, columns)
  index_t first_column;    // of the experts' scores
  Random random;
  std::int32_t* queue;  // (T K)
  R* key;               // (T K) scratch
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t g) const {
    const index_t start = g * order.group, n = order.group_size(g), count = n * order.top_k;
    std::int32_t* mine = queue + start * order.top_k;
    R* value = key + start * order.top_k;
    for (index_t q = team.lane(); q < count; q += Team::lanes) {
      mine[q] = static_cast<std::int32_t>(q);
      value[q] = key_of(start + q % n, q / n);
    }
    (void)team.sum(R(0));
    if (team.lane() != 0) return;
    const bool by_rank = priority != Priority::score;
    sort_indices(mine, count, [&](std::int32_t a, std::int32_t b) {
      if (by_rank && a / n != b / n) return a / n < b / n;
      return value[a] != value[b] ? value[a] > value[b] : a < b;
    });
  }

 private:
  SPARSEMOE_HD R key_of(index_t t, index_t k) const {
    if (priority == Priority::random) return R(random.uniform(Purpose::slot, static_cast<std::uint64_t>(t)));
    const std::int32_t v = choices.at(t, priority == Priority::score ? k : 0);
    return v != -1 ? scores(t, first_column + Choice<1>::expert_of(v)) : R(-1);
  }
};
/// kept(e, chunk) counted again in the order in which slots are given, after choices were kept in another.
struct CountKept {
  Choices choices;
  SlotOrder order;
  const std::int32_t* slot;   // (K T)
  Matrix<std::int32_t> kept;  // (E, chunks)
  SPARSEMOE_HD void operator()(index_t chunk) const {
    for (index_t e = 0; e < kept.rows; ++e) kept(e, chunk) = 0;
    for (index_t q = order.begin(chunk); q < order.end(chunk); ++q) {
      const auto p = order.place(chunk, q);
      if (slot[p.k * order.tokens + p.t] >= 0) ++kept(choices.at(p.t, p.k), chunk);
    }
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

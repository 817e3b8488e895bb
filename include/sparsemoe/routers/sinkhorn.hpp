// SPDX-License-Identifier: Apache-2.0
// routers/sinkhorn.hpp -- Sinkhorn routing (Clark et al. 2022; the form of Megatron-LM): in training each token takes
// the k best of a transport plan whose rows and columns are balanced; the weights are those of the plain scores, so the
// plan carries no gradient. In evaluation the k best scores. Read next: routers/base.hpp, routers/sigmoid.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Weights: sigmoid of the logit for one choice, the softmax over all experts for more, neither renormalised.
template <int K = 1>
struct Sinkhorn {
  static constexpr int top_k = K;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::probability;
  static constexpr Score score = K == 1 ? Score::sigmoid : Score::softmax;
  static constexpr Balance balance = Balance::none;
  double tolerance = 1e-4;  // mean change of a column's potential
  int iterations = 100;     // at most

  /// The plan is exp(logit + row + column). A row's own factor does not change its order, so that only the columns'
  /// potentials are kept; all in log space, where no logit overflows.
  template <class Team, class T>
  SPARSEMOE_HD void assign(Team team, const Assignment<T>& group) const {
    T *row = group.values, *column = row + group.tokens();
    for (index_t e = team.lane(); e < group.experts(); e += Team::lanes) column[e] = T(0);
    (void)team.sum(T(0));
    if (group.training) balance_columns(team, group, row, column);
    for (index_t t = team.lane(); t < group.tokens(); t += Team::lanes) {
      if (group.valid[t] == 0) continue;
      const Choice<K> c = best_of<K>(group.experts(), [&](index_t e) { return group.logit(t, e) + column[e]; });
      for (int k = 0; k < K; ++k) group.chosen(t, k) = c.expert[k];
    }
  }

 private:
  template <class Team, class T>
  SPARSEMOE_HD void balance_columns(Team team, const Assignment<T>& group, T* row, T* column) const {
    const index_t n = group.tokens(), E = group.experts();
    const index_t valid = group.valid_tokens();
    if (valid == 0) return;
    for (int i = 0; i < iterations; ++i) {
      for (index_t t = team.lane(); t < n; t += Team::lanes)
        if (group.valid[t] != 0)
          row[t] = -log_sum(E, [&](index_t e) { return group.logit(t, e) + column[e]; }) - std::log(T(valid));
      T change = team.sum(T(0));  // the rows are there for all lanes
      for (index_t e = team.lane(); e < E; e += Team::lanes) {
        const T to = -log_sum(n, [&](index_t t) {
          return group.valid[t] != 0 ? group.logit(t, e) + row[t] : T(-1e30);
        }) - std::log(T(E));
        change += std::abs(to - column[e]);
        column[e] = to;
      }
      if (team.sum(change) < T(tolerance) * T(E)) return;
    }
  }
  template <class F>
  SPARSEMOE_HD static auto log_sum(index_t n, const F& value) {
    auto top = value(0);
    for (index_t i = 1; i < n; ++i) top = value(i) > top ? value(i) : top;
    decltype(top) total = 0;
    for (index_t i = 0; i < n; ++i) total += std::exp(value(i) - top);
    return top + std::log(total);
  }
};
static_assert(check_router<Sinkhorn<1>>() && check_router<Sinkhorn<2>>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

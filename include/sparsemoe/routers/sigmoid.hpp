// SPDX-License-Identifier: Apache-2.0
// routers/sigmoid.hpp -- sigmoid scores with a selection bias in place of a balance loss, and limits on the groups of
// experts a token may use (DeepSeek-V3, section 2.1.2). Read next: routers/top_k.hpp.
#pragma once

#include <vector>

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Chooses by score + bias, weighs by the scores alone: s_e over the sum of the chosen, times weight_scale. With groups
/// > 1 only the kept_groups groups whose two largest s + b sum highest are looked at.
template <int K = 8>
struct SigmoidTopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::normalised;
  static constexpr Score score = Score::sigmoid;
  const float* bias = nullptr;  // (E) in the backend's memory; no gradient; null: 0. Keep it with the checkpoint.
  index_t groups = 1, kept_groups = 1;
  double weight_scale = 1;  // 2.5 in DeepSeek-V3

  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    const auto biased = [&](index_t e) { return p[e] + (bias != nullptr ? T(bias[e]) : T(0)); };
    const index_t size = p.size() / groups;
    const auto group_score = [&](index_t g) {
      const Choice<2> two = best_of<2>(size, [&](index_t i) { return biased(g * size + i); });
      return biased(g * size + two.expert[0]) + (two.expert[1] >= 0 ? biased(g * size + two.expert[1]) : T(0));
    };
    const auto kept = [&](index_t g) {  // how many groups come before it
      index_t before = 0;
      for (index_t o = 0; o < groups; ++o)
        before += group_score(o) > group_score(g) || (group_score(o) == group_score(g) && o < g) ? 1 : 0;
      return before < kept_groups;
    };
    if (groups <= 1) return best_of<K>(p.size(), biased);
    // The kept groups' experts keep their order, so that ties still go to the lower one.
    Choice<K> c;
    T value[K];
    for (int k = 0; k < K; ++k) c.expert[k] = Choice<K>::none;
    for (index_t g = 0; g < groups; ++g)
      if (kept(g))
        for (index_t e = g * size; e < (g + 1) * size; ++e) insert_best(c, value, e, biased(e));
    return c;
  }
};
static_assert(check_router<SigmoidTopK<>>());

/// After each optimiser step: b_e += gamma sign(mean - count_e), sign(0) = 0; counts of the global batch, before any is
/// dropped (RoutingStatistics::load, summed over ranks and micro-batches).
inline void update_selection_bias(std::vector<float>& bias, const std::vector<std::int64_t>& counts,
                                  double gamma = 1e-3) {
  std::int64_t total = 0;
  for (const auto n : counts) total += n;
  for (std::size_t e = 0; e < bias.size(); ++e) {
    const std::int64_t excess = counts[e] * static_cast<std::int64_t>(bias.size()) - total;
    bias[e] += static_cast<float>(excess < 0 ? gamma : excess > 0 ? -gamma : 0.0);
  }
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

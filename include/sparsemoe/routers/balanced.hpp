// SPDX-License-Identifier: Apache-2.0
// routers/balanced.hpp -- strictly balanced gating (Shazeer et al. 2017, appendix F): in training each expert takes the
// m = k n / E tokens of the batch that score it highest; in evaluation a token takes the experts whose scores are above
// learned thresholds. The loss (M_threshold - M_batch)(score - T) moves thresholds and scores together; masks are
// constants. Read next: kernels/thresholds.hpp; routers/expert_choice.hpp, its descendant.
#pragma once

#include "sparsemoe/kernels/order.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// In training the mask sees the whole batch, as in the paper; in evaluation each token is on its own.
struct StrictlyBalanced {
  static constexpr int top_k = any_number;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::normalised;
  static constexpr bool can_drop_tokens = false;
  static constexpr bool learned_thresholds = true;
  double k = 4;  // experts a token gets on average

  SPARSEMOE_HD index_t share(index_t n, index_t experts) const {
    const auto m = static_cast<index_t>(k * static_cast<double>(n) / static_cast<double>(experts));
    return m < 1 ? (n < 1 ? n : 1) : m < n ? m : n;
  }
  SPARSEMOE_HD index_t most_choices(index_t tokens, index_t experts, bool training) const {
    return experts * (training ? share(tokens, experts) : tokens);
  }
  template <class Team, class T>
  SPARSEMOE_HD void assign(Team team, const Assignment<T>& group) const {
    for (index_t e = team.lane(); e < group.experts(); e += Team::lanes) {
      if (group.training) {
        const index_t n = share(order_tokens(group, e), group.experts());
        for (index_t i = 0; i < n; ++i) group.chosen(group.order(e, i), e) = static_cast<std::int32_t>(e);
      } else {
        for (index_t t = 0; t < group.tokens(); ++t)
          if (group.valid[t] != 0 && group.scores(t, e) > group.thresholds[e])
            group.chosen(t, e) = static_cast<std::int32_t>(e);
      }
    }
  }
};
static_assert(check_router<StrictlyBalanced>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

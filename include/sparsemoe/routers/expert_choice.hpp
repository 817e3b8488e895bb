// SPDX-License-Identifier: Apache-2.0
// routers/expert_choice.hpp -- expert choice (Zhou et al. 2022, equations 1-4): each expert takes the tokens that score
// it highest, so loads are equal by construction and a token gets from no expert to all. There is no balance loss. A
// token's fate depends on the tokens after it: for encoders alone. Read next: kernels/order.hpp; routers/balanced.hpp,
// its ancestor; routers/base.hpp.
#pragma once

#include "sparsemoe/kernels/order.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Weight p(t, e) as it is. A group is a sentence unless MoeConfig::group says how many tokens make one, so that a
/// sentence's result does not depend on the batch it stands in.
struct ExpertChoice {
  static constexpr int top_k = any_number;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::probability;
  static constexpr bool causal_safe = false;
  static constexpr bool can_drop_tokens = false;
  static constexpr bool sentence_groups = true;
  double factor = 2;  // c of the paper: experts a token gets on average

  /// Tokens an expert takes of n: floor(c n / E), at least 1 and at most all.
  SPARSEMOE_HD index_t share(index_t n, index_t experts) const {
    const auto k = static_cast<index_t>(factor * static_cast<double>(n) / static_cast<double>(experts));
    return k < 1 ? (n < 1 ? n : 1) : k < n ? k : n;
  }
  SPARSEMOE_HD index_t most_choices(index_t tokens, index_t experts, bool) const {
    return experts * share(tokens, experts);
  }
  template <class Team, class T>
  SPARSEMOE_HD void assign(Team team, const Assignment<T>& group) const {
    for (index_t e = team.lane(); e < group.experts(); e += Team::lanes) {
      const index_t n = share(order_tokens(group, e), group.experts());
      for (index_t i = 0; i < n; ++i) group.chosen(group.order(e, i), e) = static_cast<std::int32_t>(e);
    }
  }
};
static_assert(check_router<ExpertChoice>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

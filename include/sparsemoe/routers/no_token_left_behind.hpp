// SPDX-License-Identifier: Apache-2.0
// routers/no_token_left_behind.hpp -- Switch routing that sends what overflows an expert to the next best one, a few
// times over (Fedus et al. 2021, appendix B). What is still left is dropped. Read next: routers/expert_choice.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Choice 0 is the best expert, rejected if it overflowed; choice 1 is where the token went then. The weight is the raw
/// probability of the expert that takes it; the balance loss counts the best, before capacity.
struct NoTokenLeftBehind {
  static constexpr int top_k = 2;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::probability;
  static constexpr Balance balance = Balance::first_choice;
  int rounds = 4;  // experts tried

  template <class Team, class T>
  SPARSEMOE_HD void assign(Team team, const Assignment<T>& group) const {
    for (index_t t = team.lane(); t < group.tokens(); t += Team::lanes)
      if (group.valid[t] != 0) group.chosen(t, 0) = best<1>(group.scores.row(t)).expert[0];
    (void)team.sum(T(0));
    if (group.capacity > 0 && team.lane() == 0) resend(group);
  }

 private:
  template <class T>
  SPARSEMOE_HD void resend(const Assignment<T>& group) const {
    const index_t E = group.experts();
    T *taken = group.values, *tried = taken + E;
    for (index_t e = 0; e < E; ++e) taken[e] = T(0);
    for (int round = 0; round < rounds; ++round)
      for (index_t t = 0; t < group.tokens(); ++t) {
        if (group.valid[t] == 0 || (round > 0 && (group.chosen(t, 0) >= 0 || group.chosen(t, 1) >= 0))) continue;
        const std::int32_t e = round == 0 ? group.chosen(t, 0) : after(group.scores.row(t), index_t(tried[t]));
        if (e < 0) continue;
        tried[t] = T(e);
        if (taken[e] < T(group.capacity))
          taken[e] += T(1), group.chosen(t, round == 0 ? 0 : 1) = e;
        else if (round == 0)
          group.chosen(t, 0) = Choice<2>::rejected(e);
      }
  }
  /// The best expert after `last` in the order of best(); -1 if there is none.
  template <class T>
  SPARSEMOE_HD static std::int32_t after(Row<const T> p, index_t last) {
    std::int32_t found = -1;
    for (index_t e = 0; e < p.size(); ++e)
      if ((p[e] < p[last] || (p[e] == p[last] && e > last)) && (found < 0 || p[e] > p[found]))
        found = static_cast<std::int32_t>(e);
    return found;
  }
};
static_assert(check_router<NoTokenLeftBehind>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

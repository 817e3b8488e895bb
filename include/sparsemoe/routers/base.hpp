// SPDX-License-Identifier: Apache-2.0
// routers/base.hpp -- BASE layers (Lewis et al. 2021): in training tokens are shared out so that each expert gets the
// same number and the sum of scores is largest; in evaluation each token takes its best. There is no balance loss. The
// weight is sigmoid(score): with a residual around the layer that is the paper's mix alpha B(x) + (1 - alpha) x. Read
// next: routers/sinkhorn.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The assignment is an auction (Bertsekas): a token without a place bids for the expert that is worth most to it, by
/// what it is worth beyond the next best and an increment; an expert holds its ceil(n / E) highest bids. The sum of
/// scores is then within n increments of the best possible. After `rounds` passes over the tokens those left go, in
/// order, to the best expert with a place.
struct Base {
  static constexpr int top_k = 1;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::probability;
  static constexpr Score score = Score::sigmoid;
  static constexpr Balance balance = Balance::none;
  static constexpr bool can_drop_tokens = false;
  double increment = 1.0 / 50, least_increment = 1e-4;  // as a part of the largest difference of scores; absolute
  int rounds = 100;

  template <class Team, class T>
  SPARSEMOE_HD void assign(Team team, const Assignment<T>& group) const {
    if (!group.training) {
      for (index_t t = team.lane(); t < group.tokens(); t += Team::lanes)
        if (group.valid[t] != 0) group.chosen(t, 0) = best<1>(group.scores.row(t)).expert[0];
    } else if (team.lane() == 0) {
      auction(group);
    }
  }

 private:
  template <class T>
  SPARSEMOE_HD void auction(const Assignment<T>& group) const {
    const index_t n = group.tokens(), E = group.experts();
    const index_t places = (group.valid_tokens() + E - 1) / E;
    T *bid = group.values, *price = bid + n, *held = price + E;
    T low = T(1e30), high = T(-1e30);
    for (index_t e = 0; e < E; ++e) price[e] = held[e] = T(0);
    for (index_t t = 0; t < n; ++t)
      for (index_t e = 0; e < E && group.valid[t] != 0; ++e) {
        const T s = group.logit(t, e);
        low = s < low ? s : low;
        high = s > high ? s : high;
      }
    const T least = T(least_increment),
            step = T(increment) * (high - low) > least ? T(increment) * (high - low) : least;
    bool left = true;
    for (int round = 0; round < rounds && left; ++round) {
      left = false;
      for (index_t t = 0; t < n; ++t) {
        if (group.valid[t] == 0 || group.chosen(t, 0) >= 0) continue;
        left = true;
        index_t e = 0;
        T first = T(-1e30), second = T(-1e30);
        for (index_t i = 0; i < E; ++i) {
          const T worth = group.logit(t, i) - price[i];
          if (worth > first)
            second = first, first = worth, e = i;
          else if (worth > second)
            second = worth;
        }
        bid[t] = price[e] + (E > 1 ? first - second : T(0)) + step;
        take(group, t, e, places, bid, price, held);
      }
    }
    for (index_t t = 0; t < n; ++t) {
      if (group.valid[t] == 0 || group.chosen(t, 0) >= 0) continue;
      std::int32_t e = -1;
      for (index_t i = 0; i < E; ++i)
        if (held[i] < T(places) && (e < 0 || group.logit(t, i) > group.logit(t, e))) e = static_cast<std::int32_t>(i);
      group.chosen(t, 0) = e;
      held[e] += T(1);
    }
  }
  /// Expert e takes token t; if it is full it lets go of the lowest bid, and its price is then the lowest it holds.
  template <class T>
  SPARSEMOE_HD static void take(const Assignment<T>& group, index_t t, index_t e, index_t places, const T* bid,
                                T* price, T* held) {
    std::int32_t* mine = group.order.row(e).data;
    auto n = static_cast<index_t>(held[e]);
    const auto lowest = [&] {
      index_t at = 0;
      for (index_t i = 1; i < n; ++i)
        if (bid[mine[i]] < bid[mine[at]]) at = i;
      return at;
    };
    if (n == places) {
      const index_t at = lowest();
      group.chosen(mine[at], 0) = Choice<1>::none;
      mine[at] = static_cast<std::int32_t>(t);
    } else {
      mine[n++] = static_cast<std::int32_t>(t);
      held[e] = T(n);
    }
    group.chosen(t, 0) = static_cast<std::int32_t>(e);
    if (n == places) price[e] = bid[mine[lowest()]];
  }
};
static_assert(check_router<Base>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

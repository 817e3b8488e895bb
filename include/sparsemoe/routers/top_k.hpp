// SPDX-License-Identifier: Apache-2.0
// routers/top_k.hpp -- token-level routing to the k best experts: TopK, and GShard's top-2 with a random second expert.
// The gate scores every token; weights are renormalised over the chosen. Read next: kernels/best.hpp;
// routers/switch.hpp, routers/noisy.hpp; nn/moe.hpp for what is done with a choice.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The k most probable experts, weights p_e / (sum over the chosen).
template <int K = 2>
struct TopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::normalised;
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    return best<K>(p);
  }
};
static_assert(check_router<TopK<2>>());

/// TopK with k chosen at run time, 1 to 8: the same bits as TopK<k>.
struct AnyTopK {
  static constexpr int top_k = 8;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::normalised;
  int k = 2;
  SPARSEMOE_HD index_t experts_per_token() const { return k; }
  template <class T>
  SPARSEMOE_HD Choice<8> choose(Row<const T> p, const TokenInfo&) const {
    return best<8>(p);
  }
};
static_assert(check_router<AnyTopK>());

/// GShard Algorithm 1 (Lepikhin et al. 2020, section 2.2): the second expert is dispatched with probability
/// min(1, 2 g2 / (g1 + g2)) in training; a rejected second choice takes a slot, as in the paper, or not, as in code.
template <Gate Renormalise = Gate::normalised, bool RejectedConsumesSlot = false>
struct GShard {
  static constexpr int top_k = 2;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Renormalise;
  static constexpr Balance balance = Balance::first_choice;
  static constexpr bool rejected_consumes_slot = RejectedConsumesSlot;
  bool random_second = true;
  template <class T, class Info>  // TokenInfo, or a stand-in with recorded draws
  SPARSEMOE_HD Choice<2> choose(Row<const T> p, const Info& info) const {
    Choice<2> c = best<2>(p);
    if (random_second && info.training && c.expert[1] >= 0) {
      const T g1 = p[c.expert[0]], g2 = p[c.expert[1]];
      if (!(T(2) * g2 / (g1 + g2) > T(info.uniform(0)))) c.expert[1] = Choice<2>::rejected(c.expert[1]);
    }
    return c;
  }
};
static_assert(check_router<GShard<>>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// routers/noisy.hpp -- noisy top-k gating (Shazeer et al. 2017, section 2.1): learned noise on the logits, the k
// largest are kept, a softmax over them; balanced by the importance and load losses. Weights of gate and noise start at
// 0. Read next: kernels/noise.hpp, routers/hierarchical.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The k largest noisy logits; normalising the softmax over the chosen is the softmax after the selection (equation 3).
template <int K = 4>
struct NoisyTopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::normalised;
  static constexpr Balance balance = Balance::importance;
  double noise_epsilon = 1e-2;  // added to softplus(x W_noise): 0 in the paper, 1e-2 in its authors' code
  SPARSEMOE_HD double noise(const Random& random, std::uint64_t index) const {
    return random.normal(Purpose::gate_noise, index);
  }
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    return best<K>(p);
  }
};
static_assert(check_router<NoisyTopK<4>>());

/// NoisyTopK with k chosen at run time, 1 to 8: the same bits as NoisyTopK<k>.
struct AnyNoisyTopK : NoisyTopK<8> {
  int k = 4;
  SPARSEMOE_HD index_t experts_per_token() const { return k; }
};
static_assert(check_router<AnyNoisyTopK>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

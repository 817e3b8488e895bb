// SPDX-License-Identifier: Apache-2.0
// routers/sentence.hpp -- sentence-level routing (Kudugunta et al. 2021, section 3.1): the gate scores the mean of a
// sentence's states, and all its tokens go to the same experts. What a decoder averages the paper does not say, and the
// target's own mean would see the future: Sentence takes the mean of the source sentence (constant over the output, our
// default), SentencePrefix the mean of the target up to the token. No token is dropped.
// Read next: routers/task.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <int K = 2>
struct SentenceTopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::sentence;
  static constexpr Gate gate = Gate::normalised;
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    return best<K>(p);
  }
};
using Sentence = SentenceTopK<2>;
static_assert(check_router<Sentence>());

/// In decoders only: each token is scored by the mean of its sentence's states so far, so that experts may change as
/// the sentence grows.
template <int K = 2>
struct SentencePrefixTopK {
  static constexpr int top_k = K;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::normalised;
  static constexpr GateInput gate_input = GateInput::prefix_mean;
  static constexpr bool can_drop_tokens = false;
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    return best<K>(p);
  }
};
using SentencePrefix = SentencePrefixTopK<2>;
static_assert(check_router<SentencePrefix>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// routers/sentence.hpp -- sentence-level routing (Kudugunta et al. 2021, section 3.1): the gate scores the mean of a
// sentence's states, and all its tokens go to the same experts. In a decoder the mean is that of the source sentence:
// the paper does not say, and the target's own mean would see the future. No token is dropped.
// Read next: routers/task.hpp.
#pragma once

#include "sparsemoe/routers/best.hpp"

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

}  // namespace sparsemoe::inline SPARSEMOE_ABI

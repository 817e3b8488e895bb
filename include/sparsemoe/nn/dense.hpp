// SPDX-License-Identifier: Apache-2.0
// nn/dense.hpp -- stacks without sparse layers, and the defaults a Spec inherits.
// Read next: model/encoder.hpp.
#pragma once

#include "sparsemoe/feed.hpp"
#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/nn/norm.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What a Spec may override beyond Router, Precision, Backend and Collective: inherit from this.
struct SpecDefaults {
  using Activation = Relu;
  template <class P, class B>
  using Norm = LayerNorm<P, B>;
};

template <class Spec>
inline constexpr bool is_dense = std::is_same_v<typename Spec::Router, Dense>;

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// nn/dense.hpp -- Dense: the "router" of a stack without sparse layers, and the defaults a Spec inherits.
// Read next: model/encoder.hpp.
#pragma once

#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/nn/norm.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// using Router = Dense: every feed-forward block is dense, whatever the configuration says; no routing code is left.
struct Dense {};

/// What a Spec may override beyond Router, Precision, Backend and Collective: inherit from this.
struct SpecDefaults {
  using Activation = Relu;
  template <class P, class B>
  using Norm = LayerNorm<P, B>;
};

template <class Spec>
inline constexpr bool is_dense = std::is_same_v<typename Spec::Router, Dense>;

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// model/sparse_names.hpp -- how the leaves of a sparse layer and of the dense block in its place are named: what is
// written here belongs to FeedForwardPart::Params::visit (model/stack.hpp). Read next: model/upcycle.hpp.
#pragma once

#include <string>
#include <string_view>

#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

inline constexpr std::string_view sparse_part = "moe.", dense_part = "ffn.";
inline constexpr std::string_view experts_part = "moe.experts.", gate_part = "moe.router.weight";

namespace detail {
/// Where the sparse layer's own part of an expert leaf's name begins. Throws Error for a name of another form.
inline std::size_t experts_at(const std::string& leaf) {
  const std::size_t at = leaf.rfind(experts_part);
  require(at != std::string::npos, "model: '", leaf, "' is a leaf of experts, expected '", experts_part,
          "' in its name");
  return at;
}
}  // namespace detail

/// "decoder.layers.1.ffn.wi" for "decoder.layers.1.moe.experts.wi".
inline std::string dense_name(const std::string& leaf_of_experts) {
  std::string name = leaf_of_experts;
  return name.replace(detail::experts_at(name), experts_part.size(), dense_part);
}

/// "decoder.layers.1.moe.router.weight" for "decoder.layers.1.moe.experts.wi".
inline std::string gate_name(const std::string& leaf_of_experts) {
  return leaf_of_experts.substr(0, detail::experts_at(leaf_of_experts)) + std::string(gate_part);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// model/stack_config.hpp -- the configuration of a stack, with a field list for JSON, command lines and their errors.
// Read next: nn/moe_config.hpp, model/stack.hpp.
#pragma once

#include <vector>

#include "sparsemoe/nn/moe_config.hpp"
#include "sparsemoe/nn/rotation.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Sizes and coefficients of one stack; everything here is a run-time value.
struct StackConfig {
  index_t layers = 2, width = 256, heads = 4, head_width = 64, hidden = 1024;
  index_t sparse_every = 2;  // layer i is sparse if (i + 1) % sparse_every == 0; 0: none is
  double dropout = 0;
  bool bias = true;                   // of the dense layers and projections
  bool relative_positions = false;    // T5 position bias in self-attention
  bool relative_every_layer = false;  // each layer has a table of its own (UMT5), not one all together
  index_t buckets = 32, max_distance = 128;
  double attention_scale = 0;  // 0: head_width^-0.5
  index_t kv_heads = 0;        // heads of keys and values, shared by groups of query heads; 0: heads
  double rotary_theta = 0;     // rotary positions in self-attention with this base, 10000 or more; 0: none
  RotaryScaling rotary;        // what else changes their angles
  index_t window = 0;          // a decoder's token sees itself and the window - 1 before it; 0: all
  double norm_epsilon = 1e-6;
  MoeConfig moe;  // width, hidden and bias are taken from this stack
  // What differs from layer to layer, as in an extracted sub-network (model/extract.hpp); empty: nothing does.
  std::vector<index_t> experts_of_layer;  // (layers) 0: a dense layer; in place of moe.experts and sparse_every
  std::vector<index_t> hidden_of_layer;   // (layers) in place of hidden

  /// The field list (io/json_config.hpp), with that of the sparse layers.
  template <class F>
  void visit(F&& f) {
    f("layers", layers, "layers");
    f("width", width, "model width");
    f("heads", heads, "attention heads");
    f("head_width", head_width, "width of a head");
    f("hidden", hidden, "hidden width of a feed-forward network or expert");
    f("sparse_every", sparse_every, "every so many-th layer is sparse");
    f("dropout", dropout, "dropout of embeddings and residual branches");
    f("bias", bias, "biases of dense layers and projections");
    f("relative_positions", relative_positions, "T5 relative position bias in place of sinusoids");
    f("relative_every_layer", relative_every_layer, "each layer has a table of them of its own");
    f("buckets", buckets, "buckets of relative positions");
    f("max_distance", max_distance, "distance from which on they share a bucket");
    f("attention_scale", attention_scale, "of attention scores; 0: one over the root of the head's width");
    f("kv_heads", kv_heads, "heads of keys and values, shared by groups of query heads; 0: heads");
    f("rotary_theta", rotary_theta, "base of rotary positions in self-attention; 0: none");
    f("rotary", rotary, "what else changes their angles");
    f("window", window, "tokens that a decoder's token sees, itself the last; 0: all");
    f("norm_epsilon", norm_epsilon, "epsilon of the norms");
    moe.visit(f);
    f("experts_of_layer", experts_of_layer, "experts of each layer, 0 if dense; none: by experts and sparse_every");
    f("hidden_of_layer", hidden_of_layer, "hidden width of each layer; none: hidden");
  }

  bool sparse(index_t layer) const {
    if (!experts_of_layer.empty()) return experts_of_layer[static_cast<std::size_t>(layer)] > 0;
    return sparse_every > 0 && (layer + 1) % sparse_every == 0;
  }
  /// Experts of a layer; 0 in a dense one.
  index_t experts_in(index_t layer) const {
    if (!experts_of_layer.empty()) return experts_of_layer[static_cast<std::size_t>(layer)];
    return sparse(layer) ? moe.experts : 0;
  }
  /// Tables of relative positions in the stack.
  index_t position_tables() const { return !relative_positions ? 0 : relative_every_layer ? layers : 1; }
  index_t hidden_in(index_t layer) const {
    return hidden_of_layer.empty() ? hidden : hidden_of_layer[static_cast<std::size_t>(layer)];
  }
  void check(const char* stack) const {
    require(layers >= 1 && width >= 1 && heads >= 1 && head_width >= 1 && hidden >= 1, stack,
            ": layers, width, heads, head width and hidden width must be at least 1; got ", layers, ", ", width, ", ",
            heads, ", ", head_width, " and ", hidden);
    require(kv_heads >= 0 && heads % (kv_heads > 0 ? kv_heads : heads) == 0, stack, ": kv_heads must divide the ",
            heads, " heads; got ", kv_heads);
    require(rotary_theta == 0 || (rotary_theta >= 1 && head_width % 2 == 0), stack,
            ": rotary positions need a base of at least 1 and an even head width; got ", rotary_theta, " and ",
            head_width);
    rotary.check(stack, head_width);
    require(!relative_positions || (buckets >= 4 && max_distance > buckets / 2), stack,
            ": relative positions need 4 buckets or more and a largest distance above ", buckets / 2, "; got ", buckets,
            " and ", max_distance);
    require(window >= 0, stack, ": window must not be negative; got ", window);
    require(dropout >= 0 && dropout < 1, stack, ": dropout must be in [0, 1); got ", dropout);
    require(sparse_every >= 0, stack, ": sparse-every must not be negative; got ", sparse_every);
    const auto check_list = [&](const std::vector<index_t>& list, index_t least, const char* what) {
      require(list.empty() || static_cast<index_t>(list.size()) == layers, stack, ": give ", what, " for each of the ",
              layers, " layers or for none; got ", list.size());
      for (const index_t n : list)
        require(n >= least, stack, ": ", what, " of a layer must be at least ", least, "; got ", n);
    };
    check_list(experts_of_layer, 0, "the number of experts");
    check_list(hidden_of_layer, 1, "the hidden width");
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

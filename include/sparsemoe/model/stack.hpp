// model/stack.hpp -- what encoder and decoder stacks share: the configuration, and the feed-forward half of a layer,
// dense or sparse by the layer's number. Read next: nn/dense.hpp, model/encoder.hpp, model/decoder.hpp.
#pragma once

#include <vector>

#include "sparsemoe/model/sparse_names.hpp"
#include "sparsemoe/nn/attention.hpp"
#include "sparsemoe/nn/block.hpp"
#include "sparsemoe/nn/dense.hpp"
#include "sparsemoe/nn/relative_position.hpp"
#include "sparsemoe/nn/stack_loss.hpp"

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

/// The feed-forward half of a layer.
template <class Spec>
class FeedForwardPart {
 public:
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Context = typename B::Context;
  using Collective = typename Spec::Collective;
  using Ffn = FeedForward<P, B, typename Spec::Activation>;
  static constexpr bool dense_only = is_dense<Spec>;
  using Sparse = typename detail::SparseOf<Spec>::type;

  FeedForwardPart(const StackConfig& config, index_t layer, bool external_pool, bool causal) {
    sparse_ = !dense_only && config.sparse(layer);
    if constexpr (!dense_only) {
      if (sparse_) {
        MoeConfig moe = config.moe;
        moe.width = config.width;
        moe.hidden = config.hidden_in(layer);
        moe.experts = config.experts_in(layer);
        moe.bias = config.bias;
        moe.external_pool = external_pool;
        moe.causal = causal;
        moe_ = MoE<Spec>(moe);
      }
    }
    if (!sparse_) ffn_ = Ffn::make(config.width, config.hidden_in(layer), config.bias, 0, config.moe.init_scale);
  }

  template <class T>
  struct Params {
    bool sparse = false;
    typename Ffn::template Params<T> ffn;
    typename Sparse::template Params<T> moe;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      if (sparse)
        moe.visit(prefix + std::string(sparse_part), f);
      else
        ffn.visit(prefix + std::string(dense_part), f);
    }
  };
  struct Cache {
    typename Ffn::Cache ffn;
    typename Sparse::Cache moe;
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    p.sparse = sparse_;
    if (sparse_)
      p.moe = moe_.template params<T>();
    else
      p.ffn = ffn_.template params<T>();
    return p;
  }
  bool sparse() const { return sparse_; }
  const Sparse& moe() const { return moe_; }
  Sparse& moe() { return moe_; }
  /// For an activation that is chosen at run time (kernels/elementwise.hpp).
  void set_activation(const typename Spec::Activation& activation) {
    ffn_.inner.activation = activation;
    if constexpr (!dense_only) moe_.set_activation(activation);
  }

  /// MoE::fetch of a sparse layer.
  void fetch(Context& ctx, const Params<const S>& w, const Tokens& tokens, Cache& c) const {
    if constexpr (!dense_only)
      if (sparse_) moe_.fetch(ctx, w.moe, tokens, c.moe);
  }
  void forward(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Matrix<S> y, Cache& c,
               Collective& comm, Matrix<const R> pool = {}) const {
    if constexpr (!dense_only)
      if (sparse_) return moe_.forward(ctx, w.moe, tokens, x, y, c.moe, comm, pool);
    ffn_.forward(ctx, w.ffn, x, y, c.ffn);
  }
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens, Matrix<const S> x,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c, double loss_scale, Matrix<R> dpool = {}) const {
    if constexpr (!dense_only)
      if (sparse_) return moe_.backward(ctx, w.moe, dw.moe, tokens, x, dy, dx, c.moe, loss_scale, dpool);
    ffn_.backward(ctx, w.ffn, dw.ffn, x, dy, dx, c.ffn);
  }

 private:
  bool sparse_ = false;
  Ffn ffn_;
  Sparse moe_;
};

/// What a sparse layer of a stack did, for logs: the last forward pass.
struct LayerStatistics {
  index_t layer = 0;
  double weighted_loss = 0;
  RoutingStatistics routing;
};

/// Numbers the random streams of a model: every layer of every stack has its own.
inline std::uint32_t layer_stream(bool decoder, index_t layer, int part) {
  return static_cast<std::uint32_t>(((layer * 2 + (decoder ? 1 : 0)) * 4 + part) + 1);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

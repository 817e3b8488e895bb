// SPDX-License-Identifier: Apache-2.0
// model/stack.hpp -- what encoder and decoder stacks share: the feed-forward half of a layer, dense or sparse by the
// layer's number. Read next: model/stack_config.hpp, nn/dense.hpp, model/encoder.hpp, model/decoder.hpp.
#pragma once

#include <vector>

#include "sparsemoe/model/sparse_names.hpp"
#include "sparsemoe/model/stack_config.hpp"
#include "sparsemoe/nn/attention.hpp"
#include "sparsemoe/nn/block.hpp"
#include "sparsemoe/nn/dense.hpp"
#include "sparsemoe/nn/relative_position.hpp"
#include "sparsemoe/nn/stack_loss.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

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

// SPDX-License-Identifier: Apache-2.0
// model/encoder.hpp -- a stack of encoder layers: self-attention, then a dense or sparse feed-forward, both pre-norm
// residual; a norm at the end. Depth is a loop over one layer type; weights and caches are bound to the object.
// Read next: model/stack.hpp, model/decoder.hpp.
#pragma once

#include "sparsemoe/model/stack.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class SpecType>
class Encoder {
 public:
  using Spec = SpecType;
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using Collective = typename Spec::Collective;
  using Norm = typename Spec::template Norm<P, B>;
  using Position = RelativePosition<P, B>;
  static_assert(check_spec<Spec>());
  static_assert(
      [] {
        if constexpr (is_dense<Spec>)
          return true;
        else
          return RouterTraits<typename Spec::Router>::gate_input == GateInput::state;
      }(),
      "encoder: use Sentence in place of SentencePrefix; an encoder sees the whole sentence");

  explicit Encoder(const StackConfig& config)
      : config_(config),
        position_{config.heads, config.buckets, config.max_distance, true},
        norm_{config.width, config.norm_epsilon} {
    config.check("encoder");
    require(config.window == 0, "encoder: a window is for causal attention, of a decoder; got ", config.window);
    const double scale =
        config.attention_scale > 0 ? config.attention_scale : 1 / std::sqrt(static_cast<double>(config.head_width));
    attention_ = {config.width, config.heads,          config.head_width, config.bias,
                  scale,        config.moe.init_scale, config.kv_heads};
    for (index_t l = 0; l < config.layers; ++l) feed_.emplace_back(config, l, false, false);
    weights_ = params<const S>();
    gradients_ = params<A>();
    cache_.resize(static_cast<std::size_t>(config.layers));
  }

  template <class T>
  struct Layer {
    typename Norm::template Params<T> norm1, norm2;
    typename Attention<P, B>::template Params<T> attention;
    typename FeedForwardPart<Spec>::template Params<T> feed;
  };
  template <class T>
  struct Params {
    std::vector<typename Position::template Params<T>> position;  // none, one for all layers, or one for each
    std::vector<Layer<T>> layers;
    typename Norm::template Params<T> norm;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      const bool own = position.size() > 1;
      auto of_stack = visit_within(f, InStack::encoder);
      if (!own && !position.empty()) position[0].visit(prefix + "relative_position.", of_stack);
      for (std::size_t l = 0; l < layers.size(); ++l) {
        const std::string at = prefix + "layers." + std::to_string(l) + ".";
        auto of_layer = visit_within(f, InStack::encoder, static_cast<index_t>(l));
        if (own) position[l].visit(at + "relative_position.", of_layer);
        layers[l].norm1.visit(at + "self_attention_norm.", of_layer);
        layers[l].attention.visit(at + "self_attention.", of_layer);
        layers[l].norm2.visit(at + "feed_forward_norm.", of_layer);
        layers[l].feed.visit(at, of_layer);
      }
      norm.visit(prefix + "final_norm.", of_stack);
    }
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    for (index_t l = 0; l < config_.position_tables(); ++l) p.position.push_back(position_.template params<T>());
    for (index_t l = 0; l < config_.layers; ++l)
      p.layers.push_back({norm_.template params<T>(), norm_.template params<T>(), attention_.template params<T>(),
                          feed_[static_cast<std::size_t>(l)].template params<T>()});
    p.norm = norm_.template params<T>();
    return p;
  }
  /// Calls f(name, Tensor<const S>&, Leaf) for every weight, f(name, Tensor<A>&, Leaf) for every gradient.
  template <class F>
  void visit_weights(const std::string& prefix, F&& f) {
    weights_.visit(prefix, f);
  }
  template <class F>
  void visit_gradients(const std::string& prefix, F&& f) {
    gradients_.visit(prefix, f);
  }

  const StackConfig& config() const { return config_; }
  template <class Router>
  void set_router(const Router& router) {
    if constexpr (!is_dense<Spec>)
      for (auto& f : feed_)
        if (f.sparse()) f.moe().set_router(router);
  }
  void set_activation(const typename Spec::Activation& activation) {
    for (auto& f : feed_) f.set_activation(activation);
  }

  /// x (T, D) -> y (T, D). Takes its caches from the arena; they live until the caller's reset or scope.
  void forward(Context& ctx, const Tokens& tokens, Matrix<const S> x, Matrix<S> y, Collective& comm) {
    auto& arena = ctx.arena;
    rotation_ = rotation_table<C, B>(ctx, tokens, config_.rotary_theta, config_.head_width, config_.rotary);
    input_ = x;
    for (std::size_t l = 0; l < feed_.size(); ++l) feed_[l].fetch(ctx, weights_.layers[l].feed, tokens, cache_[l].feed);
    for (std::size_t l = 0; l < cache_.size(); ++l) {
      auto& c = cache_[l];
      const auto& w = weights_.layers[l];
      c.bias = l < weights_.position.size() ? position_bias(ctx, tokens, l) : l > 0 ? cache_[l - 1].bias : Matrix<C>{};
      c.middle = arena.template matrix<S>(x.rows, x.cols);
      c.out = arena.template matrix<S>(x.rows, x.cols);
      ctx.random.layer = layer_stream(false, static_cast<index_t>(l), 3);
      residual(l, 0).forward(ctx, w.norm1, x, c.middle, c.first, [&](Matrix<const S> n, Matrix<S> o) {
        attention_.forward(ctx, w.attention, n, n, info(tokens, c.bias), o, c.attention);
      });
      residual(l, 1).forward(ctx, w.norm2, c.middle, c.out, c.second, [&](Matrix<const S> n, Matrix<S> o) {
        feed_[l].forward(ctx, w.feed, tokens, n, o, c.feed, comm);
      });
      x = c.out;
    }
    norm_.forward(ctx, weights_.norm, x, y, final_);
    output_ = y;
    joint_losses<Spec>(ctx, feed_, cache_, joined_, tokens, comm);
  }
  /// dy (T, D) -> dx (T, D); gradients accumulate.
  void backward(Context& ctx, const Tokens& tokens, Matrix<const S> dy, Matrix<S> dx, double loss_scale) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    auto& arena = ctx.arena;
    const Matrix<S> dmiddle = arena.template matrix<S>(dy.rows, dy.cols);
    Matrix<C> dbias;
    if (config_.relative_positions) {
      dbias = arena.template matrix<C>(cache_[0].bias.rows, cache_[0].bias.cols);
      B::zero(ctx, dbias.data, dbias.size());
    }
    norm_.backward(ctx, weights_.norm, gradients_.norm, cache_.back().out, dy, dx, final_);
    for (std::size_t l = cache_.size(); l-- > 0;) {
      auto& c = cache_[l];
      const auto& w = weights_.layers[l];
      const auto& dw = gradients_.layers[l];
      ctx.random.layer = layer_stream(false, static_cast<index_t>(l), 3);
      residual(l, 1).backward(ctx, w.norm2, dw.norm2, c.middle, dx, dmiddle, c.second,
                              [&](Matrix<const S> n, Matrix<const S> g, Matrix<S> dn) {
                                feed_[l].backward(ctx, w.feed, dw.feed, tokens, n, g, dn, c.feed, loss_scale);
                              });
      const Matrix<const S> x = l > 0 ? cache_[l - 1].out.as_const() : input_;
      residual(l, 0).backward(ctx, w.norm1, dw.norm1, x, dmiddle, dx, c.first,
                              [&](Matrix<const S> n, Matrix<const S> g, Matrix<S> dn) {
                                attention_.backward(ctx, w.attention, dw.attention, n, n, info(tokens, c.bias), g, dn,
                                                    dn, c.attention, dbias);
                              });
      if (l >= gradients_.position.size()) continue;  // dbias goes on to the layer that has the table
      position_.backward(ctx, gradients_.position[l], tokens.length, dbias);
      if (l > 0) B::zero(ctx, dbias.data, dbias.size());
    }
  }

  /// What layer i was given in the last forward pass, (T, D); for i = layers, what the stack gave. It lives as long as
  /// that pass's caches.
  Matrix<const S> hidden_state(index_t i) const {
    if (i == config_.layers) return output_;
    return i == 0 ? input_ : cache_[static_cast<std::size_t>(i - 1)].out.as_const();
  }
  /// Calls f(layer, MoE, its cache) for every sparse layer: the routing of the last forward pass.
  template <class F>
  void visit_sparse(F&& f) const {
    if constexpr (!is_dense<Spec>)
      for (std::size_t l = 0; l < cache_.size(); ++l)
        if (feed_[l].sparse()) f(static_cast<index_t>(l), feed_[l].moe(), cache_[l].feed.moe);
  }
  /// What each sparse layer did in the last forward pass.
  std::vector<LayerStatistics> statistics(Context& ctx) const {
    std::vector<LayerStatistics> all;
    if constexpr (!is_dense<Spec>)
      for (std::size_t l = 0; l < cache_.size(); ++l)
        if (feed_[l].sparse()) {
          auto s = feed_[l].moe().statistics(ctx, cache_[l].feed.moe);
          const double loss = feed_[l].moe().weighted_loss(s);
          all.push_back({static_cast<index_t>(l), loss, std::move(s)});
        }
    return all;
  }

 private:
  struct LayerCache {
    typename Residual<Norm>::Cache first, second;
    typename Attention<P, B>::Cache attention;
    typename FeedForwardPart<Spec>::Cache feed;
    Matrix<S> middle, out;
    Matrix<C> bias;  // of positions: this layer's own or the one before's, or empty
  };
  Residual<Norm> residual(std::size_t layer, int part) const {
    return {norm_, config_.dropout, layer_stream(false, static_cast<index_t>(layer), part)};
  }
  AttentionInfo<C> info(const Tokens& tokens, Matrix<const C> bias) const {
    return {tokens.sentences, tokens.length, tokens.length, tokens.valid, false, 0, bias, 0, rotation_};
  }
  Matrix<C> position_bias(Context& ctx, const Tokens& tokens, std::size_t table) const {
    const Matrix<C> bias = ctx.arena.template matrix<C>(config_.heads * tokens.length, tokens.length);
    position_.forward(ctx, weights_.position[table], tokens.length, 0, bias);
    return bias;
  }

  StackConfig config_;
  Position position_;
  Norm norm_;
  Attention<P, B> attention_;
  std::vector<FeedForwardPart<Spec>> feed_;
  Params<const S> weights_;
  Params<A> gradients_;
  std::vector<LayerCache> cache_;
  std::vector<SparseLayer<Spec>> joined_;  // of joint_losses()
  typename Norm::Cache final_;
  Matrix<const S> input_, output_;
  Matrix<const C> rotation_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

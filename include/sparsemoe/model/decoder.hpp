// SPDX-License-Identifier: Apache-2.0
// model/decoder.hpp -- a stack of decoder layers: causal self-attention, attention to the encoder's output (unless it
// is a language model's), then a dense or sparse feed-forward. The router must be causal-safe, checked at compile time;
// a decoding step with kept keys and values gives what the full forward pass gives. Read next:
// model/encoder_decoder.hpp, model/language_model.hpp.
#pragma once

#include "sparsemoe/model/stack.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What the decoder reads of the encoder: its output (B Ls, D), which of its columns are real, and the mean of each
/// sentence (for a sentence router; may be empty otherwise).
template <class P>
struct EncoderMemory {
  Matrix<const typename P::storage> states;
  const std::uint8_t* valid = nullptr;
  index_t length = 0;
  Matrix<const typename P::router> pool;
};

/// to(i) = from(i / group): a row of the memory for each of the rows that share it.
template <class T>
struct RepeatRow {
  Matrix<const T> from;
  Matrix<T> to;
  index_t group;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    for (index_t j = team.lane(); j < to.cols; j += Team::lanes) to(i, j) = from(i / group, j);
  }
};
/// to(i) = from(chosen(i)), the first `used` of the `stride` values a row has. chosen(i) is rows[i], or, where a row
/// stands for `group` rows of the list, the row that holds rows[group i].
template <class T>
struct SelectRow {
  const T* from;
  T* to;
  const std::int32_t* rows;
  index_t stride, used, group;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const T* in = from + rows[i * group] / group * stride;
    T* out = to + i * stride;
    for (index_t j = team.lane(); j < used; j += Team::lanes) out[j] = in[j];
  }
};

/// to(r) = from(r / group), the first `used` of the `stride` values a row has; the others are 0.
template <class T>
struct KeepPrompt {
  const T* from;
  T* to;
  index_t group, stride, used;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const T* in = from + r / group * used;
    T* out = to + r * stride;
    for (index_t j = team.lane(); j < stride; j += Team::lanes) out[j] = j < used ? in[j] : T(0.0f);
  }
};

/// With CrossAttention false, the stack of a language model: layers of two sub-layers, and no memory is read.
template <class SpecType, bool CrossAttention = true>
class Decoder {
 public:
  using Spec = SpecType;
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Context = typename B::Context;
  using Collective = typename Spec::Collective;
  using Norm = typename Spec::template Norm<P, B>;
  using Position = RelativePosition<P, B>;
  static constexpr bool causal_checked = [] {
    if constexpr (is_dense<Spec>)
      return true;
    else
      return check_causal_router<typename Spec::Router>();
  }();
  static_assert(check_spec<Spec>() && causal_checked);
  static constexpr bool cross_attention = CrossAttention;
  /// True if the router scores the mean of the source sentence.
  static constexpr bool needs_pool = [] {
    if constexpr (is_dense<Spec>)
      return false;
    else
      return RouterTraits<typename Spec::Router>::level == Level::sentence;
  }();
  /// True if the router scores the mean of the target so far.
  static constexpr bool needs_prefix = [] {
    if constexpr (is_dense<Spec>)
      return false;
    else
      return RouterTraits<typename Spec::Router>::gate_input == GateInput::prefix_mean;
  }();

  static_assert(CrossAttention || !needs_pool,
                "decoder: without an encoder there is no source sentence to score; use SentencePrefix");

  explicit Decoder(const StackConfig& config)
      : config_(config),
        position_{config.heads, config.buckets, config.max_distance, false},
        norm_{config.width, config.norm_epsilon} {
    config.check("decoder");
    const double scale =
        config.attention_scale > 0 ? config.attention_scale : 1 / std::sqrt(static_cast<double>(config.head_width));
    attention_ = {config.width, config.heads,          config.head_width, config.bias,
                  scale,        config.moe.init_scale, config.kv_heads};
    for (index_t l = 0; l < config.layers; ++l) feed_.emplace_back(config, l, needs_pool || needs_prefix, true);
    weights_ = params<const S>();
    gradients_ = params<A>();
    cache_.resize(static_cast<std::size_t>(config.layers));
    kept_.resize(static_cast<std::size_t>(config.layers));
  }

  template <class T>
  struct Layer {
    typename Norm::template Params<T> norm1, norm2, norm3;
    typename Attention<P, B>::template Params<T> attention, cross;
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
      auto of_stack = visit_within(f, InStack::decoder);
      if (!own && !position.empty()) position[0].visit(prefix + "relative_position.", of_stack);
      for (std::size_t l = 0; l < layers.size(); ++l) {
        const std::string at = prefix + "layers." + std::to_string(l) + ".";
        auto of_layer = visit_within(f, InStack::decoder, static_cast<index_t>(l));
        if (own) position[l].visit(at + "relative_position.", of_layer);
        layers[l].norm1.visit(at + "self_attention_norm.", of_layer);
        layers[l].attention.visit(at + "self_attention.", of_layer);
        if constexpr (CrossAttention) {
          layers[l].norm2.visit(at + "cross_attention_norm.", of_layer);
          layers[l].cross.visit(at + "cross_attention.", of_layer);
        }
        layers[l].norm3.visit(at + "feed_forward_norm.", of_layer);
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
      p.layers.push_back({norm_.template params<T>(), norm_.template params<T>(), norm_.template params<T>(),
                          attention_.template params<T>(), attention_.template params<T>(),
                          feed_[static_cast<std::size_t>(l)].template params<T>()});
    p.norm = norm_.template params<T>();
    return p;
  }
  template <class F>
  void visit_weights(const std::string& prefix, F&& f) {
    weights_.visit(prefix, f);
  }
  template <class F>
  void visit_gradients(const std::string& prefix, F&& f) {
    gradients_.visit(prefix, f);
  }
  const StackConfig& config() const { return config_; }
  bool wants_pool() const { return needs_pool; }
  template <class Router>
  void set_router(const Router& router) {
    if constexpr (!is_dense<Spec>)
      for (auto& f : feed_)
        if (f.sparse()) f.moe().set_router(router);
  }
  void set_activation(const typename Spec::Activation& activation) {
    for (auto& f : feed_) f.set_activation(activation);
  }

  /// x (B Lt, D) and the memory -> y (B Lt, D).
  void forward(Context& ctx, const Tokens& tokens, const EncoderMemory<P>& memory, Matrix<const S> x, Matrix<S> y,
               Collective& comm) {
    auto& arena = ctx.arena;
    input_ = x;
    rotation_ = rotation_table<C, B>(ctx, tokens, config_.rotary_theta, config_.head_width, config_.rotary);
    for (std::size_t l = 0; l < feed_.size(); ++l) feed_[l].fetch(ctx, weights_.layers[l].feed, tokens, cache_[l].feed);
    for (std::size_t l = 0; l < cache_.size(); ++l) {
      auto& c = cache_[l];
      const auto& w = weights_.layers[l];
      c.bias = l < weights_.position.size() ? position_bias(ctx, tokens, l) : l > 0 ? cache_[l - 1].bias : Matrix<C>{};
      c.first_out = arena.template matrix<S>(x.rows, x.cols);
      c.second_out = CrossAttention ? arena.template matrix<S>(x.rows, x.cols) : c.first_out;
      c.out = arena.template matrix<S>(x.rows, x.cols);
      ctx.random.layer = layer_stream(true, static_cast<index_t>(l), 3);
      residual(l, 0).forward(ctx, w.norm1, x, c.first_out, c.first, [&](Matrix<const S> n, Matrix<S> o) {
        attention_.forward(ctx, w.attention, n, n, self_info(tokens, c.bias), o, c.attention);
      });
      if constexpr (CrossAttention)
        residual(l, 1).forward(ctx, w.norm2, c.first_out, c.second_out, c.second, [&](Matrix<const S> n, Matrix<S> o) {
          attention_.forward(ctx, w.cross, n, memory.states, cross_info(tokens, memory), o, c.cross);
        });
      residual(l, 2).forward(ctx, w.norm3, c.second_out, c.out, c.third, [&](Matrix<const S> n, Matrix<S> o) {
        feed_[l].forward(ctx, w.feed, tokens, n, o, c.feed, comm, scored(ctx, l, tokens, n, memory.pool));
      });
      x = c.out;
    }
    norm_.forward(ctx, weights_.norm, x, y, final_);
    output_ = y;
    joint_losses<Spec>(ctx, feed_, cache_, joined_, tokens, comm);
  }
  /// dy (B Lt, D) -> dx (B Lt, D); dmemory (B Ls, D) += and dpool (B, D) +=, which the caller has set to zero.
  void backward(Context& ctx, const Tokens& tokens, const EncoderMemory<P>& memory, Matrix<const S> dy, Matrix<S> dx,
                Matrix<S> dmemory, Matrix<R> dpool, double loss_scale) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    auto& arena = ctx.arena;
    const Matrix<S> d2 = arena.template matrix<S>(dy.rows, dy.cols);
    const Matrix<S> d1 = CrossAttention ? arena.template matrix<S>(dy.rows, dy.cols) : d2;
    const Matrix<S> dstates = arena.template matrix<S>(dmemory.rows, dmemory.cols);
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
      ctx.random.layer = layer_stream(true, static_cast<index_t>(l), 3);
      residual(l, 2).backward(ctx, w.norm3, dw.norm3, c.second_out, dx, d2, c.third,
                              [&](Matrix<const S> n, Matrix<const S> g, Matrix<S> dn) {
                                feed_backward(ctx, l, tokens, n, g, dn, loss_scale, dpool);
                              });
      if constexpr (CrossAttention) {
        residual(l, 1).backward(ctx, w.norm2, dw.norm2, c.first_out, d2, d1, c.second,
                                [&](Matrix<const S> n, Matrix<const S> g, Matrix<S> dn) {
                                  attention_.backward(ctx, w.cross, dw.cross, n, memory.states,
                                                      cross_info(tokens, memory), g, dn, dstates, c.cross);
                                });
        B::for_each_index(ctx, dmemory.size(), AddTo<S, S, C>{dstates.data, dmemory.data});
      }
      const Matrix<const S> x = l > 0 ? cache_[l - 1].out.as_const() : input_;
      residual(l, 0).backward(ctx, w.norm1, dw.norm1, x, d1, dx, c.first,
                              [&](Matrix<const S> n, Matrix<const S> g, Matrix<S> dn) {
                                attention_.backward(ctx, w.attention, dw.attention, n, n, self_info(tokens, c.bias), g,
                                                    dn, dn, c.attention, dbias);
                              });
      if (l >= gradients_.position.size()) continue;  // dbias goes on to the layer that has the table
      position_.backward(ctx, gradients_.position[l], tokens.length, dbias);
      if (l > 0) B::zero(ctx, dbias.data, dbias.size());
    }
  }

  /// Prepares step-by-step decoding of memory's sentences, up to `room` tokens each, with `beams` rows for each
  /// sentence: row r decodes sentence r / beams. Rows of a sentence share its keys and values, which are projected
  /// here, once. Everything comes from the arena, with a spare buffer for select(); the memory is not read again.
  void begin(Context& ctx, const EncoderMemory<P>& memory, index_t sentences, index_t room, index_t beams = 1) {
    require(beams >= 1 && memory.states.rows == sentences * memory.length, "decoder: the memory has ",
            memory.states.rows, " rows, expected ", sentences, " sentences of ", memory.length,
            "; beams must be at least 1, got ", beams);
    auto& arena = ctx.arena;
    const index_t inner = attention_.key_heads() * config_.head_width, rows = sentences * beams;
    const auto own = [&] { return arena.template matrix<S>(rows * room, inner); };
    const auto shared = [&] { return arena.template matrix<S>(memory.states.rows, inner); };
    for (std::size_t l = 0; l < kept_.size(); ++l) {
      kept_[l] = {own(), own(), shared(), shared(), {}};
      if constexpr (CrossAttention)
        attention_.project_memory(ctx, weights_.layers[l].cross, memory.states, kept_[l].memory_keys,
                                  kept_[l].memory_values);
    }
    stepping_ = {rows, beams, room, 0, memory.length, own(), shared(), nullptr, nullptr, {}, {}, {}};
    auto& now = stepping_;
    if constexpr (needs_prefix) {
      now.spare_prefix = arena.template matrix<R>(rows, config_.width);
      for (auto& k : kept_) k.prefix = arena.template matrix<R>(rows, config_.width);
    }
    if (memory.valid != nullptr) {
      now.valid = arena.template take<std::uint8_t>(memory.states.rows);
      now.spare_valid = arena.template take<std::uint8_t>(memory.states.rows);
      B::copy(ctx, now.valid, memory.valid, memory.states.rows);
    }
    if (!memory.pool.empty()) {
      now.pool = arena.template matrix<R>(rows, memory.pool.cols);
      now.spare_pool = arena.template matrix<R>(rows, memory.pool.cols);
      B::for_each_row(ctx, rows, RepeatRow<R>{memory.pool, now.pool, beams}, memory.pool.cols);
    }
  }
  /// After begin() and before the first step: what comes first of each of begin()'s sentences, at once. tokens
  /// (sentences, L) at positions 0, 1, ..., padded on the right, and x (sentences L, D). A sentence of n tokens goes on
  /// at position n: if they differ, with Tokens::positions. Evaluation alone, where routing drops no token.
  void prefill(Context& ctx, const Tokens& tokens, const EncoderMemory<P>& memory, Matrix<const S> x,
               Collective& comm) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    auto& now = stepping_;
    require(tokens.sentences * now.beams == now.rows && tokens.length <= now.room, "decoder: a prompt of ",
            tokens.sentences, " sentences of ", tokens.length, ", expected ", now.rows / now.beams, " of at most ",
            now.room);
    forward(ctx, tokens, memory, x, ctx.arena.template matrix<S>(x.rows, x.cols), comm);
    const index_t inner = attention_.key_heads() * config_.head_width;
    for (std::size_t l = 0; l < kept_.size(); ++l) {
      const auto& c = cache_[l];
      auto& k = kept_[l];
      const auto keep = [&](Matrix<S> from, Matrix<S> to) {
        B::for_each_row(ctx, now.rows,
                        KeepPrompt<S>{from.data, to.data, now.beams, now.room * inner, tokens.length * inner},
                        now.room * inner);
      };
      keep(c.attention.k, k.keys);
      keep(c.attention.v, k.values);
      if constexpr (needs_prefix)
        B::for_each_row(ctx, now.rows, PrefixSumRow<S, R>{c.third.normed, tokens, now.beams, k.prefix},
                        tokens.length * k.prefix.cols);
    }
    now.used = tokens.length;
  }
  /// Row i of the next step goes on from row rows[i] of the last one: beams change places, finished sentences leave.
  /// rows (n), in the backend's memory. The beams of a sentence stay together; with as many rows as before every
  /// sentence must keep its place, so that its memory need not move.
  void select(Context& ctx, const std::int32_t* rows, index_t n) {
    auto& now = stepping_;
    require(n <= now.rows && n % now.beams == 0, "decoder: cannot select ", n, " rows of ", now.rows, " with ",
            now.beams, " beams a sentence");
    const index_t inner = attention_.key_heads() * config_.head_width, sentences = n / now.beams;
    const auto move = [&](auto& data, auto& spare, index_t count, index_t stride, index_t used, index_t group) {
      using T = std::remove_pointer_t<std::remove_reference_t<decltype(data)>>;
      B::for_each_row(ctx, count, SelectRow<T>{data, spare, rows, stride, used, group}, used);
      std::swap(data, spare);
    };
    for (auto& k : kept_) {
      move(k.keys.data, now.spare.data, n, now.room * inner, now.used * inner, 1);
      move(k.values.data, now.spare.data, n, now.room * inner, now.used * inner, 1);
      if constexpr (needs_prefix) move(k.prefix.data, now.spare_prefix.data, n, config_.width, config_.width, 1);
      if (!CrossAttention || n == now.rows) continue;
      const index_t all = now.length * inner;
      move(k.memory_keys.data, now.memory_spare.data, sentences, all, all, now.beams);
      move(k.memory_values.data, now.memory_spare.data, sentences, all, all, now.beams);
    }
    if (n == now.rows) return;
    if (now.valid != nullptr) move(now.valid, now.spare_valid, sentences, now.length, now.length, now.beams);
    if (!now.pool.empty()) move(now.pool.data, now.spare_pool.data, n, now.pool.cols, now.pool.cols, 1);
    now.rows = n;
  }
  /// One token a row: x (rows, D) at position tokens.position, or each row at its own, -> y (rows, D). tokens has a
  /// sentence for each row. Positions of their own need prefill().
  void step(Context& ctx, const Tokens& tokens, Matrix<const S> x, Matrix<S> y, Collective& comm) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    auto& arena = ctx.arena;
    auto& now = stepping_;
    require(tokens.count() == now.rows, "decoder: a step of ", tokens.count(), " tokens, expected one for each of ",
            now.rows, " rows");
    require(tokens.position < now.room, "decoder: step ", tokens.position, " is beyond the ", now.room,
            " tokens begin() made room for");
    now.used = tokens.position + 1;
    const Matrix<const R> pool(now.pool.data, now.rows, now.pool.cols);
    AttentionInfo<C> self{now.rows,        1,  now.used,      nullptr, tokens.positions != nullptr,
                          tokens.position, {}, config_.window};
    self.query_offsets = tokens.positions;
    self.rotation = rotation_table<C, B>(ctx, tokens, config_.rotary_theta, config_.head_width, config_.rotary);
    const index_t bias_rows = config_.heads * (tokens.positions != nullptr ? now.rows : 1);
    const AttentionInfo<C> cross{now.rows / now.beams, now.beams, now.length, now.valid, false, 0, {}, 0};
    for (std::size_t l = 0; l < feed_.size(); ++l) feed_[l].fetch(ctx, weights_.layers[l].feed, tokens, cache_[l].feed);
    for (std::size_t l = 0; l < kept_.size(); ++l) {
      const auto& w = weights_.layers[l];
      const auto& k = kept_[l];
      auto& c = cache_[l];
      if (l < weights_.position.size()) {
        const Matrix<C> bias = arena.template matrix<C>(bias_rows, now.used);
        position_.forward(ctx, weights_.position[l], 1, tokens.position, bias, tokens.positions);
        self.bias = bias;
      }
      const Matrix<S> a = arena.template matrix<S>(x.rows, x.cols), o = arena.template matrix<S>(x.rows, x.cols);
      const Matrix<S> b = CrossAttention ? arena.template matrix<S>(x.rows, x.cols) : a;
      ctx.random.layer = layer_stream(true, static_cast<index_t>(l), 3);
      residual(l, 0).forward(ctx, w.norm1, x, a, c.first, [&](Matrix<const S> n, Matrix<S> out) {
        attention_.step(ctx, w.attention, n, self, k.keys, k.values, now.room, true, out);
      });
      if constexpr (CrossAttention)
        residual(l, 1).forward(ctx, w.norm2, a, b, c.second, [&](Matrix<const S> n, Matrix<S> out) {
          attention_.step(ctx, w.cross, n, cross, k.memory_keys, k.memory_values, now.length, false, out);
        });
      residual(l, 2).forward(ctx, w.norm3, b, o, c.third, [&](Matrix<const S> n, Matrix<S> out) {
        Matrix<const R> gate_input = pool;
        if (needs_prefix && feed_[l].sparse()) {
          const Matrix<R> mean = arena.template matrix<R>(n.rows, n.cols);
          B::for_each_row(ctx, n.rows, PrefixMeanStepRow<S, R>{n, {k.prefix.data, n.rows, n.cols}, mean, tokens},
                          n.cols);
          gate_input = mean;
        }
        feed_[l].forward(ctx, w.feed, tokens, n, out, c.feed, comm, gate_input);
      });
      x = o;
    }
    norm_.forward(ctx, weights_.norm, x, y, final_);
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
    typename Residual<Norm>::Cache first, second, third;
    typename Attention<P, B>::Cache attention, cross;
    typename FeedForwardPart<Spec>::Cache feed;
    Matrix<S> first_out, second_out, out;
    Matrix<C> bias;  // of positions: this layer's own or the one before's, or empty
  };
  struct Kept {
    Matrix<S> keys, values;                // (rows room, kv d)
    Matrix<S> memory_keys, memory_values;  // (sentences Ls, kv d)
    Matrix<R> prefix;                      // (rows, D) sum of what this layer's gate saw, if it scores prefixes
  };
  /// Step-by-step decoding: `used` tokens of each row are kept; `valid` (sentences, Ls), `pool` (rows, D).
  struct Stepping {
    index_t rows = 0, beams = 1, room = 0, used = 0, length = 0;
    Matrix<S> spare, memory_spare;  // select() writes here and swaps, layer by layer
    std::uint8_t *valid = nullptr, *spare_valid = nullptr;
    Matrix<R> pool, spare_pool, spare_prefix;
  };
  /// What the gate of layer l scores in place of x: the mean of the source, the means of the target so far, or nothing.
  Matrix<const R> scored(Context& ctx, std::size_t l, const Tokens& tokens, Matrix<const S> x,
                         Matrix<const R> pool) const {
    if constexpr (needs_prefix) {
      if (!feed_[l].sparse()) return {};
      const Matrix<R> mean = ctx.arena.template matrix<R>(x.rows, x.cols);
      B::for_each_row(ctx, tokens.sentences, PrefixMeanRow<S, R>{x, tokens, mean}, tokens.length * x.cols);
      return mean;
    } else {
      return pool;
    }
  }
  void feed_backward(Context& ctx, std::size_t l, const Tokens& tokens, Matrix<const S> x, Matrix<const S> dy,
                     Matrix<S> dx, double loss_scale, Matrix<R> dpool) {
    auto& feed = feed_[l];
    const auto& w = weights_.layers[l].feed;
    const auto& dw = gradients_.layers[l].feed;
    const auto& c = cache_[l].feed;
    if constexpr (needs_prefix) {
      if (feed.sparse()) {
        const Matrix<R> dmean = ctx.arena.template matrix<R>(x.rows, x.cols);
        B::zero(ctx, dmean.data, dmean.size());
        feed.backward(ctx, w, dw, tokens, x, dy, dx, c, loss_scale, dmean);
        B::for_each_row(ctx, tokens.sentences, PrefixMeanBackwardRow<S, R>{dmean, tokens, dx}, tokens.length * dx.cols);
        return;
      }
    }
    feed.backward(ctx, w, dw, tokens, x, dy, dx, c, loss_scale, dpool);
  }
  Residual<Norm> residual(std::size_t layer, int part) const {
    return {norm_, config_.dropout, layer_stream(true, static_cast<index_t>(layer), part)};
  }
  AttentionInfo<C> self_info(const Tokens& tokens, Matrix<const C> bias) const {
    return {tokens.sentences, tokens.length, tokens.length, tokens.valid, true, 0, bias, config_.window, rotation_};
  }
  Matrix<C> position_bias(Context& ctx, const Tokens& tokens, std::size_t table) const {
    const Matrix<C> bias = ctx.arena.template matrix<C>(config_.heads * tokens.length, tokens.length);
    position_.forward(ctx, weights_.position[table], tokens.length, 0, bias);
    return bias;
  }
  AttentionInfo<C> cross_info(const Tokens& tokens, const EncoderMemory<P>& memory) const {
    return {tokens.sentences, tokens.length, memory.length, memory.valid, false, 0, {}, 0};
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
  std::vector<Kept> kept_;
  Stepping stepping_;
  typename Norm::Cache final_;
  Matrix<const S> input_, output_;
  Matrix<const C> rotation_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

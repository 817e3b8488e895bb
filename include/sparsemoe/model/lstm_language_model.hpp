// SPDX-License-Identifier: Apache-2.0
// model/lstm_language_model.hpp -- the language model of Shazeer et al. 2017 (appendix C.1): embedding, LSTM, sparse
// layer, LSTM, softmax. The sparse layer is applied to all time steps at once, as one large batch.
// Read next: nn/lstm.hpp, routers/noisy.hpp, train/update.hpp for training it.
#pragma once

#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/nn/lstm.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct LstmLanguageModelConfig {
  index_t vocabulary = 8000, width = 512;
  index_t cells = 0;      // of each LSTM, its output projected to the width if they differ; 0: the width
  index_t hidden = 1024;  // of an expert, or of the feed-forward in place of the sparse layer
  bool sparse = true;     // false: a dense feed-forward
  bool bias = true;       // of the experts or the feed-forward
  bool sigmoid = false;   // of the sparse layer's output, before dropout (appendix C.1)
  double forget_bias = 1;
  double dropout = 0;  // of the embedding and of every sub-layer's output
  double label_smoothing = 0;
  double output_z = 0;         // z-loss on the output logits
  bool tied = false;           // the head's table is the embedding's
  double embedding_scale = 0;  // 0: sqrt(width)
  double output_scale = 1;     // of the hidden state before the head
  MoeConfig moe;               // width, hidden and bias are taken from above

  void check() const {
    stack().check("lstm model");
    require(vocabulary >= 2, "lstm model: the vocabulary must have at least 2 entries; got ", vocabulary);
    require(cells >= 0, "lstm model: cells must not be negative (0 is the width); got ", cells);
    require(label_smoothing >= 0 && label_smoothing < 1, "lstm model: label smoothing must be in [0, 1); got ",
            label_smoothing);
  }
  /// The layer between the two LSTMs as the only one of a stack.
  StackConfig stack() const {
    StackConfig s;
    s.layers = 1, s.width = width, s.hidden = hidden, s.sparse_every = sparse ? 1 : 0;
    s.dropout = dropout, s.bias = bias, s.moe = moe;
    return s;
  }
};

/// Every sub-layer is y = x + dropout(sub(x)). Each token's choice uses nothing that comes after it, checked at compile
/// time. Of the router's levels those are left that need no mean over a sentence.
template <class SpecType>
class LstmLanguageModel {
 public:
  using Spec = SpecType;
  using Feed = FeedForwardPart<Spec>;
  using P = typename Feed::P;
  using B = typename Feed::B;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using Collective = typename Feed::Collective;
  using Recurrent = Lstm<P, B>;
  static constexpr bool router_checked = [] {
    if constexpr (!is_dense<Spec>) {
      using Traits = RouterTraits<typename Spec::Router>;
      static_assert(Traits::level != Level::sentence && Traits::gate_input == GateInput::state,
                    "lstm model: use a router that scores tokens or tasks, or nothing; it has no mean of a sentence");
      return check_causal_router<typename Spec::Router>();
    }
    return true;
  }();
  static_assert(check_spec<Spec>() && router_checked);

  /// What both LSTMs remember of some sequences between two segments.
  struct State {
    LstmState<P, B> first, second;
    void clear(Context& ctx) {
      first.clear(ctx);
      second.clear(ctx);
    }
  };

  /// Throws Error if the configuration cannot work.
  LstmLanguageModel(Context&, const LstmLanguageModelConfig& config, bool for_training = true)
      : config_((config.check(), config)), feed_(config.stack(), 0, false, true) {
    const double scale =
        config.embedding_scale > 0 ? config.embedding_scale : std::sqrt(static_cast<double>(config.width));
    embedding_ = {config.vocabulary, config.width, scale, false, config.output_scale};
    const bool projected = config.cells > 0 && config.cells != config.width;
    lstm_.in = config.width;
    lstm_.cells = projected ? config.cells : config.width;
    lstm_.projection = projected ? config.width : 0;
    lstm_.forget_bias = config.forget_bias;
    loss_.config = CrossEntropyConfig::smoothed(config.label_smoothing, config.vocabulary);
    loss_.config.z = config.output_z;
    weights_ = params<const S>();
    gradients_ = params<A>();
    weights = bind_weights<P, B>(*this, for_training);
  }

  template <class T>
  struct Params {
    typename Embedding<P, B>::template Params<T> embedding, own_head;
    typename Recurrent::template Params<T> first, second;
    typename Feed::template Params<T> feed;
    bool tied = false;
    const typename Embedding<P, B>::template Params<T>& head() const { return tied ? embedding : own_head; }
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      embedding.visit(prefix + "embedding.", f);
      first.visit(prefix + "first_lstm.", f);
      feed.visit(prefix + "feed_forward.", f);
      second.visit(prefix + "second_lstm.", f);
      if (!tied) own_head.visit(prefix + "head.", f);
    }
  };
  template <class T>
  Params<T> params() const {
    const auto table = embedding_.template params<T>();
    const auto recurrent = lstm_.template params<T>();
    return {table, table, recurrent, recurrent, feed_.template params<T>(), config_.tied};
  }
  template <class F>
  void visit_weights(F&& f) {
    weights_.visit("", f);
  }
  template <class F>
  void visit_gradients(F&& f) {
    gradients_.visit("", f);
  }
  const LstmLanguageModelConfig& config() const { return config_; }
  template <class Router>
  void set_router(const Router& router) {
    if constexpr (!is_dense<Spec>)
      if (feed_.sparse()) feed_.moe().set_router(router);
  }
  /// The start of `sequences` sequences.
  State state(Context& ctx, index_t sequences) const {
    return {lstm_.state(ctx, sequences), lstm_.state(ctx, sequences)};
  }

  /// Sums of the cross entropy over the batch. With gradient_scale != 0 also the gradients of
  /// gradient_scale * sum(cross entropy) + routing_scale * (routing losses), accumulated into weights.gradient().
  /// With `carried` the sequences go on where those of the segment before ended, through which no gradient flows, and
  /// leave it where they end; without it each starts anew.
  LossSums loss(Context& ctx, const LanguageModelBatch& batch, Collective& comm, double gradient_scale,
                double routing_scale, State* carried = nullptr) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const Matrix<S> hidden = forward(ctx, batch.tokens, comm, carried);
    const Matrix<S> dhidden =
        gradient_scale != 0 ? ctx.arena.template matrix<S>(hidden.rows, hidden.cols) : Matrix<S>{};
    const LossSums sums = output_loss(
        ctx, embedding_, weights_.head(), gradients_.head(), hidden, dhidden, gradient_scale,
        [&](Matrix<S> logits, index_t first) { return loss_(ctx, logits, batch.labels + first, gradient_scale); });
    if (gradient_scale != 0) backward(ctx, batch.tokens, dhidden, routing_scale);
    return sums;
  }

  /// Logits (B L, V). With `carried` text may come in segments of any length, of one token in step-by-step decoding:
  /// the logits are those of the whole text.
  void logits(Context& ctx, const Tokens& tokens, Collective& comm, Matrix<S> out, State* carried = nullptr) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    embedding_.logits(ctx, weights_.head(), forward(ctx, tokens, comm, carried).as_const(), out);
  }

  /// The sparse layer, if there is one: the last forward pass.
  std::vector<LayerStatistics> statistics(Context& ctx) const {
    std::vector<LayerStatistics> all;
    if constexpr (!is_dense<Spec>)
      if (feed_.sparse()) {
        auto s = feed_.moe().statistics(ctx, cache_.feed.moe);
        const double loss = feed_.moe().weighted_loss(s);
        all.push_back({0, loss, std::move(s)});
      }
    return all;
  }

  Weights<P, B> weights;

 private:
  struct Cache {
    typename Recurrent::Cache first, second;
    typename Feed::Cache feed;
    Matrix<S> input, first_out, feed_raw, feed_out;  // (B L, D) feed_raw: before the sigmoid and the residual
  };
  enum Part { first_lstm = 0, feed_forward = 1, second_lstm = 2, routing = 3 };  // numbers of random streams

  /// The hidden states (B L, D) before the head.
  Matrix<S> forward(Context& ctx, const Tokens& tokens, Collective& comm, State* carried) {
    State& state = carried != nullptr ? *carried : fresh(ctx, tokens.sentences);
    auto& c = cache_;
    const auto take = [&] { return ctx.arena.template matrix<S>(tokens.count(), config_.width); };
    c.input = take(), c.first_out = take(), c.feed_raw = take(), c.feed_out = take();
    const Matrix<S> sub = take(), sub2 = take(), out = take();
    embedding_.forward(ctx, weights_.embedding, tokens, c.input);
    if (drops(ctx)) drop(ctx, layer_stream(true, 1000, 0), c.input, c.input);
    feed_.fetch(ctx, weights_.feed, tokens, c.feed);
    lstm_.forward(ctx, weights_.first, tokens.length, c.input, sub, c.first, state.first);
    residual(ctx, first_lstm, c.input, sub, c.first_out);
    ctx.random.layer = layer_stream(true, 0, routing);
    feed_.forward(ctx, weights_.feed, tokens, c.first_out, c.feed_raw, c.feed, comm);
    Matrix<S> fed = c.feed_raw;
    if (config_.sigmoid) {
      fed = take();
      B::for_each_index(ctx, fed.size(), Activate<Sigmoid, S, C>{c.feed_raw.data, fed.data});
    }
    residual(ctx, feed_forward, c.first_out, fed, c.feed_out);
    lstm_.forward(ctx, weights_.second, tokens.length, c.feed_out, sub2, c.second, state.second);
    residual(ctx, second_lstm, c.feed_out, sub2, out);
    return out;
  }
  /// dy (B L, D): the gradient of the hidden states, overwritten.
  void backward(Context& ctx, const Tokens& tokens, Matrix<S> dy, double routing_scale) {
    const auto& c = cache_;
    const Matrix<S> dsub = ctx.arena.template matrix<S>(dy.rows, dy.cols);
    const Matrix<S> dx = ctx.arena.template matrix<S>(dy.rows, dy.cols);
    const auto skip = [&] { B::for_each_index(ctx, dy.size(), AddTo<S, S, C>{dx.data, dy.data}); };
    dropped(ctx, second_lstm, dy, dsub);
    lstm_.backward(ctx, weights_.second, gradients_.second, tokens.length, c.feed_out, dsub, dx, c.second);
    skip();
    dropped(ctx, feed_forward, dy, dsub);
    if (config_.sigmoid)
      B::for_each_index(ctx, dsub.size(), ActivateBackward<Sigmoid, S, C>{c.feed_raw.data, dsub.data, dsub.data});
    ctx.random.layer = layer_stream(true, 0, routing);
    feed_.backward(ctx, weights_.feed, gradients_.feed, tokens, c.first_out, dsub, dx, c.feed, routing_scale);
    skip();
    dropped(ctx, first_lstm, dy, dsub);
    lstm_.backward(ctx, weights_.first, gradients_.first, tokens.length, c.input, dsub, dx, c.first);
    skip();
    if (drops(ctx)) drop(ctx, layer_stream(true, 1000, 0), dy, dy);
    embedding_.backward(ctx, gradients_.embedding, tokens, dy);
  }

  bool drops(const Context& ctx) const { return ctx.training && config_.dropout > 0; }
  /// Forward and backward alike: the same elements are zero, the others scaled.
  void drop(Context& ctx, std::uint32_t stream, Matrix<S> x, Matrix<S> y) const {
    const auto p = static_cast<float>(config_.dropout);
    B::for_each_index(ctx, (x.size() + 7) / 8,
                      Dropout8<S, C>{x.data, y.data, x.size(), p, ctx.random.for_layer(stream), Purpose::dropout});
  }
  /// y = x + dropout(sub); sub stays, since the LSTM's backward reads it.
  void residual(Context& ctx, Part part, Matrix<S> x, Matrix<S> sub, Matrix<S> y) const {
    if (drops(ctx)) {
      drop(ctx, layer_stream(true, 0, part), sub, y);
      B::for_each_index(ctx, y.size(), AddTo<S, S, C>{x.data, y.data});
    } else {
      B::for_each_index(ctx, y.size(), Sum<S, C>{x.data, sub.data, y.data});
    }
  }
  /// The gradient of a sub-layer's output.
  void dropped(Context& ctx, Part part, Matrix<S> dy, Matrix<S> dsub) const {
    if (drops(ctx))
      drop(ctx, layer_stream(true, 0, part), dy, dsub);
    else
      B::copy(ctx, dsub.data, dy.data, dy.size());
  }
  /// A cleared state of the model's own; it is made anew only where the number of sequences changes.
  State& fresh(Context& ctx, index_t sequences) {
    if (fresh_.first.output().rows != sequences)
      fresh_ = state(ctx, sequences);
    else
      fresh_.clear(ctx);
    return fresh_;
  }

  LstmLanguageModelConfig config_;
  Feed feed_;
  Embedding<P, B> embedding_;
  Recurrent lstm_;
  CrossEntropy<P, B> loss_;
  Params<const S> weights_;
  Params<A> gradients_;
  Cache cache_;
  State fresh_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

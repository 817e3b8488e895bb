// SPDX-License-Identifier: Apache-2.0
// model/encoder_decoder.hpp -- the translation model: shared embedding, an encoder, a decoder, an output head.
// EncoderDecoder<E, D> takes two Specs, so each stack has its own router; Seq2Seq is the same over any two stack types.
// Read next: model/encoder.hpp, nn/embedding.hpp, model/output_loss.hpp for its parts; train/update.hpp for training
// it, infer/search.hpp for decoding.
#pragma once

#include <algorithm>

#include "sparsemoe/model/decoder.hpp"
#include "sparsemoe/model/encoder.hpp"
#include "sparsemoe/model/output_loss.hpp"
#include "sparsemoe/model/weights.hpp"
#include "sparsemoe/nn/embedding.hpp"
#include "sparsemoe/nn/loss.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct EncoderDecoderConfig {
  index_t vocabulary = 8000;
  StackConfig encoder, decoder;
  double label_smoothing = 0.1;
  double output_z = 0;         // z-loss on the output logits
  bool sinusoidal = true;      // absolute positions in the embedding
  double embedding_scale = 0;  // 0: sqrt(width)
  double output_scale = 1;     // of the hidden state before the head
  bool tie_embeddings = true;  // false: the head has a table of its own, lm_head.weight
  std::int32_t padding = -1;   // an id whose look-up gets no gradient and no position (Embedding::padding)
  index_t first_position = 0;  // of the sinusoids
  void check() const {
    encoder.check("encoder");
    decoder.check("decoder");
    require(encoder.width == decoder.width,
            "model: encoder and decoder share the embedding, so their widths must agree; got ", encoder.width, " and ",
            decoder.width);
    require(vocabulary >= 2, "model: the vocabulary must have at least 2 entries; got ", vocabulary);
    require(padding >= -1 && padding < vocabulary && first_position >= 0, "model: padding must be an id below ",
            vocabulary, ", or -1 for none, and first_position not negative; got ", padding, " and ", first_position);
    require(label_smoothing >= 0 && label_smoothing < 1, "model: label smoothing must be in [0, 1); got ",
            label_smoothing);
  }
};

/// One batch in the backend's memory. Decoder inputs are the labels shifted right; labels below 0 do not count.
struct Seq2SeqBatch {
  Tokens source, target;
  const std::int32_t* labels = nullptr;  // (B Lt)
};

template <class EncoderStack, class DecoderStack>
class Seq2Seq {
 public:
  using P = typename EncoderStack::P;
  using B = typename EncoderStack::B;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Context = typename B::Context;
  using Collective = typename EncoderStack::Collective;
  static_assert(std::is_same_v<P, typename DecoderStack::P> && std::is_same_v<B, typename DecoderStack::B>,
                "model: give encoder and decoder the same precision and backend");

  /// Throws Error if the configuration cannot work.
  Seq2Seq(Context& ctx, const EncoderDecoderConfig& config, EncoderStack encoder, DecoderStack decoder,
          bool for_training)
      : Seq2Seq(config, std::move(encoder), std::move(decoder)) {
    weights = bind_weights<P, B>(*this, for_training);
    (void)ctx;
  }
  /// Shapes without memory, for list_weights().
  Seq2Seq(const EncoderDecoderConfig& config, EncoderStack encoder, DecoderStack decoder)
      : config_(config), encoder_(std::move(encoder)), decoder_(std::move(decoder)) {
    config.check();
    const double width = static_cast<double>(config.encoder.width);
    embedding_ = {config.vocabulary,
                  config.encoder.width,
                  config.embedding_scale > 0 ? config.embedding_scale : std::sqrt(width),
                  config.sinusoidal,
                  config.output_scale,
                  config.padding,
                  config.first_position,
                  config.encoder.moe.route_padding || config.decoder.moe.route_padding};
    loss_.config = CrossEntropyConfig::smoothed(config.label_smoothing, config.vocabulary);
    loss_.config.z = config.output_z;
    tables_ = {embedding_, config.tie_embeddings};
    dtables_ = {embedding_, config.tie_embeddings};
  }

  template <class F>
  void visit_weights(F&& f) {
    tables_.visit_input(f);
    encoder_.visit_weights("encoder.", f);
    decoder_.visit_weights("decoder.", f);
    tables_.visit_head(f);
  }
  template <class F>
  void visit_gradients(F&& f) {
    dtables_.visit_input(f);
    encoder_.visit_gradients("encoder.", f);
    decoder_.visit_gradients("decoder.", f);
    dtables_.visit_head(f);
  }
  const EncoderDecoderConfig& config() const { return config_; }
  /// Of the model's own loss.
  const CrossEntropyConfig& loss_config() const { return loss_.config; }
  EncoderStack& encoder() { return encoder_; }
  DecoderStack& decoder() { return decoder_; }

  /// Sums of the cross entropy over the batch. With gradient_scale != 0 also the gradients of
  /// gradient_scale * sum(cross entropy) + routing_scale * (routing losses), accumulated into weights.gradient().
  LossSums loss(Context& ctx, const Seq2SeqBatch& batch, Collective& comm, double gradient_scale,
                double routing_scale) {
    return loss(ctx, batch, comm, gradient_scale, routing_scale, [&](Matrix<S> logits, index_t first) {
      return loss_(ctx, logits, batch.labels + first, gradient_scale);
    });
  }
  /// The same with another loss over the logits, such as that of nn/distill.hpp. head(logits, first) is called in order
  /// with the logits (n, V) of target positions [first, first + n), at most 1024 at once; it returns their sums and, if
  /// gradient_scale is not 0, makes of them the gradient of gradient_scale times its sum.
  template <class Head>
  LossSums loss(Context& ctx, const Seq2SeqBatch& batch, Collective& comm, double gradient_scale, double routing_scale,
                Head&& head) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    auto& arena = ctx.arena;
    const index_t ts = batch.source.count(), tt = batch.target.count(), d = config_.encoder.width;
    const Matrix<S> xs = arena.template matrix<S>(ts, d), states = arena.template matrix<S>(ts, d);
    const Matrix<S> xt = arena.template matrix<S>(tt, d), hidden = arena.template matrix<S>(tt, d);
    embed(ctx, batch.source, xs, 0);
    encoder_.forward(ctx, batch.source, xs, states, comm);
    const EncoderMemory<P> memory = remember(ctx, batch.source, states);
    embed(ctx, batch.target, xt, 1);
    decoder_.forward(ctx, batch.target, memory, xt, hidden, comm);

    const Matrix<S> dhidden = gradient_scale != 0 ? arena.template matrix<S>(tt, d) : Matrix<S>{};
    const LossSums sums =
        output_loss(ctx, embedding_, tables_.head(), dtables_.head(), hidden, dhidden, gradient_scale, head);
    if (gradient_scale == 0) return sums;

    const Matrix<S> dxt = arena.template matrix<S>(tt, d), dxs = arena.template matrix<S>(ts, d);
    const Matrix<S> dstates = arena.template matrix<S>(ts, d);
    B::zero(ctx, dstates.data, dstates.size());
    Matrix<R> dpool;
    if (!memory.pool.empty()) {
      dpool = arena.template matrix<R>(memory.pool.rows, d);
      B::zero(ctx, dpool.data, dpool.size());
    }
    decoder_.backward(ctx, batch.target, memory, dhidden, dxt, dstates, dpool, routing_scale);
    embed_backward(ctx, batch.target, dxt, 1);
    if (!dpool.empty())
      B::for_each_row(ctx, ts, SentenceMeanBackwardRow<S, R>{dpool, batch.source, source_count_, dstates}, d);
    encoder_.backward(ctx, batch.source, dstates, dxs, routing_scale);
    embed_backward(ctx, batch.source, dxs, 0);
    return sums;
  }

  /// Logits (B Lt, V) of a whole target: what step-by-step decoding must agree with.
  void logits(Context& ctx, const Tokens& source, const Tokens& target, Collective& comm, Matrix<S> out) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    output(ctx, hidden(ctx, source, target, comm).as_const(), out);
  }
  /// The same in two steps, where (B Lt, V) would be too much at once: the decoder's output (B Lt, D) in arena memory
  /// of the caller's scope, and the logits (n, V) of n of its rows.
  Matrix<S> hidden(Context& ctx, const Tokens& source, const Tokens& target, Collective& comm) {
    const index_t d = config_.encoder.width;
    const Matrix<S> h = ctx.arena.template matrix<S>(target.count(), d);
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const EncoderMemory<P> memory = encode(ctx, source, comm);
    const Matrix<S> x = ctx.arena.template matrix<S>(target.count(), d);
    embed(ctx, target, x, 1);
    decoder_.forward(ctx, target, memory, x, h, comm);
    return h;
  }
  void output(Context& ctx, Matrix<const S> hidden, Matrix<S> out) const {
    embedding_.logits(ctx, tables_.head(), hidden, out);
  }

  /// The encoder's output, in arena memory of the caller's scope.
  EncoderMemory<P> encode(Context& ctx, const Tokens& source, Collective& comm) {
    const index_t d = config_.encoder.width;
    const Matrix<S> x = ctx.arena.template matrix<S>(source.count(), d),
                    y = ctx.arena.template matrix<S>(source.count(), d);
    embed(ctx, source, x, 0);
    encoder_.forward(ctx, source, x, y, comm);
    return remember(ctx, source, y);
  }
  /// After encode: room for `room` target tokens a row, `beams` rows a sentence (Decoder::begin).
  void begin(Context& ctx, const EncoderMemory<P>& memory, index_t sentences, index_t room, index_t beams = 1) {
    decoder_.begin(ctx, memory, sentences, room, beams);
  }
  /// Between two steps: row i of the next goes on from row rows[i] (n, in the backend's memory; Decoder::select).
  void select(Context& ctx, const std::int32_t* rows, index_t n) { decoder_.select(ctx, rows, n); }
  /// Logits (rows, V) of the next token, given one token a row.
  void step(Context& ctx, const Tokens& tokens, Collective& comm, Matrix<S> out) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t d = config_.encoder.width;
    const Matrix<S> x = ctx.arena.template matrix<S>(tokens.count(), d),
                    h = ctx.arena.template matrix<S>(tokens.count(), d);
    embedding_.forward(ctx, tables_.input, tokens, x);
    decoder_.step(ctx, tokens, x, h, comm);
    embedding_.logits(ctx, tables_.head(), h.as_const(), out);
  }

  Weights<P, B> weights;

 private:
  void embed(Context& ctx, const Tokens& tokens, Matrix<S> x, int stream) const {
    embedding_.forward(ctx, tables_.input, tokens, x);
    if (ctx.training && dropout() > 0) drop(ctx, x.data, x.size(), stream);
  }
  void embed_backward(Context& ctx, const Tokens& tokens, Matrix<S> dx, int stream) const {
    if (ctx.training && dropout() > 0) drop(ctx, dx.data, dx.size(), stream);
    embedding_.backward(ctx, dtables_.input, tokens, dx);
  }
  double dropout() const { return config_.encoder.dropout; }
  void drop(Context& ctx, S* x, index_t n, int stream) const {
    using C = typename P::compute;
    const Random random = ctx.random.for_layer(layer_stream(stream == 1, 1000, 0));
    B::for_each_index(ctx, (n + 7) / 8,
                      Dropout8<S, C>{x, x, n, static_cast<float>(dropout()), random, Purpose::dropout});
  }
  EncoderMemory<P> remember(Context& ctx, const Tokens& source, Matrix<const S> states) {
    EncoderMemory<P> memory{states, source.valid, source.length, {}};
    if (decoder_.wants_pool()) {
      const Matrix<R> pool = ctx.arena.template matrix<R>(source.sentences, states.cols);
      source_count_ = ctx.arena.template take<std::int32_t>(source.sentences);
      B::for_each_index(ctx, source.sentences,
                        UnitWeights{{Level::sentence, source.length, nullptr}, source, source_count_});
      B::for_each_row(ctx, source.sentences, SentenceMeanRow<S, R>{states, source, pool}, source.length * states.cols);
      memory.pool = pool;
    }
    return memory;
  }

  EncoderDecoderConfig config_;
  EncoderStack encoder_;
  DecoderStack decoder_;
  Embedding<P, B> embedding_;
  CrossEntropy<P, B> loss_;
  EmbeddingTables<P, B, const S> tables_;
  EmbeddingTables<P, B, A> dtables_;
  std::int32_t* source_count_ = nullptr;
};

/// The model of two Specs: token routing in the encoder and task routing in the decoder is one line.
template <class EncoderSpec, class DecoderSpec = EncoderSpec>
class EncoderDecoder : public Seq2Seq<Encoder<EncoderSpec>, Decoder<DecoderSpec>> {
  using Base = Seq2Seq<Encoder<EncoderSpec>, Decoder<DecoderSpec>>;

 public:
  EncoderDecoder(typename Base::Context& ctx, const EncoderDecoderConfig& config, bool for_training = true)
      : Base(ctx, config, Encoder<EncoderSpec>(config.encoder), Decoder<DecoderSpec>(config.decoder), for_training) {}
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

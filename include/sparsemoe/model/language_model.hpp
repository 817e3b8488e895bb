// SPDX-License-Identifier: Apache-2.0
// model/language_model.hpp -- a decoder-only model: embedding, causal layers with dense or sparse feed-forwards, an
// output head. The router must be causal-safe, as in every decoder. Read next: train/update.hpp for training it,
// model/lstm_language_model.hpp for one with memory in place of attention.
#pragma once

#include "sparsemoe/model/decoder.hpp"
#include "sparsemoe/model/output_loss.hpp"
#include "sparsemoe/model/weights.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct LanguageModelConfig {
  index_t vocabulary = 8000;
  StackConfig decoder;
  double label_smoothing = 0;
  double output_z = 0;         // z-loss on the output logits
  bool sinusoidal = true;      // absolute positions in the embedding
  double embedding_scale = 0;  // 0: sqrt(width)
  double output_scale = 1;     // of the hidden state before the head
  bool tie_embeddings = true;  // false: the head has a table of its own, lm_head.weight
  std::int32_t padding = -1;   // an id whose look-up gets no gradient and no position (Embedding::padding)
  index_t first_position = 0;  // of the sinusoids
  void check() const {
    decoder.check("decoder");
    require(vocabulary >= 2, "model: the vocabulary must have at least 2 entries; got ", vocabulary);
    require(padding >= -1 && padding < vocabulary && first_position >= 0, "model: padding must be an id below ",
            vocabulary, ", or -1 for none, and first_position not negative; got ", padding, " and ", first_position);
    require(label_smoothing >= 0 && label_smoothing < 1, "model: label smoothing must be in [0, 1); got ",
            label_smoothing);
  }
};

/// One batch in the backend's memory: labels are usually the ids one column to the left. Labels below 0 do not count.
struct LanguageModelBatch {
  Tokens tokens;
  const std::int32_t* labels = nullptr;  // (B L)
};

template <class SpecType>
class LanguageModel {
 public:
  using Spec = SpecType;
  using Stack = Decoder<Spec, false>;
  using P = typename Stack::P;
  using B = typename Stack::B;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using Collective = typename Stack::Collective;

  /// Throws Error if the configuration cannot work.
  LanguageModel(Context&, const LanguageModelConfig& config, bool for_training = true)
      : config_(config), decoder_(config.decoder) {
    config.check();
    const double width = static_cast<double>(config.decoder.width);
    embedding_ = {config.vocabulary,
                  config.decoder.width,
                  config.embedding_scale > 0 ? config.embedding_scale : std::sqrt(width),
                  config.sinusoidal,
                  config.output_scale,
                  config.padding,
                  config.first_position,
                  config.decoder.moe.route_padding};
    loss_.config = CrossEntropyConfig::smoothed(config.label_smoothing, config.vocabulary);
    loss_.config.z = config.output_z;
    tables_ = {embedding_, config.tie_embeddings};
    dtables_ = {embedding_, config.tie_embeddings};
    weights = bind_weights<P, B>(*this, for_training);
  }

  template <class F>
  void visit_weights(F&& f) {
    tables_.visit_input(f);
    decoder_.visit_weights("decoder.", f);
    tables_.visit_head(f);
  }
  template <class F>
  void visit_gradients(F&& f) {
    dtables_.visit_input(f);
    decoder_.visit_gradients("decoder.", f);
    dtables_.visit_head(f);
  }
  const LanguageModelConfig& config() const { return config_; }
  /// Of the model's own loss.
  const CrossEntropyConfig& loss_config() const { return loss_.config; }
  Stack& decoder() { return decoder_; }
  template <class Router>
  void set_router(const Router& router) {
    decoder_.set_router(router);
  }
  std::vector<LayerStatistics> statistics(Context& ctx) const { return decoder_.statistics(ctx); }

  /// Sums of the cross entropy over the batch. With gradient_scale != 0 also the gradients of
  /// gradient_scale * sum(cross entropy) + routing_scale * (routing losses), accumulated into weights.gradient().
  LossSums loss(Context& ctx, const LanguageModelBatch& batch, Collective& comm, double gradient_scale,
                double routing_scale) {
    return loss(ctx, batch, comm, gradient_scale, routing_scale, [&](Matrix<S> logits, index_t first) {
      return loss_(ctx, logits, batch.labels + first, gradient_scale);
    });
  }
  /// The same with another loss over the logits, as Seq2Seq's.
  template <class Head>
  LossSums loss(Context& ctx, const LanguageModelBatch& batch, Collective& comm, double gradient_scale,
                double routing_scale, Head&& head) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t n = batch.tokens.count(), d = config_.decoder.width;
    const Matrix<S> x = ctx.arena.template matrix<S>(n, d), hidden = ctx.arena.template matrix<S>(n, d);
    embedding_.forward(ctx, tables_.input, batch.tokens, x);
    drop(ctx, x);
    decoder_.forward(ctx, batch.tokens, {}, x, hidden, comm);
    const Matrix<S> dhidden = gradient_scale != 0 ? ctx.arena.template matrix<S>(n, d) : Matrix<S>{};
    const LossSums sums =
        output_loss(ctx, embedding_, tables_.head(), dtables_.head(), hidden, dhidden, gradient_scale, head);
    if (gradient_scale == 0) return sums;
    const Matrix<S> dx = ctx.arena.template matrix<S>(n, d);
    decoder_.backward(ctx, batch.tokens, {}, dhidden, dx, {}, {}, routing_scale);
    drop(ctx, dx);
    embedding_.backward(ctx, dtables_.input, batch.tokens, dx);
    return sums;
  }

  /// Logits (B L, V) of whole texts: what step-by-step decoding must agree with.
  void logits(Context& ctx, const Tokens& tokens, Collective& comm, Matrix<S> out) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t d = config_.decoder.width;
    const Matrix<S> x = ctx.arena.template matrix<S>(tokens.count(), d),
                    h = ctx.arena.template matrix<S>(tokens.count(), d);
    embedding_.forward(ctx, tables_.input, tokens, x);
    decoder_.forward(ctx, tokens, {}, x, h, comm);
    embedding_.logits(ctx, tables_.head(), h.as_const(), out);
  }

  /// Prepares step-by-step decoding of texts of at most `room` tokens, `beams` rows a text, from the arena. A prompt is
  /// fed by steps, or by prefill() at once.
  void begin(Context& ctx, index_t texts, index_t room, index_t beams = 1) {
    decoder_.begin(ctx, {}, texts, room, beams);
  }
  /// What comes first of each text (texts, L), padded on the right, before the first step (Decoder::prefill).
  void prefill(Context& ctx, const Tokens& tokens, Collective& comm) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const Matrix<S> x = ctx.arena.template matrix<S>(tokens.count(), config_.decoder.width);
    embedding_.forward(ctx, tables_.input, tokens, x);
    decoder_.prefill(ctx, tokens, {}, x, comm);
  }
  /// Between two steps: row i of the next goes on from row rows[i] (n, in the backend's memory; Decoder::select).
  void select(Context& ctx, const std::int32_t* rows, index_t n) { decoder_.select(ctx, rows, n); }
  /// Logits (rows, V) of the next token, given one token a row.
  void step(Context& ctx, const Tokens& tokens, Collective& comm, Matrix<S> out) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t d = config_.decoder.width;
    const Matrix<S> x = ctx.arena.template matrix<S>(tokens.count(), d),
                    h = ctx.arena.template matrix<S>(tokens.count(), d);
    embedding_.forward(ctx, tables_.input, tokens, x);
    decoder_.step(ctx, tokens, x, h, comm);
    embedding_.logits(ctx, tables_.head(), h.as_const(), out);
  }

  Weights<P, B> weights;

 private:
  /// Forward and backward alike: the same elements are zero, the others scaled.
  void drop(Context& ctx, Matrix<S> x) const {
    if (!ctx.training || config_.decoder.dropout <= 0) return;
    const Random random = ctx.random.for_layer(layer_stream(true, 1000, 0));
    B::for_each_index(
        ctx, (x.size() + 7) / 8,
        Dropout8<S, typename P::compute>{x.data, x.data, x.size(), static_cast<float>(config_.decoder.dropout), random,
                                         Purpose::dropout});
  }

  LanguageModelConfig config_;
  Stack decoder_;
  Embedding<P, B> embedding_;
  CrossEntropy<P, B> loss_;
  EmbeddingTables<P, B, const S> tables_;
  EmbeddingTables<P, B, A> dtables_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

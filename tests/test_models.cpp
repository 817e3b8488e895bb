// SPDX-License-Identifier: Apache-2.0
// test_models.cpp -- the whole encoder-decoder in double: the gradient of every parameter under every pairing of
// routers, and a batch whose padding changes nothing. Read next: test_decoding.cpp, test_training.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/hf/switch_router.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace {

using namespace sparsemoe;

template <class RouterType, template <class, class> class NormType = LayerNorm, class Act = Relu>
struct With : SpecDefaults {
  using Router = RouterType;
  using Precision = Fp64;
  using Backend = Cpu;
  using Collective = Solo;
  using Activation = Act;
  template <class P, class B>
  using Norm = NormType<P, B>;
};

EncoderDecoderConfig small_model() {
  EncoderDecoderConfig c;
  c.vocabulary = 20;
  c.encoder.layers = 2, c.encoder.width = 8, c.encoder.heads = 2, c.encoder.head_width = 4, c.encoder.hidden = 12;
  c.encoder.moe.experts = 4;
  c.encoder.moe.tasks = 3;
  c.encoder.moe.z_coefficient = 0.1;
  c.encoder.moe.balance_coefficient = 0.3;
  c.encoder.moe.gate_deviation = 1;
  c.encoder.moe.task_deviation = 1;
  c.encoder.relative_positions = true;
  c.decoder = c.encoder;
  return c;
}

/// Three sentences, padded with id 0 to `source` and `target` columns.
struct Batch {
  std::vector<std::int32_t> source, target, labels, task = {0, 2, 0};
  std::vector<std::uint8_t> source_valid, target_valid;
  index_t source_length, target_length;
  Batch(index_t columns, index_t target_columns) : source_length(columns), target_length(target_columns) {
    const std::vector<std::vector<std::int32_t>> from = {{1, 5, 6, 7}, {2, 3, 4}, {9, 8}},
                                                 to = {{5, 6, 2}, {4, 2}, {7, 9, 2}};
    for (std::size_t s = 0; s < 3; ++s)
      for (index_t i = 0; i < columns; ++i) {
        const bool real = i < static_cast<index_t>(from[s].size());
        source.push_back(real ? from[s][static_cast<std::size_t>(i)] : 0);
        source_valid.push_back(real ? 1 : 0);
      }
    for (std::size_t s = 0; s < 3; ++s)
      for (index_t i = 0; i < target_columns; ++i) {
        const bool real = i < static_cast<index_t>(to[s].size());
        labels.push_back(real ? to[s][static_cast<std::size_t>(i)] : -1);
        target.push_back(!real ? 0 : i == 0 ? 1 : to[s][static_cast<std::size_t>(i - 1)]);
        target_valid.push_back(real ? 1 : 0);
      }
  }
  Seq2SeqBatch view() const {
    return {{3, source_length, source.data(), source_valid.data(), task.data(), 0, nullptr},
            {3, target_length, target.data(), target_valid.data(), task.data(), 0, nullptr},
            labels.data()};
  }
};

/// Cross entropy times 0.7 and every routing loss.
template <class Model>
double total_loss(Model& model, Cpu::Context& ctx, const Seq2SeqBatch& batch) {
  Solo solo;
  double total = 0.7 * model.loss(ctx, batch, solo, 0, 0).loss;
  for (const auto& l : model.encoder().statistics(ctx)) total += l.weighted_loss;
  for (const auto& l : model.decoder().statistics(ctx)) total += l.weighted_loss;
  return total;
}

/// The worst relative error of a parameter's gradient.
template <class E, class D>
double gradient_error(double dropout, double encoder_capacity, double decoder_capacity, double routing_scale = 1,
                      bool tied = true, void (*change)(EncoderDecoderConfig&) = nullptr) {
  Cpu::Context ctx(1);
  EncoderDecoderConfig config = small_model();
  config.encoder.dropout = config.decoder.dropout = dropout;
  config.encoder.moe.capacity_factor = encoder_capacity;
  config.decoder.moe.capacity_factor = decoder_capacity;
  config.encoder.moe.min_capacity = config.decoder.moe.min_capacity = 1;
  config.tie_embeddings = tied;
  if (change != nullptr) change(config);
  EncoderDecoder<E, D> model(ctx, config);
  model.weights.initialise(ctx, 7);
  ctx.training = true;
  ctx.random = {3, 5, 0};
  const Batch batch(4, 3);
  Solo solo;
  model.loss(ctx, batch.view(), solo, 0.7, routing_scale);
  double worst = 0;
  std::string where;
  for (const auto& p : model.weights.list())
    for (index_t i = 0; i < p.shape.size(); i += std::max<index_t>(1, p.shape.size() / 7)) {
      double& w = model.weights.master()[p.offset + i];
      const double old = w, step = 1e-5, g = model.weights.gradient()[p.offset + i];
      w = old + step;
      const double up = total_loss(model, ctx, batch.view());
      w = old - step;
      const double down = total_loss(model, ctx, batch.view());
      w = old;
      const double error = std::abs((up - down) / (2 * step) - g) / (1e-3 + std::abs(g));
      if (!(error <= worst)) worst = error, where = p.name;
    }
  MESSAGE("worst error ", worst, " in ", where);
  return worst;
}
// The loss is about 10, so rounding alone is 1e-15 / 1e-5 of a gradient, relative to at least 1e-3.
constexpr double tolerance = 1e-6;

TEST_CASE("the gradient of every parameter of the whole model: token encoder, task decoder") {
  CHECK(gradient_error<With<TopK<2>>, With<Task>>(0.2, 0, 0) < tolerance);
  CHECK(gradient_error<With<TopK<2>>, With<Task>>(0.2, 0, 0, 0.999) >
        tolerance);  // routing losses a thousandth too small
}
TEST_CASE("switch encoder with a capacity, sentence decoder scoring the source's mean") {
  CHECK(gradient_error<With<Switch, RmsNorm, Gelu>, With<Sentence, RmsNorm, Gelu>>(0.2, 1, 0) < tolerance);
}
TEST_CASE("sentence decoder scoring the mean of the target so far") {
  CHECK(gradient_error<With<Dense>, With<SentencePrefix>>(0.2, 0, 0) < tolerance);
}
TEST_CASE("an output head with a table of its own") {
  CHECK(gradient_error<With<Dense>, With<SentencePrefix>>(0.2, 0, 0, 1, false) < tolerance);
}
TEST_CASE("sentence encoder, hash decoder") { CHECK(gradient_error<With<Sentence>, With<Hash>>(0, 0, 1) < tolerance); }
TEST_CASE("gshard in both stacks, both rules, under capacity") {
  using Before = With<GShard<>, LayerNorm, Gated<Silu>>;
  using After = With<GShard<Gate::normalised_after_drop, true>, LayerNorm, Gated<Silu>>;
  CHECK(gradient_error<Before, After>(0.1, 1, 1) < tolerance);
}

// Losses over all sparse layers of a stack, here of probabilities and of combine weights: two sparse layers each, too
// few slots, padding routed in the encoder alone.
struct TightSwitch : hf::SwitchRouter438 {
  TightSwitch() { expert_capacity = 1; }
};
struct TightNllb : hf::NllbRouter {
  TightNllb() { expert_capacity = 3; }
};
void all_sparse(EncoderDecoderConfig& c) {
  for (StackConfig* s : {&c.encoder, &c.decoder}) {
    s->sparse_every = 1;
    s->moe.z_coefficient = 0;
    s->moe.jitter = 0.1, s->moe.jitter_experts = true;
  }
  c.encoder.moe.balance_scope = LossScope::sequence;
  c.encoder.moe.route_padding = true;
  c.decoder.moe.scores_ahead = true;
  c.decoder.moe.priority = Priority::batch;
  c.decoder.moe.output_masking = 0.3;
}
TEST_CASE("joint losses of two sparse layers, dropped tokens that pass, jitter that the experts see") {
  using E = With<TightSwitch>;
  using D = With<TightNllb>;
  CHECK(gradient_error<E, D>(0.2, 0, 0, 1, true, all_sparse) < tolerance);
  CHECK(gradient_error<E, D>(0.2, 0, 0, 0.999, true, all_sparse) > tolerance);
}

template <class E, class D>
void check_padding() {
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  EncoderDecoder<E, D> model(ctx, small_model());
  model.weights.initialise(ctx, 7);
  Solo solo;
  const auto losses_of = [&](const Batch& batch) {
    const LossSums s = model.loss(ctx, batch.view(), solo, 0, 0);
    return std::vector<double>{s.loss, s.nll, s.tokens, s.correct};
  };
  const Batch tight(4, 3), wide(9, 7);
  CHECK(losses_of(tight) == losses_of(wide));
  // The gradients, to the order of a sum.
  model.weights.initialise(ctx, 7);
  model.loss(ctx, tight.view(), solo, 1, 1);
  const std::vector<double> g(model.weights.gradient(), model.weights.gradient() + model.weights.total());
  model.weights.initialise(ctx, 7);
  model.loss(ctx, wide.view(), solo, 1, 1);
  double worst = 0;
  for (const auto& p : model.weights.list())
    for (index_t i = p.offset; i < p.offset + p.shape.size(); ++i)
      worst = std::max(worst, std::abs(g[static_cast<std::size_t>(i)] - model.weights.gradient()[i]));
  CHECK(worst < 1e-12);
}
TEST_CASE("padding changes no bit of the loss and nothing of the gradient") {
  check_padding<With<TopK<2>>, With<Task>>();
  check_padding<With<Sentence>, With<Hash>>();
}

}  // namespace

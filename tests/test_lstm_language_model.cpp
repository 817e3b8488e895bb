// SPDX-License-Identifier: Apache-2.0
// test_lstm_language_model.cpp -- the LSTM model with a sparse layer: its gradient against central differences, text in
// segments against the whole, the same bits on any number of threads, and that it learns.
// Read next: include/sparsemoe/model/lstm_language_model.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/lstm_language_model.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/update.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

constexpr index_t vocabulary = 17;

LstmLanguageModelConfig config() {
  LstmLanguageModelConfig c;
  c.vocabulary = vocabulary, c.width = 12, c.hidden = 16;
  c.moe.experts = 4;
  c.moe.gate_deviation = 0.5;
  return c;
}
LanguageModelBatch view(const CopyBatch& batch) { return {batch.target_tokens(), batch.labels.data()}; }

void check_gradient(const LstmLanguageModelConfig& c) {
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  LstmLanguageModel<With<TopK<2>, Fp64>> model(ctx, c);
  model.weights.initialise(ctx, 3);
  const CopyBatch batch(4, 5, vocabulary, 1);
  Solo solo;
  ctx.training = true;
  ctx.random = {5, 1, 0};
  const double scale = 0.5;
  // The routing losses are in the gradient with their coefficients, and in the sum below as the layer reports them.
  const auto total = [&] {
    double loss = scale * model.loss(ctx, view(batch), solo, 0, 0).loss;
    for (const auto& layer : model.statistics(ctx)) loss += layer.weighted_loss;
    return loss;
  };
  model.loss(ctx, view(batch), solo, scale, 1);
  const std::vector<double> gradient(model.weights.gradient(), model.weights.gradient() + model.weights.total());
  for (const auto& p : model.weights.list()) {
    double largest = 0;
    for (index_t q = 0; q < p.shape.size(); q += 1 + p.shape.size() / 23) {
      double& value = model.weights.storage()[p.offset + q];
      const double kept = value, h = 1e-5;
      value = kept + h;
      const double up = total();
      value = kept - h;
      const double down = total();
      value = kept;
      const double expected = (up - down) / (2 * h), got = gradient[static_cast<std::size_t>(p.offset + q)];
      INFO(p.name, " ", q, ": ", got, ", expected ", expected);
      CHECK(std::abs(expected - got) / std::max(1e-2, std::abs(expected)) < 1e-5);
      largest = std::max(largest, std::abs(got));
    }
    INFO(p.name);
    CHECK(largest > 1e-3);  // not a comparison of zeros
  }
}

/// Weights after `steps` steps, and the loss of a token in the last.
std::pair<std::vector<float>, double> trained(int threads, int steps) {
  Cpu::Context ctx(threads);
  LstmLanguageModelConfig c = config();
  c.dropout = 0.1;
  LstmLanguageModel<With<TopK<2>, Fp32>> model(ctx, c);
  model.weights.initialise(ctx, 3);
  AdamW<Fp32, Cpu> adamw(ctx, model.weights.list(), {});
  Updater<Fp32, Cpu> update;
  Solo solo;
  const CopyBatch batch(6, 7, vocabulary, 2);
  double loss = 0;
  for (int step = 0; step < steps; ++step) {
    ctx.training = true;
    ctx.random = {5, static_cast<std::uint32_t>(step), 0};
    const LossSums sums = model.loss(ctx, view(batch), solo, 0.05, 1);
    loss = sums.loss / sums.tokens;
    update(ctx, model.weights, adamw, 1e-2, solo);
    ctx.arena.reset();
  }
  return {model.weights.get(ctx), loss};
}

TEST_CASE("the gradient of an LSTM language model is that of its loss") {
  LstmLanguageModelConfig c = config();
  SUBCASE("as it is") {}
  SUBCASE("dropout and a sigmoid") { c.dropout = 0.2, c.sigmoid = true; }
  SUBCASE("a tied head, projected cells") { c.tied = true, c.cells = 20; }
  SUBCASE("a dense feed-forward") { c.sparse = false; }
  check_gradient(c);
}
TEST_CASE("text in segments gives what the whole text gives, and another start forgets") {
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  LstmLanguageModelConfig c = config();
  c.cells = 20;
  LstmLanguageModel<With<TopK<2>, Fp64>> model(ctx, c, false);
  model.weights.initialise(ctx, 3);
  const CopyBatch batch(3, 5, vocabulary, 1);
  Solo solo;
  const index_t n = batch.sentences, length = batch.target_length;
  const auto size = [](index_t k) { return static_cast<std::size_t>(k); };
  std::vector<double> full(size(n * length * vocabulary)), again(full.size()), part(full.size());
  model.logits(ctx, batch.target_tokens(), solo, {full.data(), n * length, vocabulary});
  for (const index_t segment : {1, 2, 3}) {
    auto state = model.state(ctx, n);
    for (index_t first = 0; first < length; first += segment) {
      std::vector<std::int32_t> ids;
      for (index_t s = 0; s < n; ++s)
        for (index_t i = first; i < first + segment; ++i) ids.push_back(batch.target[size(s * length + i)]);
      const std::vector<std::uint8_t> on(ids.size(), 1);
      const Matrix<double> out{part.data(), n * segment, vocabulary};
      model.logits(ctx, {n, segment, ids.data(), on.data(), batch.task.data(), first, nullptr}, solo, out, &state);
      double worst = 0;
      for (index_t s = 0; s < n; ++s)
        for (index_t i = 0; i < segment; ++i)
          for (index_t v = 0; v < vocabulary; ++v)
            if (batch.target_valid[size(s * length + first + i)] != 0)
              worst = std::max(
                  worst, std::abs(out(s * segment + i, v) - full[size((s * length + first + i) * vocabulary + v)]));
      CHECK(worst < 1e-12);
    }
  }
  model.logits(ctx, batch.target_tokens(), solo, {again.data(), n * length, vocabulary});
  CHECK(again == full);
}
TEST_CASE("the same bits on one, two and four threads") {
  const auto one = trained(1, 3).first;
  CHECK(trained(2, 3).first == one);
  CHECK(trained(4, 3).first == one);
}
TEST_CASE("it learns") {
  const double first = trained(1, 1).second;
  CHECK(first == doctest::Approx(std::log(17.0)).epsilon(0.5));
  CHECK(trained(1, 80).second < 0.3 * first);
}
TEST_CASE("what cannot work is refused") {
  Cpu::Context ctx(1);
  LstmLanguageModelConfig c = config();
  c.cells = -1;
  CHECK_THROWS_WITH_AS((LstmLanguageModel<With<TopK<2>, Fp32>>(ctx, c)),
                       "lstm model: cells must not be negative (0 is the width); got -1", Error);
}

}  // namespace

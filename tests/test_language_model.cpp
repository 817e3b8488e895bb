// SPDX-License-Identifier: Apache-2.0
// test_language_model.cpp -- the decoder-only model: its gradient against central differences, step-by-step decoding
// against the full pass, the same bits on any number of threads, and that it learns.
// Read next: include/sparsemoe/model/language_model.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/update.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

constexpr index_t vocabulary = 17;

LanguageModelConfig config(bool relative = false) {
  LanguageModelConfig c;
  c.vocabulary = vocabulary;
  c.decoder = model_config(vocabulary, 12, relative).decoder;
  return c;
}
/// The targets of the translation batch, as texts of a language model.
LanguageModelBatch view(const CopyBatch& batch) { return {batch.target_tokens(), batch.labels.data()}; }

template <class Router>
void check_gradient(const LanguageModelConfig& config) {
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  LanguageModel<With<Router, Fp64>> model(ctx, config);
  model.weights.initialise(ctx, 3);
  const CopyBatch batch(4, 5, vocabulary, 1);
  Solo solo;
  ctx.training = true;
  ctx.random = {5, 1, 0};
  const double scale = 0.5;
  // The routing losses are in the gradient with their coefficients, and in the sum below as the layers report them.
  const auto total = [&] {
    double loss = scale * model.loss(ctx, view(batch), solo, 0, 0).loss;
    for (const auto& layer : model.decoder().statistics(ctx)) loss += layer.weighted_loss;
    return loss;
  };
  model.loss(ctx, view(batch), solo, scale, 1);
  const std::vector<double> gradient(model.weights.gradient(), model.weights.gradient() + model.weights.total());
  double worst = 0, largest = 0;
  for (const auto& p : model.weights.list())
    for (index_t q = 0; q < p.shape.size(); q += 1 + p.shape.size() / 7) {
      double& value = model.weights.storage()[p.offset + q];
      const double kept = value, h = 1e-5;
      value = kept + h;
      const double up = total();
      value = kept - h;
      const double down = total();
      value = kept;
      const bool padding = p.name == "shared.weight" && q / p.shape.cols == config.padding;
      const double expected = padding ? 0 : (up - down) / (2 * h),
                   got = gradient[static_cast<std::size_t>(p.offset + q)];
      const double difference = std::abs(expected - got) / std::max(1e-2, std::abs(expected));
      INFO(p.name, " ", q, ": ", got, ", expected ", expected);
      CHECK(difference < 1e-5);
      worst = std::max(worst, difference), largest = std::max(largest, std::abs(got));
    }
  CHECK(largest > 0.1);  // not a comparison of zeros
}

/// Query heads that share keys, rotary positions and a window, as in Mixtral.
LanguageModelConfig mixtral() {
  LanguageModelConfig c = config();
  c.decoder.heads = 4, c.decoder.head_width = 6, c.decoder.kv_heads = 2;
  c.decoder.rotary_theta = 100, c.decoder.window = 3;
  c.sinusoidal = false;
  return c;
}

/// Prompts of different lengths at once, then steps at positions of the texts' own: the bits of steps alone, in
/// `alone` (text, position, V). Two rows a text.
template <class Model, class S>
void check_prefill(Cpu::Context& ctx, Model& model, const CopyBatch& batch, const std::vector<S>& alone) {
  const index_t n = batch.sentences, length = batch.target_length, beams = 2, columns = 4;
  const auto size = [](index_t k) { return static_cast<std::size_t>(k); };
  const std::vector<index_t> prompt = {4, 2, 3, 0};
  std::vector<std::int32_t> ids, task(size(n * beams)), positions(size(n * beams));
  std::vector<std::uint8_t> valid, on(size(n * beams), 1);
  for (index_t s = 0; s < n; ++s)
    for (index_t t = 0; t < columns; ++t) {
      ids.push_back(t < prompt[size(s)] ? batch.target[size(s * length + t)] : 0);
      valid.push_back(t < prompt[size(s)] ? 1 : 0);
    }
  Solo solo;
  const typename Arena<HostMemory>::Scope scope(ctx.arena);
  model.begin(ctx, n, 2 * length, beams);
  model.prefill(ctx, {n, columns, ids.data(), valid.data(), batch.task.data(), 0, nullptr}, solo);
  ids.assign(size(n * beams), 0);
  std::vector<std::int32_t> previous = ids;
  std::vector<S> logits(size(n * beams * vocabulary));
  int compared = 0;
  for (index_t t = 0; t < length; ++t) {
    for (index_t r = 0; r < n * beams; ++r) {
      const index_t s = r / beams, at = prompt[size(s)] + t;
      positions[size(r)] = static_cast<std::int32_t>(at);
      ids[size(r)] = at < length ? batch.target[size(s * length + at)] : 0;
      previous[size(r)] = at > 0 && at <= length ? batch.target[size(s * length + at - 1)] : -1;
      task[size(r)] = batch.task[size(s)];
    }
    model.step(ctx, {n * beams, 1, ids.data(), on.data(), task.data(), columns + t, previous.data(), positions.data()},
               solo, {logits.data(), n * beams, vocabulary});
    for (index_t r = 0; r < n * beams; ++r) {
      const index_t s = r / beams, at = prompt[size(s)] + t;
      if (at >= length) continue;
      ++compared;
      CHECK(std::equal(logits.begin() + r * vocabulary, logits.begin() + (r + 1) * vocabulary,
                       alone.begin() + (s * length + at) * vocabulary));
    }
  }
  CHECK(compared == beams * (n * length - 9));
}

template <class Router, class P>
double worst_step(const LanguageModelConfig& config) {
  using S = typename P::storage;
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  LanguageModel<With<Router, P>> model(ctx, config, false);
  model.weights.initialise(ctx, 3);
  const CopyBatch batch(4, 5, vocabulary, 1);
  Solo solo;
  const index_t n = batch.sentences, length = batch.target_length;
  const auto size = [](index_t k) { return static_cast<std::size_t>(k); };
  std::vector<S> full(size(n * length * vocabulary)), one(size(n * vocabulary));
  model.logits(ctx, batch.target_tokens(), solo, {full.data(), n * length, vocabulary});
  const std::vector<std::uint8_t> on(size(n), 1);
  const auto stepped = [&](const std::vector<index_t>& which) {
    std::vector<S> all;
    const auto rows = static_cast<index_t>(which.size());
    const typename Arena<HostMemory>::Scope scope(ctx.arena);
    model.begin(ctx, rows, length);
    std::vector<std::int32_t> previous(which.size(), -1), ids(which.size()), task(which.size());
    for (index_t t = 0; t < length; ++t) {
      for (std::size_t r = 0; r < which.size(); ++r) {
        ids[r] = batch.target[size(which[r] * length + t)];
        task[r] = batch.task[size(which[r])];
      }
      model.step(ctx, {rows, 1, ids.data(), on.data(), task.data(), t, previous.data()}, solo,
                 {one.data(), rows, vocabulary});
      all.insert(all.end(), one.begin(), one.begin() + rows * vocabulary);
      previous = ids;
    }
    return all;
  };
  const auto together = stepped({0, 1, 2, 3});
  double worst = 0;
  std::vector<S> one_by_one;
  for (index_t s = 0; s < n; ++s) {
    const auto alone = stepped({s});
    one_by_one.insert(one_by_one.end(), alone.begin(), alone.end());
    for (index_t t = 0; t < length; ++t)
      for (index_t v = 0; v < vocabulary; ++v) {
        const S got = together[size((t * n + s) * vocabulary + v)];
        CHECK(got == alone[size(t * vocabulary + v)]);  // to the bit
        if (batch.target_valid[size(s * length + t)] == 0) continue;
        const double difference =
            std::abs(static_cast<double>(got) - static_cast<double>(full[size((s * length + t) * vocabulary + v)]));
        if (!(difference <= worst)) worst = difference;
      }
  }
  check_prefill(ctx, model, batch, one_by_one);
  return worst;
}

/// Weights after `steps` steps, and the loss of a token in the last.
template <class P>
std::pair<std::vector<float>, double> trained(int threads, int steps) {
  Cpu::Context ctx(threads);
  LanguageModelConfig c = config();
  c.decoder.dropout = 0.1;
  LanguageModel<With<TopK<2>, P>> model(ctx, c);
  model.weights.initialise(ctx, 3);
  AdamW<P, Cpu> adamw(ctx, model.weights.list(), {});
  Updater<P, Cpu> update;
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

TEST_CASE("the gradient of a language model is that of its loss") {
  check_gradient<TopK<2>>(config());
  check_gradient<TopK<2>>(config(true));
  check_gradient<SentencePrefix>(config());
}
TEST_CASE("an output head of its own has its own gradient, and the padding id's row of the embedding none") {
  LanguageModelConfig c = config();
  c.tie_embeddings = false;
  c.output_scale = 3;
  c.padding = 1;  // what every text begins with
  c.first_position = 2;
  check_gradient<TopK<2>>(c);
  Cpu::Context ctx(1);
  const auto names = [&] {
    std::vector<std::string> all;
    const LanguageModel<With<TopK<2>, Fp64>> model(ctx, c);
    for (const auto& p : model.weights.list()) all.push_back(p.name);
    return all;
  };
  auto own = names();
  CHECK(own.back() == "lm_head.weight");
  c.tie_embeddings = true;
  own.pop_back();
  CHECK(names() == own);
  c.padding = vocabulary;
  CHECK_THROWS_WITH_AS(names(),
                       "model: padding must be an id below 17, or -1 for none, and first_position not negative; got 17 "
                       "and 2",
                       Error);
}
TEST_CASE("cached decoding equals the full pass, and a text its own bits in any company") {
  CHECK(worst_step<TopK<2>, Fp64>(config(true)) < 1e-12);
  CHECK(worst_step<TopK<2>, Fp32>(config()) < 1e-5);
  CHECK(worst_step<SentencePrefix, Fp64>(config()) < 1e-12);
  CHECK(worst_step<Hash, Fp64>(config()) < 1e-12);
}
TEST_CASE("shared keys, rotary positions and a window: the gradient, and cached decoding to the bit") {
  check_gradient<TopK<2>>(mixtral());
  CHECK(worst_step<TopK<2>, Fp64>(mixtral()) == 0);
  CHECK(worst_step<TopK<2>, Fp32>(mixtral()) == 0);
  LanguageModelConfig c = mixtral();
  c.decoder.kv_heads = 3;
  CHECK_THROWS_WITH_AS(c.check(), "decoder: kv_heads must divide the 4 heads; got 3", Error);
}
TEST_CASE("the same bits on one, two and four threads") {
  const auto one = trained<Fp32>(1, 3).first;
  CHECK(trained<Fp32>(2, 3).first == one);
  CHECK(trained<Fp32>(4, 3).first == one);
}
TEST_CASE("it learns") {
  const double first = trained<Fp32>(1, 1).second;
  CHECK(first == doctest::Approx(std::log(17.0)).epsilon(0.5));
  CHECK(trained<Fp32>(1, 80).second < 0.3 * first);
}

}  // namespace

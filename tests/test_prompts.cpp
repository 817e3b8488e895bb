// SPDX-License-Identifier: Apache-2.0
// test_prompts.cpp -- decoder-only models with rotary positions, shared key heads and a window: decoding with kept keys
// is the full forward pass bit for bit, and a search over prompts of different lengths is that of each alone.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/nn/norm.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace {

using namespace sparsemoe;

struct Spec : SpecDefaults {
  using Router = TopK<2>;
  using Precision = Fp32;
  using Backend = Cpu;
  using Collective = Solo;
  using Activation = Gated<Silu>;
  template <class P, class B>
  using Norm = RmsNorm<P, B>;
};
using Model = LanguageModel<Spec>;

LanguageModelConfig config_of(index_t kv_heads, double theta, index_t window) {
  LanguageModelConfig c;
  c.vocabulary = 40;
  c.sinusoidal = theta == 0;
  c.tie_embeddings = false;
  StackConfig& s = c.decoder;
  s.layers = 2, s.width = 24, s.heads = 4, s.head_width = 6, s.hidden = 32, s.sparse_every = 2;
  s.kv_heads = kv_heads, s.rotary_theta = theta, s.window = window, s.bias = false;
  s.moe.experts = 4;
  return c;
}
struct Example {
  Cpu::Context ctx;
  Solo solo;
  Model model;
  Example(index_t kv_heads, double theta, index_t window, int threads = 1)
      : Example(config_of(kv_heads, theta, window), threads) {}
  explicit Example(const LanguageModelConfig& config, int threads = 1) : ctx(threads), model(ctx, config, false) {
    model.weights.initialise(ctx, 5);
    // Logits that differ enough for a search to have something to find.
    std::vector<float> w = model.weights.get(ctx);
    for (const ParamInfo& p : model.weights.list())
      if (p.name == "lm_head.weight")
        for (index_t i = 0; i < p.shape.size(); ++i) w[static_cast<std::size_t>(p.offset + i)] *= 12;
    model.weights.set(ctx, w);
  }
};
std::vector<std::int32_t> text(index_t n, int seed) {
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>((i * i * 7 + i * 3 + seed * 11) % 37 + 3));
  return ids;
}
/// Texts side by side, padded on the right.
struct Batch {
  index_t rows, cols = 0;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> valid;
  explicit Batch(const std::vector<std::vector<std::int32_t>>& texts) : rows(static_cast<index_t>(texts.size())) {
    for (const auto& t : texts) cols = std::max(cols, static_cast<index_t>(t.size()));
    for (const auto& t : texts)
      for (index_t i = 0; i < cols; ++i) {
        const bool real = i < static_cast<index_t>(t.size());
        ids.push_back(real ? t[static_cast<std::size_t>(i)] : 0);
        valid.push_back(real ? 1 : 0);
      }
  }
  Tokens tokens() const { return {rows, cols, ids.data(), valid.data(), nullptr, 0, nullptr}; }
};

struct Kind {
  index_t kv_heads;
  double theta;
  index_t window;
};
const Kind kinds[] = {{0, 0, 0}, {2, 0, 0}, {0, 10000, 0}, {1, 10000, 0}, {2, 10000, 3}};

TEST_CASE("steps with kept keys give the full forward pass, bit for bit, from any prefill on") {
  for (const Kind& k : kinds) {
    CAPTURE(k.kv_heads);
    CAPTURE(k.theta);
    CAPTURE(k.window);
    Example e(k.kv_heads, k.theta, k.window);
    const index_t n = 9, v = 40;
    const Batch batch({text(n, 1), text(n, 2)});
    std::vector<float> whole(static_cast<std::size_t>(2 * n * v)), step(static_cast<std::size_t>(2 * v));
    e.model.logits(e.ctx, batch.tokens(), e.solo, {whole.data(), 2 * n, v});
    for (const index_t read : {0, 1, 4}) {
      CAPTURE(read);
      e.ctx.arena.reset();
      e.model.begin(e.ctx, 2, n);
      if (read > 0) {
        const auto all = batch.ids;
        const Batch prompt({{all.begin(), all.begin() + read}, {all.begin() + n, all.begin() + n + read}});
        e.model.prefill(e.ctx, prompt.tokens(), e.solo);
      }
      for (index_t t = read; t < n; ++t) {
        const std::vector<std::int32_t> ids = {batch.ids[static_cast<std::size_t>(t)],
                                               batch.ids[static_cast<std::size_t>(n + t)]};
        const std::vector<std::uint8_t> valid = {1, 1};
        e.model.step(e.ctx, {2, 1, ids.data(), valid.data(), nullptr, t, nullptr}, e.solo, {step.data(), 2, v});
        for (index_t r = 0; r < 2; ++r)
          for (index_t j = 0; j < v; ++j)
            REQUIRE(step[static_cast<std::size_t>(r * v + j)] == whole[static_cast<std::size_t>((r * n + t) * v + j)]);
      }
    }
  }
}

TEST_CASE("prompts of different lengths in one batch go on as each alone, greedy and with beams, on any threads") {
  for (const Kind& k : kinds) {
    CAPTURE(k.kv_heads);
    CAPTURE(k.theta);
    CAPTURE(k.window);
    const std::vector<std::vector<std::int32_t>> prompts = {text(5, 3), text(1, 4), text(8, 5), text(5, 6), text(2, 7)};
    for (const index_t beams : {1, 3}) {
      SearchOptions options;
      options.begin = 1, options.end = 2, options.max_length = 7;
      options.beams = options.nbest = beams;
      Example e(k.kv_heads, k.theta, k.window);
      const Batch batch(prompts);
      const SearchResult together = search(e.ctx, e.model, e.solo, batch.tokens(), options);
      Example two(k.kv_heads, k.theta, k.window, 2);
      const SearchResult threads = search(two.ctx, two.model, two.solo, batch.tokens(), options);
      for (std::size_t s = 0; s < prompts.size(); ++s) {
        CAPTURE(s);
        const Batch one({prompts[s]});
        const SearchResult alone = search(e.ctx, e.model, e.solo, one.tokens(), options);
        REQUIRE(alone[0].size() == together[s].size());
        for (std::size_t i = 0; i < alone[0].size(); ++i) {
          CHECK(alone[0][i].tokens == together[s][i].tokens);
          CHECK(alone[0][i].score == together[s][i].score);
          CHECK(threads[s][i].tokens == together[s][i].tokens);
          CHECK(threads[s][i].score == together[s][i].score);
        }
        // The first token is the argmax of the full pass over the prompt.
        if (beams == 1) {
          std::vector<float> logits(static_cast<std::size_t>(one.cols * 40));
          e.model.logits(e.ctx, one.tokens(), e.solo, {logits.data(), one.cols, 40});
          const auto last = logits.end() - 40;
          CHECK(alone[0][0].tokens.at(0) == std::max_element(last, logits.end()) - last);
        }
      }
    }
  }
}

TEST_CASE("where positions depend on the length of a text, a prompt is read as the whole text it is") {
  const RotaryScaling grown{.growth = 2, .limit = 5};
  const RotaryScaling longer{.frequencies = {1, 0.1, 0.01}, .beyond = {0.5, 0.3, 0.2}, .limit = 5};
  for (const RotaryScaling& scaling : {grown, longer}) {
    CAPTURE(scaling.growth);
    LanguageModelConfig config = config_of(2, 50, 0);
    config.decoder.rotary = scaling;
    Example e(config);
    SearchOptions options;
    options.begin = 1, options.end = -1, options.max_length = 1;
    std::vector<std::vector<std::int32_t>> prompts = {text(5, 3), text(1, 5), text(9, 6), text(7, 7)};
    for (int seed = 0; seed < 12; ++seed) prompts.push_back(text(6, seed));  // the first length beyond the limit
    const SearchResult found = search(e.ctx, e.model, e.solo, Batch(prompts).tokens(), options);
    for (std::size_t s = 0; s < prompts.size(); ++s) {
      CAPTURE(s);
      const Batch one({prompts[s]});
      std::vector<float> logits(static_cast<std::size_t>(one.cols * 40));
      e.model.logits(e.ctx, one.tokens(), e.solo, {logits.data(), one.cols, 40});
      const auto last = logits.end() - 40, best = std::max_element(last, logits.end());
      double sum = 0;
      for (auto z = last; z != logits.end(); ++z) sum += std::exp(static_cast<double>(*z) - static_cast<double>(*best));
      CHECK(found[s][0].tokens.at(0) == best - last);
      CHECK(found[s][0].score == doctest::Approx(-std::log(sum)).epsilon(1e-4));
    }
  }
}

TEST_CASE("no n-gram of a prompt and its continuation comes twice; without the option some do") {
  const std::vector<std::vector<std::int32_t>> prompts = {text(5, 3), text(1, 4), text(20, 5), text(12, 6)};
  const auto repeats = [](const std::vector<std::int32_t>& ids, index_t from, index_t n) {
    int count = 0;  // n-grams that end in the continuation and were there before
    for (index_t i = std::max<index_t>(from - n + 1, 0); i + n <= static_cast<index_t>(ids.size()); ++i)
      for (index_t j = 0; j < i; ++j)
        count += std::equal(ids.begin() + i, ids.begin() + i + n, ids.begin() + j) ? 1 : 0;
    return count;
  };
  for (const index_t n : {1, 2, 3})
    for (const index_t beams : {1, 3}) {
      int with = 0, without = 0;
      for (const bool excluded : {true, false}) {
        SearchOptions options;
        options.begin = 1, options.end = 2, options.max_length = options.min_length = 12;
        options.beams = options.nbest = beams;
        options.no_repeat_ngram = excluded ? n : 0;
        Example e(2, 1e4, 0);
        const SearchResult found = search(e.ctx, e.model, e.solo, Batch(prompts).tokens(), options);
        for (std::size_t s = 0; s < prompts.size(); ++s)
          for (const Hypothesis& h : found[s]) {
            std::vector<std::int32_t> all = prompts[s];
            all.insert(all.end(), h.tokens.begin(), h.tokens.end());
            (excluded ? with : without) += repeats(all, static_cast<index_t>(prompts[s].size()), n);
          }
      }
      CHECK(with == 0);
      CHECK(without > 0);
    }
}

TEST_CASE("an empty prompt and one with a hole are refused") {
  Example e(0, 0, 0);
  SearchOptions options;
  Batch batch({text(3, 1), text(3, 2)});
  batch.valid[3] = 0;
  CHECK_THROWS_WITH_AS(search(e.ctx, e.model, e.solo, batch.tokens(), options),
                       doctest::Contains("prompt 1 must have at least one token"), Error);
  batch.valid[3] = 1, batch.valid[1] = 0;
  CHECK_THROWS_AS(search(e.ctx, e.model, e.solo, batch.tokens(), options), Error);
}

TEST_CASE("a window is what a mask of the same keys is; a far token changes nothing") {
  Example e(2, 10000, 3);
  const index_t n = 9, v = 40;
  Batch batch({text(n, 1)});
  std::vector<float> one(static_cast<std::size_t>(n * v)), other(one.size());
  e.model.logits(e.ctx, batch.tokens(), e.solo, {one.data(), n, v});
  batch.ids[0] = 39 - batch.ids[0];
  e.model.logits(e.ctx, batch.tokens(), e.solo, {other.data(), n, v});
  // Two layers see 2 (window - 1) tokens back.
  for (index_t t = 0; t < n; ++t) {
    const auto at = static_cast<std::ptrdiff_t>(t * v);
    CHECK(std::equal(one.begin() + at, one.begin() + at + v, other.begin() + at) == (t > 4));
  }
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// test_routers_hf.cpp -- what the routers of transformers' models ask of a sparse layer: padding that is routed, slots
// as a number, dropped tokens that pass, and a second expert that is drawn; each against plain loops. Their losses:
// test_models.cpp, test_loss_scope.cpp. Read next: hf/switch_router.hpp, hf/nllb_router.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <set>

#include "sparsemoe/hf/mixtral.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/hf/switch_router.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;
using detail::RouterBatch;
using detail::RouterBench;
using detail::RouterRun;

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double w = 0;
  for (std::size_t i = 0; i < a.size(); ++i) w = std::max(w, std::abs(a[i] - b[i]));
  return w;
}
std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

TEST_CASE("what holds for every router holds for those of transformers' models") {
  using router_properties::holds;
  holds(hf::SwitchRouter438{{{}, 0}});
  holds(hf::MixtralRouter<2>{});
  // With a drawn second expert a token's choice depends on its place in the batch, in evaluation too, as there: below.
  for (const bool before : {false, true}) {
    hf::NllbRouter router;
    router.normalise_before = before, router.expert_capacity = 0, router.eval_share = 0;
    holds(router);
  }
}

TEST_CASE("padding that is routed is as any token: outputs, slots, losses and gradients are those of a full batch") {
  const RouterBench<TopK<2>, Cpu> bench({}, {});
  const RouterBatch ragged = bench.batch(5, 7, true);
  RouterBatch full = ragged;
  full.valid.assign(full.valid.size(), 1);
  for (const double capacity : {0.0, 0.7})
    for (const LossScope scope : {LossScope::global, LossScope::sequence}) {
      MoeConfig plain = bench.config();
      plain.capacity_factor = capacity, plain.min_capacity = 1;
      plain.balance_scope = scope;
      plain.shared_hidden = 3;
      MoeConfig routed = plain;
      routed.route_padding = true;
      const std::vector<double> weights = bench.weights(plain);
      const RouterBench<TopK<2>, Cpu>::How how{.training = true, .weights = &weights};
      const RouterRun all = bench.run(plain, full, how);
      CHECK(bench.run(routed, ragged, how).same_bits(all));
      CHECK_FALSE(bench.run(plain, ragged, how).same_bits(all));
      const LayerReport report = bench.gradient(routed, ragged);
      INFO(report.text());
      CHECK(report.passed());
    }
}

/// The choices k T + t that get one of `slots` slots: by position within a group, first choices before second ones.
template <int K>
std::set<index_t> served(const RouterRun& run, const std::vector<std::uint8_t>& routed, index_t group, int slots) {
  const index_t n = run.tokens;
  std::set<index_t> out;
  for (index_t first = 0; first < n; first += group) {
    std::vector<int> taken(16, 0);
    for (index_t k = 0; k < K; ++k)
      for (index_t t = first; t < first + group; ++t) {
        const std::int32_t e = run.chosen[at(t * K + k)];
        if (routed[at(t)] != 0 && e >= 0 && taken[at(e)]++ < slots) out.insert(k * n + t);
      }
  }
  return out;
}
std::set<index_t> kept(const RouterRun& run) {
  std::set<index_t> out;
  for (std::size_t i = 0; i < run.slot.size(); ++i)
    if (run.slot[i] >= 0) out.insert(static_cast<index_t>(i));
  return out;
}

struct Switches {
  hf::SwitchRouter438 router;
  RouterBench<hf::SwitchRouter438, Cpu> bench;
  MoeConfig config;
  RouterBatch batch;
  explicit Switches(std::int32_t slots) : router{{{}, slots}}, bench(router, {}), config(bench.config()) {
    config.route_padding = true;
    config.balance_scope = LossScope::sequence;
    batch = bench.batch(6, 9, true);
  }
};
TEST_CASE("switch: a number of slots for each sequence, in evaluation too; a token without one gives w x") {
  for (const int slots : {1, 2, 4})
    for (const bool training : {false, true}) {
      const Switches s(slots);
      const RouterRun run = s.bench.run(s.config, s.batch, {.training = training});
      CHECK(run.capacity == slots);
      CHECK(kept(run) == served<1>(run, std::vector<std::uint8_t>(54, 1), 9, slots));
      CHECK(kept(run).size() < 54);
      std::vector<double> y = s.bench.expected_output(run, s.batch);
      for (index_t t = 0; t < 54; ++t) {
        const double p = run.scores[at(t * 5 + run.chosen[at(t)])];
        CHECK(run.combine[at(t)] == p);
        if (run.slot_of(t, 0) >= 0) continue;
        for (index_t j = 0; j < 12; ++j) y[at(t * 12 + j)] += p * s.batch.x[at(t * 12 + j)];
      }
      CHECK(worst(run.y, y) < 1e-12);
    }
}
struct GivesNothing : hf::SwitchRouter438 {
  static constexpr bool passes_dropped = false;
};
TEST_CASE("a dropped token that passes: its gradient goes through the gate and through x") {
  const Switches s(1);
  const LayerReport report = s.bench.gradient(s.config, s.batch);
  INFO(report.text());
  CHECK(report.passed());

  // Difference quotients of one token that was dropped, and of one of the gate's weights; then what a backward pass
  // that forgets one of the two ways would give, which must be seen.
  const std::vector<double> weights = s.bench.weights();
  const auto loss = [&](const RouterBatch& b, const std::vector<double>& w) {
    const RouterRun r = s.bench.run(s.config, b, {.training = true, .weights = &w});
    double sum = r.loss;
    for (std::size_t i = 0; i < r.y.size(); ++i) sum += r.y[i] * b.dy[i];
    return sum;
  };
  const double step = 1e-5;
  const RouterRun run = s.bench.run(s.config, s.batch, {.training = true, .weights = &weights});
  index_t t = 0;
  while (run.slot_of(t, 0) >= 0) ++t;
  RouterBatch up = s.batch, down = s.batch;
  up.x[at(t * 12)] += step, down.x[at(t * 12)] -= step;
  const double dx = (loss(up, weights) - loss(down, weights)) / (2 * step);
  CHECK(run.dx[at(t * 12)] == doctest::Approx(dx).epsilon(1e-7));
  CHECK(std::abs(run.dx[at(t * 12)] - run.combine[at(t)] * s.batch.dy[at(t * 12)] - dx) > 1e-3);

  std::vector<double> more = weights, less = weights;
  more[0] += step, less[0] -= step;  // the gate's matrix comes first
  const double dw = (loss(s.batch, more) - loss(s.batch, less)) / (2 * step);
  CHECK(run.dw[0] == doctest::Approx(dw).epsilon(1e-7));
  const RouterBench<GivesNothing, Cpu> other(GivesNothing{s.router}, {});
  const RouterRun without = other.run(s.config, s.batch, {.training = true, .weights = &weights});
  CHECK(kept(without) == kept(run));
  CHECK(std::abs(without.dw[0] - dw) > 1e-3);
}
struct Plain : TopK<2> {
  static constexpr Gate gate = Gate::probability;
};
struct Passing : Plain {
  static constexpr bool passes_dropped = true;
};
TEST_CASE("a null that is chosen is not dropped, and passes nothing") {
  const RouterBench<Passing, Cpu> bench({}, {.experts = 6});
  MoeConfig config = bench.config();
  config.experts = 4, config.free.nulls = 2;
  const RouterBatch batch = bench.batch(5, 7, true);
  const std::vector<double> weights = bench.weights(config);
  const RouterRun loose = bench.run(config, batch, {.training = true, .weights = &weights});
  const RouterBench<Plain, Cpu> plain({}, {.experts = 6});
  CHECK(plain.run(config, batch, {.training = true, .weights = &weights}).y == loose.y);
  config.capacity_factor = 0.5, config.min_capacity = 1;
  const LayerReport report = bench.gradient(config, batch);
  INFO(report.text());
  CHECK(report.passed());
}

TEST_CASE("nllb: slots and weights of every policy are what plain loops say, and the gradient holds") {
  using hf::SecondExpert;
  for (const SecondExpert second : {SecondExpert::all, SecondExpert::random, SecondExpert::sampling})
    for (const bool before : {false, true})
      for (const bool training : {false, true}) {
        CAPTURE(static_cast<int>(second));
        CAPTURE(before);
        CAPTURE(training);
        hf::NllbRouter router;
        router.second = second, router.normalise_before = before;
        router.expert_capacity = 7, router.eval_share = 0.21;
        const RouterBench<hf::NllbRouter, Cpu> bench(router, {});
        const RouterBatch batch = bench.batch(5, 7, true);
        const RouterRun run = bench.run(bench.config(), batch, {.training = training});
        CHECK(run.capacity == (training ? 7 : 8));  // ceil(0.21 * 35): of all tokens, padding too
        const auto slots = kept(run);
        CHECK(slots == served<2>(run, batch.valid, 35, run.capacity));
        index_t rejected = 0, dropped = 0;
        for (index_t t = 0; t < 35; ++t) {
          if (batch.valid[at(t)] == 0) {
            CHECK(run.combine[at(t * 2)] == 0);
            continue;
          }
          const auto p = [&](index_t k) {
            return run.scores[at(t * 5 + Choice<2>::expert_of(run.chosen[at(t * 2 + k)]))];
          };
          const auto counts = [&](index_t k) { return before || slots.count(k * 35 + t) > 0; };
          const double sum = (counts(0) ? p(0) : 0) + (counts(1) ? p(1) : 0);
          rejected += run.chosen[at(t * 2 + 1)] < 0 ? 1 : 0;
          for (index_t k = 0; k < 2; ++k) {
            const bool own = k == 1 && before && second == SecondExpert::random;
            const bool here = slots.count(k * 35 + t) > 0;
            dropped += here ? 0 : 1;
            CHECK(run.combine[at(t * 2 + k)] == doctest::Approx(here ? p(k) / (own ? 1 : sum) : 0).epsilon(1e-14));
          }
        }
        CHECK(dropped > rejected);
        CHECK((rejected > 0) == (second == SecondExpert::random));
        CHECK(worst(run.y, bench.expected_output(run, batch)) < 1e-12);
        if (!training) continue;
        const LayerReport report = bench.gradient(bench.config(), batch);
        INFO(report.text());
        CHECK(report.passed());
      }
}
TEST_CASE("nllb: the second expert is drawn with the probabilities it should have, for each token on its own") {
  constexpr int experts = 16, tokens = 20000;
  std::vector<double> p(experts);
  double sum = 0;
  for (int e = 0; e < experts; ++e) sum += p[at(e)] = e == 0 ? 20 : 1 + e % 4;
  for (double& v : p) v /= sum;
  hf::NllbRouter router;
  const auto draw = [&](const std::vector<double>& scores, int t) {
    TokenInfo info;
    info.unit = t;
    info.random = {3, 1, 2};
    return router.choose(Row<const double>{scores.data(), experts}, info).expert[1];
  };
  router.second = hf::SecondExpert::sampling;  // by p without the first
  std::vector<double> share(experts, 0);
  for (int t = 0; t < tokens; ++t) share[at(draw(p, t))] += 1.0 / tokens;
  for (int e = 0; e < experts; ++e)
    CHECK(share[at(e)] == doctest::Approx(e == 0 ? 0 : p[at(e)] / (1 - p[0])).epsilon(0).scale(1).epsilon(0.01));
  // What one token draws says nothing of the next one's, shifted by any number of experts.
  const std::vector<double> uniform(experts, 1.0 / experts);
  std::vector<int> shifted(experts, 0);
  for (int t = 0; t < tokens; ++t) ++shifted[at((draw(uniform, t) - draw(uniform, t + 1) + experts) % experts)];
  CHECK(*std::max_element(shifted.begin(), shifted.end()) < tokens / 10);
  router.second = hf::SecondExpert::random;  // kept with twice its own probability
  int kept_ones = 0;
  for (int t = 0; t < tokens; ++t) kept_ones += draw(p, t) >= 0 ? 1 : 0;
  CHECK(static_cast<double>(kept_ones) / tokens == doctest::Approx(2 * p[3]).epsilon(0.1));
}

}  // namespace

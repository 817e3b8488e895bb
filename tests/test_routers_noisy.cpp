// SPDX-License-Identifier: Apache-2.0
// test_routers_noisy.cpp -- learned noise on the gate: one and two levels, the importance and load losses, and the load
// estimator against what it estimates; sigmoid scores with a bias. Read next: include/sparsemoe/kernels/noise.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/hierarchical.hpp"
#include "sparsemoe/routers/sigmoid.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;
using router_properties::holds;

TEST_CASE("noisy top-k") {
  holds(NoisyTopK<2>{});
  holds(NoisyTopK<4>{}, {.experts = 7, .width = 5, .hidden = 3, .seed = 5});
}
/// Noise from a table, so that one value can be drawn again.
struct Table : NoisyTopK<2> {
  const double* values = nullptr;
  double noise(const Random&, std::uint64_t index) const { return values[index]; }
};
TEST_CASE("P(x, i) is how often i is among the k best when its own noise alone is drawn again") {
  constexpr index_t n = 6, tokens = 4;
  constexpr int draws = 20000;
  std::vector<double> clean, raw, noise, noisy(tokens * n), scores(tokens * n);
  for (index_t i = 0; i < tokens * n; ++i) {
    clean.push_back(Random{3}.normal(Purpose::test, static_cast<std::uint64_t>(i)));
    raw.push_back(Random{4}.normal(Purpose::test, static_cast<std::uint64_t>(i)));
    noise.push_back(Random{5}.normal(Purpose::test, static_cast<std::uint64_t>(i)));
  }
  std::vector<std::int32_t> threshold(tokens * 2), chosen(tokens * 2), weight(tokens, 1);
  Table router;
  router.values = noise.data();
  const GateColumns<Table> columns{n, 0};
  const NoisyLogits<Table, double> logits{
      router, {clean.data(), tokens, n}, {raw.data(), tokens, n}, {noisy.data(), tokens, n}, Random{}};
  const NoisyLogitsRow<Table, double> row{logits, columns, {scores.data(), tokens, n}, {threshold.data(), tokens, 2}};
  for (index_t t = 0; t < tokens; ++t) {
    row(SerialTeam{}, t);
    const auto top = best<2>(Row<const double>{scores.data() + t * n, n});
    std::copy_n(top.expert, 2, chosen.begin() + t * 2);
  }
  const LoadTerm<Table, double> load{logits, columns, {threshold.data(), tokens, 2}, chosen.data(), weight.data()};
  int between = 0;
  for (index_t t = 0; t < tokens; ++t)
    for (index_t e = 0; e < n; ++e) {
      std::vector<double> again(noisy.begin() + t * n, noisy.begin() + (t + 1) * n);
      int inside = 0;
      for (int d = 0; d < draws; ++d) {
        const auto key = static_cast<std::uint64_t>((t * n + e) * draws + d);
        again[static_cast<std::size_t>(e)] =
            clean[static_cast<std::size_t>(t * n + e)] + Random{6}.normal(Purpose::test, key) * logits.sigma(t, e);
        const auto top = best<2>(Row<const double>{again.data(), n});
        inside += top.expert[0] == e || top.expert[1] == e ? 1 : 0;
      }
      const double p = load.probability(t, e);
      INFO("token ", t, ", expert ", e, ": P is ", p, ", of ", draws, " draws ", inside, " were among the best");
      CHECK(std::abs(inside - p * draws) <= 5 * std::sqrt(draws * p * (1 - p)) + 1);
      between += p > 0.1 && p < 0.9 ? 1 : 0;
    }
  CHECK(between >= 6);  // else the test would say little
}
TEST_CASE("the load counts tokens where nothing is random: in evaluation, and with no more experts than choices") {
  using Bench = detail::RouterBench<NoisyTopK<2>, Cpu>;
  const Bench bench({}, {});
  const auto batch = bench.batch(4, 6, true);
  const auto run = bench.run(bench.config(), batch, {});
  double mean = 0, square = 0;
  for (const auto n : run.statistics.load) mean += static_cast<double>(n) / 5;
  for (const auto n : run.statistics.load)
    square += (static_cast<double>(n) - mean) * (static_cast<double>(n) - mean) / 5;
  CHECK(run.statistics.expected_load == doctest::Approx(square / (mean * mean)).epsilon(1e-12));
  MoeConfig two = bench.config();
  two.experts = 2;
  CHECK(bench.run(two, batch, {.training = true}).statistics.expected_load < 1e-12);  // both get every token
}
TEST_CASE(
    "at the start routing is pure noise: the gate and its noise are 0, and the importance differs by chance alone") {
  using Bench = detail::RouterBench<NoisyTopK<2>, Cpu>;
  const Bench bench({}, {});
  std::vector<double> start = bench.weights();
  MoE<Bench::Spec> layer(bench.config());
  auto params = layer.params<const double>();
  for (const ParamInfo& p : list_params(params)) {
    if (p.name.rfind("router.", 0) != 0) continue;
    CHECK(p.init.kind == Init::Kind::zero);
    std::fill_n(start.begin() + p.offset, p.shape.size(), 0.0);
  }
  const auto run = bench.run(bench.config(), bench.batch(40, 50, false), {.training = true, .weights = &start});
  CHECK(run.statistics.importance < 0.02);
  CHECK(run.statistics.expected_load < 0.02);
  for (const auto n : run.statistics.load) CHECK(std::abs(static_cast<double>(n) - 800) < 5 * std::sqrt(800));
}
TEST_CASE("two levels of noisy gates") { holds(Hierarchical<2, 2, 3>{}, {.experts = 9, .any_expert = false}); }

TEST_CASE("sigmoid scores: groups, a bias that chooses and does not weigh, a scale") {
  const std::vector<float> bias = {0.3f, -0.2f, 0.0f, 0.1f, -0.1f, 0.2f, 0.05f, -0.3f};
  SigmoidTopK<2> router;
  router.weight_scale = 2.5;
  holds(router);
  router.bias = bias.data(), router.groups = 4, router.kept_groups = 2;
  holds(router, {.experts = 8, .lower_index_wins = false, .any_expert = false});
}
TEST_CASE("the groups kept are those whose two best experts sum highest, and only their experts are chosen") {
  const std::vector<double> p = {0.9, 0.1, 0.2, 0.6, 0.5, 0.1, 0.55, 0.5, 0.3};  // group sums 1.1, 1.1, 1.05
  SigmoidTopK<3> router;
  router.groups = 3, router.kept_groups = 2;
  const auto pick = [&] {
    const auto c = router.choose(Row<const double>{p.data(), 9}, TokenInfo{});
    return std::vector<std::int32_t>(c.expert, c.expert + 3);
  };
  CHECK(pick() == std::vector<std::int32_t>{0, 3, 4});
  router.kept_groups = 1;  // a tie: the lower group
  CHECK(pick() == std::vector<std::int32_t>{0, 2, 1});
  const std::vector<float> bias = {0, 0, 0, 0, 0, 0, 0.1f, 0, 0};
  router.bias = bias.data();
  CHECK(pick() == std::vector<std::int32_t>{6, 7, 8});
}
TEST_CASE("the selection bias moves by gamma towards an even load, and stays where the load is even") {
  std::vector<float> bias(4, 0);
  update_selection_bias(bias, {10, 4, 8, 10}, 0.5);  // mean 8
  CHECK(bias == std::vector<float>{-0.5f, 0.5f, 0, -0.5f});
  // On a batch with a favourite the bias evens out the load, without any loss.
  using Bench = detail::RouterBench<SigmoidTopK<2>, Cpu>;
  const Bench plain({}, {});
  const auto batch = plain.with_constant_feature(plain.batch(20, 20, false));
  auto weights = plain.weights();
  for (double& w : weights) w *= 0.3;
  plain.favour(weights, 2);
  const auto spread = [](const std::vector<std::int64_t>& load) {
    return *std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end());
  };
  std::vector<float> b(5, 0);
  std::vector<std::int64_t> load;
  for (int step = 0; step < 400; ++step) {
    SigmoidTopK<2> router;
    router.bias = b.data();
    const Bench bench(router, {});
    load = bench.run(bench.config(), batch, {.weights = &weights}).statistics.load;
    if (step == 0) CHECK(load[2] == 400);
    update_selection_bias(b, load, 5e-3);
  }
  INFO(load[0], " ", load[1], " ", load[2], " ", load[3], " ", load[4]);
  CHECK(spread(load) < 40);
}

}  // namespace

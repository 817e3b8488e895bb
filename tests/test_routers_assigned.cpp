// SPDX-License-Identifier: Apache-2.0
// test_routers_assigned.cpp -- routers that share out whole groups of tokens: expert choice, masks over the batch,
// balanced assignment, transport plans, overflow sent on; and who gets a slot when there are too few. Read next:
// include/sparsemoe/kernels/order.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sparsemoe/routers/balanced.hpp"
#include "sparsemoe/routers/expert_choice.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/no_token_left_behind.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/assign_body.hpp"

namespace {

using namespace assign_body;

TEST_CASE("expert choice: every expert takes its share, ties to the earlier token") {
  holds(ExpertChoice{}, {.any_expert = false, .idle_experts = false});
  holds(ExpertChoice{1.0}, {.experts = 7, .width = 5, .hidden = 4, .any_expert = false, .idle_experts = false});
  // 4 tokens, 2 experts, one token each on average: 2 places an expert.
  CHECK(assign(ExpertChoice{1.0}, {.1, .9, .5, .5, .5, .5, .2, .8}, 2) == Picks{-1, 1, 0, -1, 0, -1, -1, 1});
}
TEST_CASE("expert choice over groups of a given size: the load is the same for all, and no token is counted twice") {
  using Bench = detail::RouterBench<ExpertChoice, Cpu>;
  const Bench bench({}, {});
  MoeConfig config = bench.config();
  config.group = 40;
  const auto run = bench.run(config, bench.batch(8, 10, false), {.training = true});
  for (const auto n : run.statistics.load) CHECK(n == 2 * 16);  // two groups of 40, 40 * 2 / 5 each
}
TEST_CASE("strictly balanced: masks over the batch in training, thresholds in evaluation") {
  holds(StrictlyBalanced{2.0}, {.any_expert = false, .idle_experts = false});
  const std::vector<double> p = {.1, .9, .5, .5, .6, .4, .2, .8};
  CHECK(assign(StrictlyBalanced{1.0}, p, 2) == Picks{-1, 1, 0, -1, 0, -1, -1, 1});
  CHECK(assign(StrictlyBalanced{1.0}, p, 2, false, 0, {.45, .85}) == Picks{-1, 1, 0, -1, 0, -1, -1, -1});
}
TEST_CASE("no token left behind: what overflows goes to the next best expert with a place") {
  holds(NoTokenLeftBehind{});
  // Five tokens that all prefer expert 0, two places each.
  const std::vector<double> p = {.6, .3, .1, .6, .1, .3, .6, .3, .1, .6, .3, .1, .6, .3, .1};
  const auto r = [](std::int32_t e) { return Choice<2>::rejected(e); };
  CHECK(assign(NoTokenLeftBehind{}, p, 3, true, 2) == Picks{0, -1, 0, -1, r(0), 1, r(0), 1, r(0), 2});
  NoTokenLeftBehind twice;
  twice.rounds = 2;
  CHECK(assign(twice, p, 3, true, 2) == Picks{0, -1, 0, -1, r(0), 1, r(0), 1, r(0), -1});
  CHECK(assign(NoTokenLeftBehind{}, p, 3, false, 0) == Picks{0, -1, 0, -1, 0, -1, 0, -1, 0, -1});
}

/// Which tokens of a batch keep their choice k, under a priority.
struct Kept {
  std::vector<std::set<index_t>> of;  // (E) choices k T + t
  detail::RouterRun run;
};
template <class Router>
Kept kept(Priority priority, const detail::RouterBatch& batch, index_t group = 0) {
  const detail::RouterBench<Router, Cpu> bench({}, {});
  MoeConfig config = bench.config();
  config.capacity_factor = 0.5 * Router::top_k, config.min_capacity = 1;
  config.priority = priority, config.group = group;
  Kept k{{}, bench.run(config, batch, {.training = true})};
  CHECK(k.run.statistics.dropped > 0);
  k.of.resize(5);
  for (index_t s = 0; s < k.run.offsets[5]; ++s)
    k.of[static_cast<std::size_t>(k.run.expert[static_cast<std::size_t>(s)])].insert(
        k.run.source[static_cast<std::size_t>(s)]);
  for (std::size_t i = 1; group == 0 && i < static_cast<std::size_t>(k.run.offsets[5]); ++i)  // still by position
    CHECK((k.run.expert[i - 1] < k.run.expert[i] || k.run.source[i - 1] < k.run.source[i]));
  const std::vector<double> y = bench.expected_output(k.run, batch);
  REQUIRE(k.run.y.size() == y.size());
  double worst = 0;  // the compiler may fuse a multiplication and an addition in one of the two
  for (std::size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(k.run.y[i] - y[i]));
  CHECK(worst < 1e-12);
  return k;
}
TEST_CASE("who gets a slot: by position, by best score of the token, by score of the choice, at random") {
  const detail::RouterBench<TopK<2>, Cpu> bench({}, {});
  const auto batch = bench.batch(6, 9, true);
  const index_t n = batch.count();
  for (const index_t group : {index_t(0), index_t(17)})
    for (const Priority priority : {Priority::position, Priority::batch, Priority::score}) {
      const Kept k = kept<TopK<2>>(priority, batch, group);
      const index_t size = group > 0 ? group : n;
      // Again, one choice after another: sort the choices of a group, and let each expert take the first ones.
      std::vector<std::set<index_t>> expected(5);
      for (index_t first = 0; first < n; first += size) {
        std::vector<index_t> order;
        for (index_t k2 = 0; k2 < 2; ++k2)
          for (index_t t = first; t < std::min(first + size, n); ++t)
            if (batch.valid[static_cast<std::size_t>(t)] != 0) order.push_back(k2 * n + t);
        const auto score = [&](index_t c, index_t k2) {
          const auto t = static_cast<std::size_t>(c % n);
          return k.run.scores[t * 5 + static_cast<std::size_t>(k.run.chosen[t * 2 + static_cast<std::size_t>(k2)])];
        };
        std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
          if (priority == Priority::score) return score(a, a / n) > score(b, b / n);
          if (a / n != b / n) return a / n < b / n;
          return priority == Priority::batch && score(a, 0) > score(b, 0);
        });
        std::vector<int> taken(5, 0);
        for (const index_t c : order) {
          const auto e = static_cast<std::size_t>(k.run.chosen[static_cast<std::size_t>(c % n * 2 + c / n)]);
          if (taken[e]++ < k.run.capacity) expected[e].insert(c);
        }
      }
      CHECK(k.of == expected);
    }
  const Kept position = kept<TopK<2>>(Priority::position, batch), random = kept<TopK<2>>(Priority::random, batch);
  CHECK(position.of != random.of);
  for (std::size_t e = 0; e < 5; ++e) CHECK(position.of[e].size() == random.of[e].size());
}
TEST_CASE("slots by score are refused in a decoder, and where there are no scores") {
  MoeConfig config;
  config.experts = 4, config.width = 4, config.hidden = 4, config.causal = true;
  config.priority = Priority::random;
  CHECK_NOTHROW(config.check());
  config.priority = Priority::batch;
  CHECK_THROWS_WITH_AS(config.check(), doctest::Contains("in a decoder slots go by position or at random"), Error);
  config.causal = false;
  using Bench = detail::RouterBench<Hash, Cpu>;
  CHECK_THROWS_WITH_AS(MoE<Bench::Spec>{config}, doctest::Contains("slots by score are for routers that score"), Error);
}

}  // namespace

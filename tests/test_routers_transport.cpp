// SPDX-License-Identifier: Apache-2.0
// test_routers_transport.cpp -- balanced assignment (BASE) against the best of all assignments, and Sinkhorn's plan.
// Read next: include/sparsemoe/routers/base.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/base.hpp"
#include "sparsemoe/routers/sinkhorn.hpp"
#include "tests/assign_body.hpp"

namespace {

using namespace assign_body;

std::vector<double> positive_values(index_t n, std::uint64_t seed) {
  auto v = detail::random_values(n, seed, 9);
  for (double& x : v) x = std::exp(x);
  return v;
}
/// The largest sum of scores with `places` tokens an expert, by trying all.
double best_sum(const std::vector<double>& s, index_t experts, std::vector<index_t>& places, index_t t = 0) {
  if (t * experts == static_cast<index_t>(s.size())) return 0;
  double best = -1e30;
  for (index_t e = 0; e < experts; ++e) {
    if (places[static_cast<std::size_t>(e)] == 0) continue;
    --places[static_cast<std::size_t>(e)];
    best = std::max(best, s[static_cast<std::size_t>(t * experts + e)] + best_sum(s, experts, places, t + 1));
    ++places[static_cast<std::size_t>(e)];
  }
  return best;
}
TEST_CASE("BASE: the same number of tokens for every expert, and the largest sum of scores") {
  holds(Base{}, {.any_expert = false});
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const index_t n = 9, experts = 3;
    const auto scores = positive_values(n * experts, seed);
    std::vector<double> logits;
    for (const double s : scores) logits.push_back(std::log(s));
    for (const double increment : {1.0 / 50, 1e-4}) {
      Base router;
      router.increment = increment, router.least_increment = 1e-6, router.rounds = 100000;
      const Picks chosen = assign(router, scores, experts);
      double sum = 0;
      std::vector<index_t> count(3, 0), places(3, 3);
      for (std::size_t t = 0; t < chosen.size(); ++t) {
        REQUIRE(chosen[t] >= 0);
        ++count[static_cast<std::size_t>(chosen[t])];
        sum += logits[t * 3 + static_cast<std::size_t>(chosen[t])];
      }
      CHECK(count == places);
      const auto [low, high] = std::minmax_element(logits.begin(), logits.end());
      const double best = best_sum(logits, experts, places);
      CHECK(sum <= best + 1e-12);
      CHECK(sum >= best - static_cast<double>(n) * increment * (*high - *low) - 1e-12);
    }
    Base hurried;
    hurried.rounds = 1;
    const Picks chosen = assign(hurried, scores, experts);
    for (int e = 0; e < 3; ++e) CHECK(std::count(chosen.begin(), chosen.end(), e) == 3);
    const Picks greedy = assign(Base{}, scores, experts, false);
    for (index_t t = 0; t < n; ++t)
      CHECK(greedy[static_cast<std::size_t>(t)] == best<1>(Row<const double>{scores.data() + t * 3, 3}).expert[0]);
  }
}
TEST_CASE("Sinkhorn: the plan's columns even out the load that the plain scores do not; large logits do no harm") {
  holds(Sinkhorn<1>{}, {.any_expert = false});
  holds(Sinkhorn<2>{}, {.any_expert = false});
  const index_t n = 400, experts = 4;
  auto scores = positive_values(n * experts, 3);
  for (std::size_t i = 0; i < scores.size(); i += 4) scores[i] *= 20;  // a favourite
  const auto load = [&](const Picks& chosen) {
    std::vector<double> count(4, 0);
    for (const auto e : chosen) ++count.at(static_cast<std::size_t>(e));
    return *std::max_element(count.begin(), count.end()) / 100;  // 1: even
  };
  const Sinkhorn<1> router;
  CHECK(load(assign(router, scores, experts, false)) > 3);
  CHECK(load(assign(router, scores, experts)) < 1.25);
  for (double& s : scores) s = std::exp(std::log(s) * 100);  // logits of some hundreds: a few passes are not enough
  CHECK(load(assign(router, scores, experts, false)) > 3);
  CHECK(load(assign(router, scores, experts)) < 2);
  // The plan itself: after the last pass its columns sum to 1 / E, here against the plain iteration in doubles.
  const index_t small = 12;
  const auto p = positive_values(small * experts, 4);
  std::vector<double> row(12, 1), column(4, 1);
  for (int i = 0; i < 1000; ++i) {
    for (std::size_t t = 0; t < 12; ++t) {
      double sum = 0;
      for (std::size_t e = 0; e < 4; ++e) sum += column[e] * p[t * 4 + e];
      row[t] = 1.0 / (12 * sum);
    }
    for (std::size_t e = 0; e < 4; ++e) {
      double sum = 0;
      for (std::size_t t = 0; t < 12; ++t) sum += row[t] * p[t * 4 + e];
      column[e] = 1.0 / (4 * sum);
    }
  }
  const Picks chosen = assign(Sinkhorn<1>{1e-12, 10000}, p, experts);
  for (std::size_t t = 0; t < 12; ++t) {
    std::vector<double> plan(4);
    for (std::size_t e = 0; e < 4; ++e) plan[e] = p[t * 4 + e] * column[e];
    CHECK(chosen[t] == std::max_element(plan.begin(), plan.end()) - plan.begin());
  }
}

}  // namespace

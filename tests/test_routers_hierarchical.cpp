// SPDX-License-Identifier: Apache-2.0
// test_routers_hierarchical.cpp -- two levels of top-2 (HierarchicalGShard) against the buffers of Mesh TensorFlow's
// formulation, in plain loops: slots of branches hold tokens with an importance, and each branch routes its slots
// again. Read next: include/sparsemoe/routers/hierarchical_gshard.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <array>
#include <map>

#include "sparsemoe/routers/hierarchical_gshard.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;
constexpr index_t branches = 3, leaves = 4, experts = branches * leaves;
using Router = HierarchicalGShard<branches>;
using Bench = detail::RouterBench<Router, Cpu>;
std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// What one level of top-2 gives: for each row two experts (-1: none), their weights, and whether they found a slot.
struct Level2 {
  struct Pick {
    index_t expert = -1;
    double weight = 0;
    index_t slot = -1;
  };
  std::vector<std::array<Pick, 2>> rows;
};
/// importance(r): 1, two experts; 0.5, one, the best, with weight 1; 0, none.
Level2 top2(const std::vector<std::vector<double>>& p, const std::vector<double>& importance,
            const std::vector<double>& draw, bool random, index_t capacity) {
  Level2 out;
  out.rows.resize(p.size());
  for (std::size_t r = 0; r < p.size(); ++r) {
    if (importance[r] == 0) continue;
    const auto best_but = [&](index_t not_this) {
      index_t top = -1;
      for (index_t e = 0; e < static_cast<index_t>(p[r].size()); ++e)
        if (e != not_this && (top < 0 || p[r][at(e)] > p[r][at(top)])) top = e;
      return top;
    };
    const bool full = importance[r] == 1;
    const index_t first = full ? best_but(-1) : -1, second = best_but(first);
    const double g1 = full ? p[r][at(first)] : 0, g2 = second >= 0 ? p[r][at(second)] : 0;
    if (full) out.rows[r][0] = {first, g1 / (g1 + g2), -1};
    const bool sent = second >= 0 && (!random || 2 * g2 / (g1 + g2) > draw[r]);
    out.rows[r][1] = {second, g2 / (g1 + g2), sent ? -1 : -2};
  }
  std::map<index_t, index_t> taken;
  for (std::size_t k = 0; k < 2; ++k)
    for (auto& row : out.rows) {
      auto& pick = row[k];
      if (pick.expert < 0 || pick.slot == -2) continue;
      if (capacity == 0 || taken[pick.expert] < capacity) pick.slot = taken[pick.expert]++;
    }
  return out;
}
index_t room(double factor, index_t tokens, index_t n, index_t least) {
  if (factor <= 0) return 0;
  const auto share = static_cast<index_t>(factor * static_cast<double>(tokens) / static_cast<double>(n));
  return std::min(tokens, std::max(share, std::min(least, tokens)));
}

/// The weight of each (token, expert).
using Weights = std::map<std::pair<index_t, index_t>, double>;
Weights plain(const detail::RouterRun& run, const detail::RouterBatch& batch, const Router& router, index_t group,
              bool training, const Random& random) {
  Weights out;
  const Router::Factors f = training ? router.training : router.evaluation;
  for (index_t begin = 0; begin < batch.count(); begin += group) {
    const index_t end = std::min(begin + group, batch.count()), tokens = end - begin;
    std::vector<std::vector<double>> outer;
    std::vector<double> importance, draw;
    const auto uniform = [&](index_t t, int which) {
      TokenInfo info;
      info.unit = t, info.random = random;
      return double(info.uniform(which));
    };
    for (index_t t = begin; t < end; ++t) {
      const double* row = run.scores.data() + t * run.columns;
      outer.emplace_back(row, row + branches);
      importance.push_back(batch.valid[at(t)] != 0 ? 1 : 0);
      draw.push_back(uniform(t, 0));
    }
    const index_t slots = room(f.branch, tokens, branches, router.min_capacity);
    const Level2 first = top2(outer, importance, draw, training && router.random_second, slots);
    const index_t places = room(f.expert, slots > 0 ? slots : tokens, leaves, router.min_capacity);
    for (index_t i = 0; i < branches; ++i) {
      struct Slot {
        index_t token;
        double weight;
      };
      std::map<index_t, Slot> buffer;  // by slot
      for (index_t t = begin; t < end; ++t)
        for (const auto& pick : first.rows[at(t - begin)])
          if (pick.expert == i && pick.slot >= 0) buffer[pick.slot] = {t, pick.weight};
      std::vector<std::vector<double>> inner;
      std::vector<double> weighs, inner_draw;
      std::vector<Slot> order;
      for (const auto& [slot, held] : buffer) {
        const double* row = run.scores.data() + held.token * run.columns + branches + i * leaves;
        inner.emplace_back(row, row + leaves);
        weighs.push_back(0.5 * ((held.weight > 0.5 ? 1 : 0) + (held.weight > 0 ? 1 : 0)));
        inner_draw.push_back(uniform(held.token, 1));
        order.push_back(held);
      }
      const Level2 second = top2(inner, weighs, inner_draw, training && router.random_second, places);
      for (std::size_t s = 0; s < order.size(); ++s)
        for (const auto& pick : second.rows[s])
          if (pick.slot >= 0) out[{order[s].token, i * leaves + pick.expert}] = order[s].weight * pick.weight;
    }
  }
  return out;
}

TEST_CASE("what holds for every router, and the gradient of both levels") {
  router_properties::holds(HierarchicalGShard<3>{}, {.experts = 9, .any_expert = false});
  Router tight;
  tight.training = {1.0, 1.0}, tight.min_capacity = 1;
  const Bench bench(tight, {.experts = experts, .seed = 9});
  const LayerReport report = bench.gradient(bench.config(), bench.batch(4, 6, true));
  INFO(report.text());
  CHECK(report.passed());
}

TEST_CASE("choices and weights are those of two levels of buffers, under every capacity and group") {
  index_t dropped_somewhere = 0, rejected_somewhere = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed)
    for (const Router::Factors f : {Router::Factors{0, 0}, {1.0, 0}, {2.0, 1.0}, {0.6, 0.7}, {0, 0.4}})
      for (const index_t group : {index_t(0), index_t(20), index_t(40)})
        for (const bool training : {true, false})
          for (const bool random : {true, false}) {
            Router router;
            router.training = router.evaluation = f;
            router.min_capacity = 1, router.random_second = random;
            const Bench bench(router, {.experts = experts, .seed = seed});
            const detail::RouterBatch batch = bench.batch(5, 24, true);
            MoeConfig c = bench.config();
            c.group = group;
            const auto run = bench.run(c, batch, {.training = training});
            const Weights expected =
                plain(run, batch, router, group > 0 ? group : batch.count(), training, {seed, 2, 3});
            Weights got;
            for (index_t t = 0; t < batch.count(); ++t) {
              double sum = 0;
              index_t kept = 0, rejected = 0;
              for (index_t k = 0; k < 3; ++k) {
                const std::int32_t e = run.chosen[at(t * 3 + k)];
                rejected += e < -1 ? 1 : 0;
                if (run.slot_of(t, k) < 0) continue;
                got[{t, e}] = run.combine[at(t * 3 + k)];
                sum += run.combine[at(t * 3 + k)], ++kept;
              }
              if (kept == 3) CHECK(sum == doctest::Approx(1));
              if (batch.valid[at(t)] != 0) (training && random ? rejected_somewhere : dropped_somewhere) += rejected;
            }
            REQUIRE(got.size() == expected.size());
            for (const auto& [key, w] : expected) {
              REQUIRE(got.count(key) == 1);
              CHECK(std::abs(got[key] - w) < 1e-14);
            }
          }
  CHECK(dropped_somewhere > 0);
  CHECK(rejected_somewhere > 0);
}

TEST_CASE("the balance loss is that of the branches plus that of each branch's experts, by its share of the tokens") {
  const Bench bench(Router{}, {.experts = experts, .seed = 4});
  const detail::RouterBatch batch = bench.batch(5, 24, true);
  const auto run = bench.run(bench.config(), batch, {.training = true});
  double n = 0, loss = 0;
  std::vector<double> members(branches), mass(branches);
  std::vector<std::vector<double>> count(branches, std::vector<double>(leaves)), inner = count;
  for (index_t t = 0; t < batch.count(); ++t) {
    if (batch.valid[at(t)] == 0) continue;
    const double* p = run.scores.data() + t * run.columns;
    const index_t e = Choice<1>::expert_of(run.chosen[at(t * 3)]), i = e / leaves;
    n += 1, members[at(i)] += 1, count[at(i)][at(e % leaves)] += 1;
    for (index_t j = 0; j < branches; ++j) mass[at(j)] += p[j];
    for (index_t j = 0; j < leaves; ++j) inner[at(i)][at(j)] += p[branches + i * leaves + j];
  }
  for (index_t i = 0; i < branches; ++i) {
    const double m = members[at(i)];
    loss += double(branches) * (m / n) * (mass[at(i)] / n);
    for (index_t j = 0; j < leaves && m > 0; ++j)
      loss += m / n * double(leaves) * (count[at(i)][at(j)] / m) * (inner[at(i)][at(j)] / m);
  }
  CHECK(run.statistics.balance == doctest::Approx(loss).epsilon(1e-12));
}

TEST_CASE("its capacities are its own: those of MoeConfig are refused") {
  const Bench bench(Router{}, {.experts = experts});
  MoeConfig c = bench.config();
  c.capacity_factor = 1;
  const detail::RouterBatch batch = bench.batch(2, 4, false);
  CHECK_THROWS_WITH_AS(bench.run(c, batch, {}),
                       "moe: this router has capacities of its own; set the capacity factors to 0", Error);
  c.capacity_factor = 0, c.experts = 10;
  CHECK_THROWS_AS(bench.run(c, batch, {}), Error);
}

}  // namespace

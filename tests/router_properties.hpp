// SPDX-License-Identifier: Apache-2.0
// tests/router_properties.hpp -- holds(): what every router must satisfy, on the batch of check_router and, where
// rapidcheck is installed, on random batches, sizes, capacities and groups, with the smallest one that fails.
// RC_PARAMS="seed=... max_success=..." tries others. Read next: include/sparsemoe/testing/check_router.hpp.
#pragma once

#include <doctest/doctest.h>

#include <set>

#include "sparsemoe/testing/check_router.hpp"

#if SPARSEMOE_HAS_RAPIDCHECK
#include <rapidcheck.h>
#include <stdlib.h>
#endif

namespace router_properties {

using namespace sparsemoe;

#if SPARSEMOE_HAS_RAPIDCHECK
inline double worst(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return 1e300;
  double w = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]) / (1 + std::abs(b[i]));
    if (!(d <= w)) w = d;
  }
  return w;
}

/// Choices are distinct, slots unique and within capacity, weights are what the gate says, outputs are the weighted sum
/// of what was kept; in evaluation a sentence has the same bits alone, in a batch, and with more padding.
template <class Router>
bool random_batches_hold(const Router& router, const RouterCheckOptions& options) {
  using Bench = detail::RouterBench<Router, Cpu>;
  ::setenv("RC_PARAMS", "seed=1 max_success=60", 0);
  return rc::check("slots, weights, outputs and padding of random batches", [&] {
    RouterCheckOptions o = options;
    o.width = *rc::gen::inRange(2, 20);
    o.hidden = *rc::gen::inRange(1, 12);
    o.sentences = *rc::gen::inRange(2, 7);
    o.length = *rc::gen::inRange(2, 14);
    o.seed = *rc::gen::inRange(1, 1 << 20);
    const double share = *rc::gen::elementOf(std::vector<double>{0, 0.2, 0.5, 1, 1.5, 4});
    const index_t group = *rc::gen::elementOf(std::vector<index_t>{0, 3, 7, 40});
    const bool training = *rc::gen::arbitrary<bool>();
    const Bench bench(router, o);
    const detail::RouterBatch batch = bench.batch(o.sentences, o.length, true);
    MoeConfig c = bench.config();
    if (Bench::drops()) {
      (training ? c.capacity_factor : c.eval_capacity_factor) = share * static_cast<double>(bench.top_k());
      c.min_capacity = 1, c.group = group;
    }
    const auto run = bench.run(c, batch, {.training = training});
    RC_ASSERT(bench.slot_complaint(run, batch, c.group > 0 ? c.group : batch.count()) == "");
    const index_t K = bench.top_k();
    for (index_t t = 0; t < batch.count(); ++t) {
      std::set<std::int32_t> chosen;
      for (index_t k = 0; k < K; ++k) {
        const std::int32_t v = run.chosen[static_cast<std::size_t>(bench.unit(batch, t) * K + k)];
        if (v != -1) RC_ASSERT(chosen.insert(Choice<1>::expert_of(v)).second);
        const double w = run.combine[static_cast<std::size_t>(t * K + k)];
        RC_ASSERT(std::abs(w - bench.expected_weight(run, batch, t, k)) < 1e-13);
      }
    }
    RC_ASSERT(worst(run.y, bench.expected_output(run, batch)) < 1e-11);

    const auto all = bench.run(bench.config(), batch, {});
    const detail::RouterBatch wide = batch.widened(batch.length + o.hidden);
    RC_ASSERT(wide.narrowed(bench.run(bench.config(), wide, {}).y, batch.length) == all.y);
    for (index_t s = 0; s < batch.sentences; ++s) {
      const detail::RouterBatch one = batch.sentence(s);
      const auto alone = bench.run(bench.config(), one, {});
      RC_ASSERT(std::equal(alone.y.begin(), alone.y.end(), all.y.begin() + s * batch.length * o.width));
    }
  });
}
#endif

template <class Router>
void holds(const Router& router, const RouterCheckOptions& options = {}) {
  const RouterReport report = check_router(router, options);
  INFO(report.text());
  CHECK(report.passed());
  CHECK(report.properties.size() > 25);
#if SPARSEMOE_HAS_RAPIDCHECK
  CHECK(random_batches_hold(router, options));
#endif
}

}  // namespace router_properties

// SPDX-License-Identifier: Apache-2.0
// test_routers_beside.cpp -- what stands beside the experts of a sparse layer: copies, constants and nulls, which are
// chosen like experts and cost no product, and a shared expert that is not chosen. Read next:
// include/sparsemoe/nn/free_experts.hpp, include/sparsemoe/nn/shared_expert.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/testing/router_bench.hpp"

namespace {

using namespace sparsemoe;
template <Gate G>
struct Best : TopK<2> {
  static constexpr Gate gate = G;
};
template <Gate G = Gate::normalised>
struct Beside {
  using Router = Best<G>;
  detail::RouterBench<Router, Cpu> bench;
  MoeConfig config;
  detail::RouterBatch batch;
  std::vector<double> weights;
  detail::RouterRun run;
  /// 3 experts, 2 copies, 2 constants, 2 nulls: 9 columns.
  explicit Beside(bool training = true, double capacity = 0, index_t shared = 0)
      : bench({}, {.experts = 9}), config(bench.config()), batch(bench.batch(5, 7, true)) {
    config.experts = 3;
    config.free = {2, 2, 2};
    config.shared_hidden = shared;
    config.capacity_factor = capacity, config.min_capacity = 1;
    weights = bench.weights(config);
    run = bench.run(config, batch, {.training = training, .weights = &weights});
  }
  std::vector<double> leaf(const std::string& name) const {
    auto params = MoE<typename detail::RouterBench<Router, Cpu>::Spec>(config).template params<const double>();
    for (const ParamInfo& p : list_params(params))
      if (p.name == name) return {weights.begin() + p.offset, weights.begin() + p.offset + p.shape.size()};
    return {};
  }
  /// What expert e gives for token t, in plain loops.
  std::vector<double> output(index_t e, index_t t) const {
    const auto D = static_cast<std::size_t>(batch.width), at = static_cast<std::size_t>(t) * D;
    const std::vector<double> x(batch.x.begin() + t * batch.width, batch.x.begin() + (t + 1) * batch.width);
    if (e < 3) {
      const auto wi = leaf("experts.wi"), wo = leaf("experts.wo");
      const auto F = static_cast<std::size_t>(config.hidden), first = static_cast<std::size_t>(e) * D * F;
      std::vector<double> y(D, 0);
      for (std::size_t f = 0; f < F; ++f) {
        double h = 0;
        for (std::size_t j = 0; j < D; ++j) h += batch.x[at + j] * wi[first + j * F + f];
        for (std::size_t j = 0; j < D; ++j) y[j] += Gelu::value(h) * wo[first + f * D + j];
      }
      return y;
    }
    if (e < 5) return x;
    if (e >= 7) return std::vector<double>(D, 0);
    const auto v = leaf("constants.v"), mix = leaf("constants.mix");
    const auto c = static_cast<std::size_t>(e - 5);
    double z[2] = {0, 0};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t j = 0; j < D; ++j) z[i] += x[j] * mix[(c * D + j) * 2 + i];
    const double a0 = std::exp(z[0]) / (std::exp(z[0]) + std::exp(z[1]));
    std::vector<double> y(D);
    for (std::size_t j = 0; j < D; ++j) y[j] = a0 * x[j] + (1 - a0) * v[c * D + j];
    return y;
  }
};
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double w = 0;
  for (std::size_t i = 0; i < a.size(); ++i) w = std::max(w, std::abs(a[i] - b[i]));
  return w;
}

template <Gate G>
void gives_what_it_says(double capacity) {
  const Beside<G> b(true, capacity);
  std::vector<double> y(b.batch.x.size(), 0);
  std::vector<int> chosen(9, 0), taken(9, 0);
  bool weights_hold = true;
  for (index_t t = 0; t < b.batch.count(); ++t) {
    if (b.batch.valid[static_cast<std::size_t>(t)] == 0) continue;
    double sum = 0;
    const auto expert = [&](index_t k) { return b.run.chosen[static_cast<std::size_t>(t * 2 + k)]; };
    const auto p = [&](index_t k) { return b.run.scores[static_cast<std::size_t>(t * 9 + expert(k))]; };
    for (index_t k = 0; k < 2; ++k)
      if (G == Gate::normalised || b.run.slot_of(t, k) >= 0) sum += p(k);
    for (index_t k = 0; k < 2; ++k) {
      const index_t e = expert(k);
      ++chosen[static_cast<std::size_t>(e)];
      if (b.run.slot_of(t, k) < 0) continue;
      ++taken[static_cast<std::size_t>(e)];
      const double w = b.run.combine[static_cast<std::size_t>(t * 2 + k)];
      weights_hold = weights_hold && std::abs(w - (G == Gate::probability ? p(k) : p(k) / sum)) < 1e-14;
      const auto out = b.output(e, t);
      for (index_t j = 0; j < b.batch.width; ++j)
        y[static_cast<std::size_t>(t * b.batch.width + j)] += w * out[static_cast<std::size_t>(j)];
    }
  }
  CHECK(weights_hold);
  CHECK(worst(b.run.y, y) < 1e-12);
  int dropped = 0;
  for (std::size_t e = 0; e < 9; ++e) {
    CHECK(chosen[e] > 0);
    CHECK(b.run.statistics.load[e] == chosen[e]);
    if (e < 3 && capacity > 0) CHECK(taken[e] == std::min<int>(chosen[e], b.run.capacity));
    if (e >= 3 && e < 7) CHECK(taken[e] == chosen[e]);  // they cost nothing: no capacity
    if (e >= 7) CHECK(taken[e] == 0);                   // a null has no row
    if (e < 3) dropped += chosen[e] - taken[e];
  }
  CHECK(b.run.statistics.dropped == dropped);
  CHECK((dropped > 0) == (capacity > 0));
}
TEST_CASE("copies, constants and nulls give what plain loops say, under every gate, with and without a capacity") {
  for (const double capacity : {0.0, 0.7}) {
    gives_what_it_says<Gate::normalised>(capacity);
    gives_what_it_says<Gate::normalised_after_drop>(capacity);
    gives_what_it_says<Gate::probability>(capacity);
  }
}
TEST_CASE("gradients of free experts, of a shared one, and of their losses") {
  for (const bool shared : {false, true}) {
    Beside<> b(true, 0.7, shared ? 6 : 0);
    b.config.free.balance = 0.4;
    const LayerReport report = b.bench.gradient(b.config, b.batch);
    INFO(report.text());
    CHECK(report.passed());
  }
  Beside<Gate::normalised_after_drop> b;
  const LayerReport report = b.bench.gradient(b.config, b.batch);
  INFO(report.text());
  CHECK(report.passed());
}
TEST_CASE("the balance loss: factors of free experts by hand, 1 where routing is uniform, in every scope") {
  const BalanceFactors<double> factors{3, 6, 0.25};
  double uniform = 0;
  for (index_t e = 0; e < 9; ++e) uniform += factors.of(e) / 9;
  CHECK(uniform == doctest::Approx(1).epsilon(1e-15));
  Beside<> b;
  b.config.free.balance = 0.25;
  for (const LossScope scope : {LossScope::global, LossScope::group, LossScope::sequence}) {
    b.config.balance_scope = scope;
    const auto run = b.bench.run(b.config, b.batch, {.training = true, .weights = &b.weights});
    const index_t size = scope == LossScope::sequence ? 7 : b.batch.count();
    double loss = 0, all = 0;
    for (index_t first = 0; first < b.batch.count(); first += size) {
      std::vector<double> f(9, 0), p(9, 0);
      double n = 0;
      for (auto t = static_cast<std::size_t>(first); t < static_cast<std::size_t>(first + size); ++t) {
        if (b.batch.valid[t] == 0) continue;
        ++n;
        for (std::size_t k = 0; k < 2; ++k) ++f[static_cast<std::size_t>(run.chosen[t * 2 + k])];
        for (std::size_t e = 0; e < 9; ++e) p[e] += run.scores[t * 9 + e];
      }
      for (std::size_t e = 0; e < 9; ++e) loss += 9 * (e < 3 ? 1 : 0.25) / ((3 + 6 * 0.25) / 9) * f[e] / (2 * n) * p[e];
      all += n;
    }
    CHECK(run.statistics.balance == doctest::Approx(loss / all).epsilon(1e-13));
  }
}
TEST_CASE("padding, company and threads change no bit beside free and shared experts") {
  const Beside<> b(false, 0, 6);
  const auto wide = b.batch.widened(10);
  const auto padded = b.bench.run(b.config, wide, {.weights = &b.weights});
  const auto plain = b.bench.run(b.config, b.batch, {.weights = &b.weights});
  CHECK(wide.narrowed(padded.y, 7) == plain.y);
  CHECK(wide.narrowed(padded.dx, 7) == plain.dx);
  for (index_t s = 0; s < 5; ++s) {
    const auto one = b.batch.sentence(s);
    const auto alone = b.bench.run(b.config, one, {.weights = &b.weights});
    CHECK(alone.y == std::vector<double>(plain.y.begin() + s * 7 * b.batch.width,
                                         plain.y.begin() + (s * 7 + one.length) * b.batch.width));
  }
  const auto many = b.bench.batch(24, 40, true);
  CHECK(b.bench.run(b.config, many, {.training = true, .weights = &b.weights})
            .same_bits(b.bench.run(b.config, many, {.training = true, .threads = 2, .weights = &b.weights})));
}
TEST_CASE("a shared expert is a dense block added to the routed ones, for valid tokens alone") {
  const Beside<> with(false, 0, 6);
  MoeConfig without = with.config;
  without.shared_hidden = 0;
  auto routed = with.bench.run(without, with.batch, {.weights = &with.weights}).y;  // its leaves come last
  using Block = FeedForward<Fp64, Cpu, Gelu>;
  const Block block = Block::make(with.batch.width, 6, false);
  auto params = block.params<const double>();
  const auto wi = with.leaf("shared.wi"), wo = with.leaf("shared.wo");
  params.wi.data = wi.data(), params.wo.data = wo.data();
  Cpu::Context ctx(1);
  Block::Cache cache;
  std::vector<double> dense(routed.size());
  const index_t n = with.batch.count(), d = with.batch.width;
  block.forward(ctx, params, {with.batch.x.data(), n, d}, {dense.data(), n, d}, cache);
  for (std::size_t i = 0; i < routed.size(); ++i)
    if (with.batch.valid[i / static_cast<std::size_t>(d)] != 0) routed[i] += dense[i];
  CHECK(worst(with.run.y, routed) < 1e-14);
}
TEST_CASE("what cannot be beside experts is refused") {
  MoeConfig config;
  config.experts = 4, config.width = 4, config.hidden = 4;
  config.free.nulls = -1;
  CHECK_THROWS_WITH_AS(config.check(), doctest::Contains("numbers of copies, constants and nulls"), Error);
  config.free = {0, 0, 1, 0.0};
  CHECK_THROWS_WITH_AS(config.check(), doctest::Contains("balance factor of free experts must be positive"), Error);
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// test_upcycle.cpp -- a sparse layer made of a dense one gives the dense one's outputs at step 0; expert outputs masked
// in training, and scaled in evaluation. Read next: include/sparsemoe/model/upcycle.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/model/upcycle.hpp"
#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/testing/router_bench.hpp"

namespace {

using namespace sparsemoe;
using Dense = FeedForward<Fp64, Cpu, Gelu>;

/// The names a model gives its layers' leaves.
template <class Params>
std::vector<ParamInfo> listed(Params& params, const std::string& prefix, index_t* total) {
  auto list = list_params(params, total);
  for (ParamInfo& p : list) p.name = prefix + p.name;
  return list;
}
template <class Router>
struct Upcycled {
  detail::RouterBench<Router, Cpu> bench{{}, {}};
  detail::RouterBatch batch = bench.batch(3, 5, true);
  std::vector<double> dense_y, sparse_y;
  Upcycled() {
    const MoeConfig config = bench.config();
    const Dense dense = Dense::make(config.width, config.hidden, false);
    auto from = dense.params<const double>();
    index_t total = 0, sparse_total = 0;
    const auto from_list = listed(from, "layer1.ffn.", &total);
    const auto values = detail::random_values(total, 3, 1, 0.5);
    bind_params(from, values.data());
    auto to = MoE<typename detail::RouterBench<Router, Cpu>::Spec>(config).template params<const double>();
    const auto to_list = listed(to, "layer1.moe.", &sparse_total);
    std::vector<double> sparse = bench.weights();
    upcycle(from_list, values, to_list, sparse);
    sparse_y = bench.run(config, batch, {.training = true, .weights = &sparse}).y;
    Cpu::Context ctx(1);
    Dense::Cache cache;
    dense_y.resize(batch.x.size());
    const index_t n = batch.count(), d = batch.width;
    dense.forward(ctx, from, {batch.x.data(), n, d}, {dense_y.data(), n, d}, cache);
    for (std::size_t i = 0; i < dense_y.size(); ++i)
      if (batch.valid[i / static_cast<std::size_t>(d)] == 0) dense_y[i] = 0;  // a dense layer knows no padding
  }
  double difference() const {
    double worst = 0;
    for (std::size_t i = 0; i < dense_y.size(); ++i) worst = std::max(worst, std::abs(dense_y[i] - sparse_y[i]));
    return worst;
  }
};
TEST_CASE(
    "upcycled, a layer with weights that sum to 1 gives the dense layer's outputs; raw probabilities shrink them") {
  CHECK(Upcycled<TopK<2>>().difference() < 1e-14);
  CHECK(Upcycled<Switch>().difference() > 1e-2);
}
TEST_CASE("what does not fit is refused by name") {
  Dense dense = Dense::make(4, 6, true), narrow = Dense::make(4, 5, true), plain = Dense::make(4, 6, false);
  struct Spec : detail::RouterBench<TopK<2>, Cpu>::Spec {};
  MoeConfig config;
  config.experts = 3, config.width = 4, config.hidden = 6, config.bias = true;
  auto to = MoE<Spec>(config).params<const double>();
  index_t total = 0;
  const auto to_list = listed(to, "moe.", &total);
  std::vector<double> values(static_cast<std::size_t>(total));
  const auto from = [&](const Dense& d) {
    auto params = d.params<const double>();
    index_t n = 0;
    const auto list = listed(params, "ffn.", &n);
    upcycle(list, std::vector<double>(static_cast<std::size_t>(n)), to_list, values);
  };
  CHECK_NOTHROW(from(dense));
  CHECK_THROWS_WITH_AS(from(narrow), doctest::Contains("ffn.wi of the dense model is 1 x 4 x 5, but moe.experts.wi is"),
                       Error);
  CHECK_THROWS_WITH_AS(from(plain), doctest::Contains("needs ffn.bi, which the dense model does not have"), Error);
  auto extra = dense.params<const double>();
  index_t n = 0;
  auto list = listed(extra, "ffn.", &n);
  list.push_back(list.back());
  list.back().name = "head";
  CHECK_THROWS_WITH_AS(upcycle(list, std::vector<double>(static_cast<std::size_t>(n)), to_list, values),
                       doctest::Contains("head of the dense model has no place"), Error);
}
TEST_CASE("a gate with a bias: of every router that scores states, with its gradient") {
  const detail::RouterBench<TopK<2>, Cpu> bench({}, {});
  MoeConfig config = bench.config();
  config.gate_bias = true;
  const LayerReport report = bench.gradient(config, bench.batch(4, 6, true));
  INFO(report.text());
  CHECK(report.passed());
  // The bias alone decides where the gate's product is 0.
  auto params = MoE<detail::RouterBench<TopK<2>, Cpu>::Spec>(config).params<const double>();
  std::vector<double> weights = bench.weights(config);
  for (const ParamInfo& p : list_params(params)) {
    if (p.name.rfind("router.", 0) == 0) std::fill_n(weights.begin() + p.offset, p.shape.size(), 0.0);
    if (p.name == "router.bias")
      weights[static_cast<std::size_t>(p.offset + 3)] = 2, weights[static_cast<std::size_t>(p.offset + 1)] = 1;
  }
  const auto run = bench.run(config, bench.batch(2, 3, false), {.weights = &weights});
  for (std::size_t i = 0; i < run.chosen.size(); ++i) CHECK(run.chosen[i] == (i % 2 == 0 ? 3 : 1));
  CHECK(run.combine[0] == doctest::Approx(1 / (1 + std::exp(-1.0))).epsilon(1e-14));
}
TEST_CASE("expert outputs: left out at random in training, scaled in evaluation, with their gradients") {
  const detail::RouterBench<TopK<2>, Cpu> bench({}, {});
  const auto batch = bench.batch(20, 25, false);
  MoeConfig config = bench.config();
  const auto plain = bench.run(config, batch, {.training = true});
  config.output_masking = 0.2;
  const auto masked = bench.run(config, batch, {.training = true});
  int left_out = 0;
  bool as_said = true;
  for (std::size_t i = 0; i < plain.combine.size(); ++i) {
    left_out += masked.combine[i] == 0 ? 1 : 0;
    as_said = as_said && (masked.combine[i] == 0 || masked.combine[i] == plain.combine[i]);
  }
  CHECK(as_said);
  CHECK(std::abs(left_out - 200) < 5 * std::sqrt(1000 * 0.2 * 0.8));
  CHECK(masked.statistics.dropped == 0);
  CHECK(masked.statistics.balance == plain.statistics.balance);
  const auto scaled = bench.run(config, batch, {});
  for (std::size_t i = 0; i < plain.combine.size(); ++i)
    CHECK(scaled.combine[i] == doctest::Approx(0.8 * plain.combine[i]).epsilon(1e-15));
  const LayerReport report = bench.gradient(config, bench.batch(4, 6, true));
  INFO(report.text());
  CHECK(report.passed());
}

}  // namespace

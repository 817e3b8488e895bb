// SPDX-License-Identifier: Apache-2.0
// test_loss_scope.cpp -- over which tokens a routing loss is taken: its value against plain loops, its gradient, and
// that ranks and micro-batches do not change it. Read next: include/sparsemoe/nn/moe_config.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <thread>

#include "sparsemoe/comm/threads.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/routers/hierarchical_gshard.hpp"
#include "sparsemoe/routers/noisy.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/testing/router_bench.hpp"

namespace {

using namespace sparsemoe;
using detail::RouterBatch;
using detail::RouterBench;

template <class RouterType>
struct Over {
  using Router = RouterType;
  using Precision = Fp64;
  using Backend = Cpu;
  using Collective = Threads;
  using Activation = Gelu;
};
/// Noise from a table: what a token draws does not depend on the rank it is on.
struct Table : NoisyTopK<2> {
  const double* values = nullptr;
  double noise(const Random&, std::uint64_t index) const { return values[index]; }
};

/// Weight gradients of the routing losses of sentences [first, first + count), and the weighted loss.
struct Result {
  std::vector<double> dw;
  double loss = 0;
};
template <class Router>
Result routed(const Router& router, const MoeConfig& config, const std::vector<double>& weights,
              const RouterBatch& batch, index_t first, index_t count, Threads& comm, double loss_scale) {
  Cpu::Context ctx(1);
  ctx.training = true;
  const MoE<Over<Router>> layer(config, router);
  auto w = layer.template params<const double>();
  auto g = layer.template params<double>();
  Result r{std::vector<double>(weights.size(), 0.0)};
  bind_params(w, weights.data());
  bind_params(g, r.dw.data());
  const index_t start = first * batch.length, n = count * batch.length, d = batch.width;
  const Tokens tokens{
      count, batch.length, batch.ids.data() + start, batch.valid.data() + start, batch.task.data() + first, 0, nullptr};
  std::vector<double> y(static_cast<std::size_t>(n * d)), dx(y), nothing(y);
  typename MoE<Over<Router>>::Cache cache;
  const Matrix<const double> x(batch.x.data() + start * d, n, d);
  layer.forward(ctx, w, tokens, x, {y.data(), n, d}, cache, comm);
  if constexpr (requires { typename Router::StackLoss; }) {
    typename MoE<Over<Router>>::Cache second = cache;  // of a stack's second layer, whose gradient nobody asks for
    layer.forward(ctx, w, tokens, x, {y.data(), n, d}, second, comm);
    Router::StackLoss::template apply<Over<Router>>(ctx, tokens, {{&layer, &cache}, {&layer, &second}}, comm);
  }
  layer.backward(ctx, w, g, tokens, x, {nothing.data(), n, d}, {dx.data(), n, d}, cache, loss_scale);
  r.loss = layer.weighted_loss(layer.statistics(ctx, cache));
  return r;
}
/// Ranks with the given numbers of sentences each; the sum of their gradients, and the loss they agree on.
template <class Router>
Result on_ranks(const std::vector<index_t>& shares, const Router& router, const MoeConfig& config,
                const std::vector<double>& weights, const RouterBatch& batch, const std::vector<double>& noise = {}) {
  ThreadsGroup group(static_cast<int>(shares.size()));
  std::vector<Result> results(shares.size());
  std::vector<std::thread> ranks;
  index_t first = 0;
  for (std::size_t r = 0; r < shares.size(); ++r) {
    ranks.emplace_back([&, r, first] {
      Threads comm(group, static_cast<int>(r));
      Router mine = router;
      if constexpr (std::is_same_v<Router, Table>) mine.values = noise.data() + first * batch.length * config.experts;
      results[r] = routed(mine, config, weights, batch, first, shares[r], comm, 1);
    });
    first += shares[r];
  }
  for (auto& rank : ranks) rank.join();
  Result sum = results[0];
  for (std::size_t r = 1; r < results.size(); ++r) {
    CHECK(results[r].loss == results[0].loss);
    for (std::size_t i = 0; i < sum.dw.size(); ++i) sum.dw[i] += results[r].dw[i];
  }
  return sum;
}
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  double w = 0;
  for (std::size_t i = 0; i < a.size(); ++i) w = std::max(w, std::abs(a[i] - b[i]));
  return w;
}
const std::vector<LossScope> all_scopes = {LossScope::global, LossScope::group, LossScope::sequence};

TEST_CASE("the loss of each scope is what plain loops say, 1 where routing is uniform, and its gradient holds") {
  const RouterBench<TopK<2>, Cpu> bench({}, {});
  const RouterBatch batch = bench.batch(6, 7, true);
  for (const LossScope scope : all_scopes) {
    MoeConfig config = bench.config();
    config.balance_scope = scope, config.group = 14;
    const auto run = bench.run(config, batch, {.training = true});
    const index_t size = scope == LossScope::global ? batch.count() : scope == LossScope::group ? 14 : 7;
    double loss = 0, all = 0;
    for (index_t first = 0; first < batch.count(); first += size) {
      std::vector<double> f(5, 0), p(5, 0);
      double n = 0;
      for (auto t = static_cast<std::size_t>(first); t < static_cast<std::size_t>(first + size); ++t) {
        if (batch.valid[t] == 0) continue;
        ++n;
        for (std::size_t k = 0; k < 2; ++k) ++f[static_cast<std::size_t>(run.chosen[t * 2 + k])];
        for (std::size_t e = 0; e < 5; ++e) p[e] += run.scores[t * 5 + e];
      }
      for (std::size_t e = 0; e < 5; ++e) loss += 5 * f[e] / (2 * n) * p[e];  // n times E sum f P
      all += n;
    }
    CHECK(run.statistics.balance == doctest::Approx(loss / all).epsilon(1e-13));
    auto uniform = bench.weights();
    bench.clear_gate(uniform);
    CHECK(bench.run(config, batch, {.weights = &uniform}).statistics.balance == doctest::Approx(1).epsilon(1e-13));
    const LayerReport report = bench.gradient(config, batch);
    INFO(report.text());
    CHECK(report.passed());
  }
}
TEST_CASE("n ranks give the losses and the gradients of one, for every scope") {
  const RouterBench<TopK<2>, Cpu> bench({}, {});
  const RouterBatch batch = bench.batch(6, 7, true);
  for (const LossScope scope : all_scopes) {
    MoeConfig config = bench.config();
    config.balance_scope = scope, config.group = 14;
    const Result one = on_ranks({6}, TopK<2>{}, config, bench.weights(), batch);
    for (const auto& shares : {std::vector<index_t>{2, 4}, {2, 2, 2}}) {
      const Result n = on_ranks(shares, TopK<2>{}, config, bench.weights(), batch);
      CHECK(n.loss == doctest::Approx(one.loss).epsilon(1e-13));
      CHECK(worst(n.dw, one.dw) < 1e-14);
    }
  }
}
TEST_CASE("n ranks give the importance and load losses of one") {
  const RouterBench<Table, Cpu> bench({}, {});
  const RouterBatch batch = bench.batch(6, 7, true);
  const auto noise = detail::random_values(batch.count() * 5, 8, 1);
  const Result one = on_ranks({6}, Table{}, bench.config(), bench.weights(), batch, noise);
  CHECK(one.loss > 0);
  for (const auto& shares : {std::vector<index_t>{1, 5}, {3, 1, 2}}) {
    const Result n = on_ranks(shares, Table{}, bench.config(), bench.weights(), batch, noise);
    CHECK(n.loss == doctest::Approx(one.loss).epsilon(1e-12));
    CHECK(worst(n.dw, one.dw) < 1e-13);
  }
}
TEST_CASE("n ranks give the balance losses of two levels of one") {
  const HierarchicalGShard<3> router{};
  const RouterBench<HierarchicalGShard<3>, Cpu> bench(router, {.experts = 9});
  RouterBatch batch = bench.batch(6, 7, true);
  HierarchicalGShard<3> certain = router;
  certain.random_second = false;  // the draws of a rank are its own
  const Result one = on_ranks({6}, certain, bench.config(), bench.weights(), batch);
  CHECK(one.loss > 0);
  for (const auto& shares : {std::vector<index_t>{1, 5}, {3, 1, 2}}) {
    const Result n = on_ranks(shares, certain, bench.config(), bench.weights(), batch);
    CHECK(n.loss == doctest::Approx(one.loss).epsilon(1e-12));
    CHECK(worst(n.dw, one.dw) < 1e-13);
  }
}
/// Losses over all sparse layers of a stack.
template <class Loss>
struct Joint : TopK<2> {
  using StackLoss = Loss;
};
template <class Router>
void joint_on_ranks(LossScope scope, const Router& router) {
  const RouterBench<Router, Cpu> bench(router, {});
  const RouterBatch batch = bench.batch(6, 7, true);
  MoeConfig config = bench.config();
  config.balance_scope = scope;
  const Result one = on_ranks({6}, router, config, bench.weights(), batch);
  config.balance_coefficient = 0;
  CHECK(worst(on_ranks({6}, router, config, bench.weights(), batch).dw, one.dw) > 1e-4);
  config.balance_coefficient = bench.config().balance_coefficient;
  for (const auto& shares : {std::vector<index_t>{2, 4}, {2, 2, 2}}) {
    const Result n = on_ranks(shares, router, config, bench.weights(), batch);
    CHECK(n.loss == doctest::Approx(one.loss).epsilon(1e-13));
    CHECK(worst(n.dw, one.dw) < 1e-14);
  }
}
TEST_CASE("n ranks give the losses over several layers of one") {
  joint_on_ranks(LossScope::sequence, Joint<hf::JointBalance<true, false>>{});
  joint_on_ranks(LossScope::global, Joint<hf::JointBalance<false, false>>{});
  hf::NllbRouter nllb;
  nllb.expert_capacity = 0;
  joint_on_ranks(LossScope::global, nllb);
}
TEST_CASE(
    "micro-batches, each weighed by its tokens, give group and sequence losses of the batch; not the global one") {
  const RouterBench<TopK<2>, Cpu> bench({}, {});
  const RouterBatch batch = bench.batch(6, 7, true);
  ThreadsGroup group(1);
  Threads comm(group, 0);
  const auto tokens = [&](index_t first, index_t count) {
    return static_cast<double>(
        std::count(batch.valid.begin() + first * 7, batch.valid.begin() + (first + count) * 7, 1));
  };
  for (const LossScope scope : all_scopes) {
    MoeConfig config = bench.config();
    config.balance_scope = scope, config.group = 14;
    const Result whole = routed(TopK<2>{}, config, bench.weights(), batch, 0, 6, comm, 1);
    std::vector<double> sum(whole.dw.size(), 0);
    double loss = 0;
    for (const auto& [first, count] : {std::pair<index_t, index_t>{0, 4}, {4, 2}}) {
      const double part = tokens(first, count) / tokens(0, 6);
      const Result r = routed(TopK<2>{}, config, bench.weights(), batch, first, count, comm, part);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += r.dw[i];
      loss += part * r.loss;
    }
    if (scope == LossScope::global) {
      CHECK(worst(sum, whole.dw) > 1e-4);
    } else {
      CHECK(loss == doctest::Approx(whole.loss).epsilon(1e-13));
      CHECK(worst(sum, whole.dw) < 1e-14);
    }
  }
}
TEST_CASE("scopes other than global are refused where there is nothing to take over them") {
  struct Spec : Over<NoisyTopK<2>> {
    using Collective = Solo;
  };
  MoeConfig config;
  config.experts = 4, config.width = 4, config.hidden = 4, config.balance_scope = LossScope::sequence;
  CHECK_THROWS_WITH_AS(MoE<Spec>{config}, doctest::Contains("is for routers that score tokens"), Error);
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// test_routers_at_run_time.cpp -- a router whose k and branches are values gives the bits of the one whose k and
// branches are in its type. Read next: include/sparsemoe/kernels/columns.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/nn/moe.hpp"
#include "sparsemoe/routers/hierarchical.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace {

using namespace sparsemoe;

template <class R>
struct SpecOf {
  using Router = R;
  using Precision = Fp32;
  using Backend = Cpu;
  using Collective = Solo;
  using Activation = Relu;
};
float draw(std::uint64_t stream, std::uint64_t i) {
  return static_cast<float>(Random{stream}.normal(Purpose::test, i));
}
struct Result {
  std::vector<float> y, dx, dw;
  std::vector<std::int32_t> chosen;
};

template <class R>
Result run(const R& router) {
  using Layer = MoE<SpecOf<R>>;
  constexpr index_t tokens = 24, width = 5;
  MoeConfig config;
  config.experts = 12, config.width = width, config.hidden = 4;
  config.capacity_factor = 1.0;
  if constexpr (RouterTraits<R>::noisy) config.importance_coefficient = 0.1, config.load_coefficient = 0.2;
  const Layer layer(config, router);
  Cpu::Context ctx(1);
  ctx.training = true;
  auto w = layer.template params<const float>();
  auto dw = layer.template params<float>();
  index_t total = 0;
  list_params(w, &total);
  std::vector<float> weights(static_cast<std::size_t>(total));
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = draw(7, i);
  Result r;
  r.dw.assign(weights.size(), 0);
  bind_params(w, static_cast<const float*>(weights.data()));
  bind_params(dw, r.dw.data());
  std::vector<float> x, dy;
  for (std::uint64_t i = 0; i < tokens * width; ++i) x.push_back(draw(8, i)), dy.push_back(draw(9, i));
  r.y.assign(x.size(), 0), r.dx.assign(x.size(), 0);
  std::vector<std::uint8_t> valid(tokens, 1);
  valid[5] = 0;
  const Tokens batch{1, tokens, nullptr, valid.data(), nullptr, 0, nullptr};
  typename Layer::Cache cache;
  Solo solo;
  layer.forward(ctx, w, batch, {x.data(), tokens, width}, {r.y.data(), tokens, width}, cache, solo);
  layer.backward(ctx, w, dw, batch, {x.data(), tokens, width}, {dy.data(), tokens, width}, {r.dx.data(), tokens, width},
                 cache, 1, {}, {});
  r.chosen.assign(cache.chosen, cache.chosen + tokens * layer.top_k());
  return r;
}
void check_same(const Result& a, const Result& b) {
  CHECK(a.chosen == b.chosen);
  CHECK(a.y == b.y);
  CHECK(a.dx == b.dx);
  CHECK(a.dw == b.dw);
  CHECK(std::any_of(a.dx.begin(), a.dx.end(), [](float v) { return v != 0; }));
}

TEST_CASE("top-k with k in a value") {
  AnyTopK router;
  router.k = 3;
  check_same(run(router), run(TopK<3>{}));
  router.k = 9;
  CHECK_THROWS_WITH_AS(run(router), "moe: this router gives a token 1 to 8 experts, not 9", Error);
}
TEST_CASE("two noisy levels with everything in values") {
  AnyHierarchical router;
  router.first = 2, router.second = 3, router.branches = 4;
  check_same(run(router), run(Hierarchical<2, 3, 4>{}));
  router.branches = 5;
  CHECK_THROWS_WITH_AS(run(router),
                       "moe: 12 experts do not make 5 branches of equal size, at least 2 of them with at least 3 "
                       "experts each",
                       Error);
}

}  // namespace

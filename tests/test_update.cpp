// SPDX-License-Identifier: Apache-2.0
// test_update.cpp -- what an update leaves in the storage weights: the rounded master, and for wide leaves (a router's
// weights under selective precision) the master itself, as after loading a checkpoint.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/train/update.hpp"

namespace {

using namespace sparsemoe;

template <class P, class Optimiser>
void check_storage() {
  using S = typename P::storage;
  using M = typename P::master;
  Cpu::Context ctx(1);
  std::vector<ParamInfo> list;
  index_t total = 0;
  const auto add = [&](const char* name, index_t rows, index_t cols, bool wide) {
    Init init = Init::normal(1);
    init.wide = wide;
    const Tensor<float> shape{nullptr, 1, rows, cols, 2};
    list.push_back({name, total, shape, init});
    total += reserved(shape, init);
  };
  add("before", 5, 7, false), add("router", 40, 9, true), add("after", 3, 4, false);
  Weights<P, Cpu> weights(list, total, true);
  weights.initialise(ctx, 3);
  Optimiser optimiser(ctx, weights.list(), {});
  Updater<P, Cpu> updater;
  Solo solo;
  for (int step = 0; step < 3; ++step) {
    for (const auto& p : weights.list())
      for (index_t i = 0; i < p.shape.size(); ++i) weights.gradient()[p.offset + i] = typename P::accumulate(1 + i % 3);
    const std::vector<M> before(weights.master(), weights.master() + total);
    REQUIRE(!updater(ctx, weights, optimiser, 0.1, solo).skipped);
    for (const auto& p : weights.list()) {
      std::vector<S> expected(static_cast<std::size_t>(total));
      store_leaf(p, weights.master(), expected.data());
      const auto bytes = static_cast<std::size_t>(p.shape.size()) * (p.init.wide ? sizeof(M) : sizeof(S));
      CHECK_MESSAGE(std::memcmp(weights.storage() + p.offset, expected.data() + p.offset, bytes) == 0, p.name);
      CHECK(weights.master()[p.offset] != before[static_cast<std::size_t>(p.offset)]);
    }
  }
}

TEST_CASE("storage follows the master in every update, wide leaves in its type") {
  check_storage<Bf16, AdamW<Bf16, Cpu>>();
  check_storage<Bf16, Adafactor<Bf16, Cpu>>();
  check_storage<Fp32, AdamW<Fp32, Cpu>>();
}

}  // namespace

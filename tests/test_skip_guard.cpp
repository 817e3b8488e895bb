// SPDX-License-Identifier: Apache-2.0
// test_skip_guard.cpp -- a step whose loss or gradient is not finite changes nothing and says what it was; twenty in a
// row are the end. Every optimiser, in both precisions that the trainers have.
// Read next: include/sparsemoe/train/skip_guard.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/factored_adam.hpp"
#include "sparsemoe/train/skip_guard.hpp"

namespace {

using namespace sparsemoe;
constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

/// Two matrices, whose loss is half the sum of w^4: its gradient w^3 overflows long before w does.
template <class P, class Optimiser>
struct Toy {
  using A = typename P::accumulate;
  using M = typename P::master;
  Cpu::Context ctx{1};
  Weights<P, Cpu> weights = make();
  Optimiser optimiser{ctx, weights.list(), {}};
  Updater<P, Cpu> updater;
  Solo solo;

  static Weights<P, Cpu> make() {
    std::vector<ParamInfo> list;
    index_t total = 0;
    for (const char* name : {"first", "second"}) {
      const Tensor<float> shape{nullptr, 1, 20, 24, 2};
      list.push_back({name, total, shape, Init::normal(1)});
      total += reserved(shape, list.back().init);
    }
    return {std::move(list), total, true};
  }
  Toy() {
    weights.initialise(ctx, 3);
    updater.clip_norm = 0;
  }
  void differentiate() {
    for (const auto& p : weights.list())
      for (index_t i = p.offset; i < p.offset + p.shape.size(); ++i) {
        const auto w = static_cast<float>(weights.master()[i]);
        weights.gradient()[i] = A(w * w * w);
      }
  }
  UpdateResult step(double rate, double loss = 1) { return updater(ctx, weights, optimiser, rate, solo, loss); }
  /// Their bytes: a number may be none.
  std::string values() const {
    return {reinterpret_cast<const char*>(weights.master()), static_cast<std::size_t>(weights.total()) * sizeof(M)};
  }
  bool cleared() const {
    return std::all_of(weights.gradient(), weights.gradient() + weights.total(),
                       [](A g) { return static_cast<float>(g) == 0; });
  }
};

template <class P, class Optimiser>
void check_steps() {
  Toy<P, Optimiser> toy;
  toy.differentiate();
  CHECK(!toy.step(1e-3).skipped);

  const auto before = toy.values();
  toy.differentiate();
  toy.weights.gradient()[toy.weights.list()[1].offset + 7] = typename P::accumulate(static_cast<float>(nan));
  UpdateResult result = toy.step(1e-3);
  CHECK(result.skipped);
  CHECK(result.cause == "the gradient of second has nan");
  CHECK(toy.cleared());
  toy.differentiate();
  result = toy.step(1e-3, inf);
  CHECK(result.skipped);
  CHECK(result.cause == "the loss is inf");
  CHECK(toy.cleared());
  CHECK((toy.values() == before));
  CHECK(toy.updater.state().step == 1);
  CHECK(toy.updater.state().skipped == 2);

  // Worth keeping?
  toy.differentiate();
  CHECK(toy.updater.probe(toy.ctx, toy.weights, 1) == "");
  CHECK(toy.cleared());
  toy.differentiate();
  CHECK(toy.updater.probe(toy.ctx, toy.weights, nan) == "the loss is nan");
  CHECK((toy.values() == before));
}

/// One update blows the weights up, and all that follow are skipped.
template <class P, class Optimiser>
void check_divergence(double rate) {
  Toy<P, Optimiser> toy;
  SkipGuard guard;
  toy.differentiate();
  CHECK(guard.note(1, toy.step(rate)) == "");
  CHECK(!guard.skipping());
  const auto blown = toy.values();
  toy.differentiate();
  CHECK(toy.updater.probe(toy.ctx, toy.weights, 1) != "");  // such weights are not to be saved
  index_t step = 1;
  std::string warnings;
  while (!guard.diverged() && step < 100) {
    toy.differentiate();
    ++step;
    warnings += guard.note(step, toy.step(rate));
    CHECK(guard.skipping());
  }
  CHECK(step == 21);
  CHECK(warnings.starts_with("step 2 is skipped: the gradient of first has "));
  CHECK(warnings.find("step 3") == std::string::npos);
  CHECK(guard.sentence().starts_with("training has diverged: the last 20 steps up to step 21 were skipped, since "));
  CHECK((toy.values() == blown));
}

TEST_CASE("a step that is not finite is skipped, says what it was, and changes nothing") {
  check_steps<Fp32, AdamW<Fp32, Cpu>>();
  check_steps<Fp32, Adafactor<Fp32, Cpu>>();
  check_steps<Fp32, FactoredAdam<Fp32, Cpu>>();
  check_steps<Bf16, AdamW<Bf16, Cpu>>();
  check_steps<Bf16, Adafactor<Bf16, Cpu>>();
  check_steps<Bf16, FactoredAdam<Bf16, Cpu>>();
}

TEST_CASE("twenty skipped steps in a row are the end") {
  for (const double rate : {1e30, 1e300, 1e15}) {
    check_divergence<Fp32, AdamW<Fp32, Cpu>>(rate);
    check_divergence<Fp32, Adafactor<Fp32, Cpu>>(rate);
    check_divergence<Bf16, AdamW<Bf16, Cpu>>(rate);
    check_divergence<Bf16, FactoredAdam<Bf16, Cpu>>(rate);
  }
}

TEST_CASE("one good step forgets the skipped ones, and each row warns once") {
  SkipGuard guard(3);
  const UpdateResult good{1, false, ""}, bad{nan, true, "the loss is nan"};
  CHECK(guard.note(1, bad) == "step 1 is skipped: the loss is nan");
  CHECK(guard.note(2, bad) == "");
  CHECK(guard.row() == 2);
  CHECK(guard.note(3, good) == "");
  CHECK(guard.row() == 0);
  CHECK(guard.note(4, bad) == "step 4 is skipped: the loss is nan");
  CHECK(guard.note(5, bad) == "");
  CHECK(!guard.diverged());
  CHECK(guard.note(6, bad) == "");
  CHECK(guard.diverged());
}

TEST_CASE("half precision finds its loss scale before the guard gives up") {
  Toy<Fp16, AdamW<Fp16, Cpu>> toy;
  SkipGuard guard;
  index_t step = 0;
  for (; step < 16; ++step) {  // 65536 to 1
    toy.weights.gradient()[0] = Fp16::accumulate(static_cast<float>(inf));
    guard.note(step, toy.step(1e-3));
    CHECK(!guard.diverged());
  }
  CHECK(toy.updater.loss_scale() == 1);
}

}  // namespace

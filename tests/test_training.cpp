// SPDX-License-Identifier: Apache-2.0
// test_training.cpp -- whole training steps: the same bits on 1, 2 and 4 threads, and every precision learns a tiny
// task. Read next: include/sparsemoe/model/encoder_decoder.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/clip.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

template <class Model>
struct Trainer {
  using P = typename Model::P;
  Cpu::Context ctx;
  Model model;
  AdamW<P, Cpu> optimiser;
  Solo solo;
  double scale = P::scaled_loss ? 1024 : 1;
  index_t step = 0;

  Trainer(const EncoderDecoderConfig& config, int threads)
      : ctx(threads), model(ctx, config), optimiser(ctx, model.weights.list(), {}) {
    model.weights.initialise(ctx, 5);
    ctx.training = true;
  }
  /// One update; the mean loss before it.
  double train(const CopyBatch& batch, double learning_rate) {
    double tokens = 0;
    for (const auto label : batch.labels) tokens += label >= 0 ? 1 : 0;
    ctx.random = {1, static_cast<std::uint32_t>(step), 0};
    auto& w = model.weights;
    Cpu::zero(ctx, w.gradient(), w.total());
    const LossSums sums = model.loss(ctx, batch.view(), solo, scale / tokens, scale);
    CHECK(sums.tokens == tokens);
    const GradientNorm norm = gradient_norm<Cpu>(ctx, w.gradient(), w.total(), 1 / scale);
    REQUIRE(norm.finite());
    optimiser.update(ctx, w.master(), w.gradient(), clip_factor(norm.norm(), 1) / scale, w.storage(), ++step,
                     learning_rate);
    ctx.arena.reset();
    return sums.loss / tokens;
  }
};

template <class E, class D>
std::vector<unsigned char> bits_after_training(int threads) {
  EncoderDecoderConfig config = model_config(60, 64, true);
  config.encoder.dropout = config.decoder.dropout = 0.1;
  config.encoder.moe.capacity_factor = 1;
  config.encoder.moe.jitter = 0.01;
  config.encoder.moe.z_coefficient = config.decoder.moe.z_coefficient = 1e-3;
  Trainer<EncoderDecoder<E, D>> trainer(config, threads);
  for (std::uint64_t i = 0; i < 3; ++i) trainer.train(CopyBatch(12, 21, 60, i), 1e-3);
  std::vector<unsigned char> bits;
  const auto keep = [&](const auto* data, index_t n) {
    const auto* first = reinterpret_cast<const unsigned char*>(data);
    bits.insert(bits.end(), first, first + static_cast<std::size_t>(n) * sizeof *data);
  };
  for (const auto& p : trainer.model.weights.list()) {
    keep(trainer.model.weights.master() + p.offset, p.shape.size());
    keep(trainer.model.weights.gradient() + p.offset, p.shape.size());
  }
  return bits;
}
template <class P>
void check_threads() {
  CAPTURE(std::string(P::name));
  const auto one = bits_after_training<With<GShard<>, P>, With<Task, P>>(1);
  CHECK(one == bits_after_training<With<GShard<>, P>, With<Task, P>>(1));
  CHECK(one == bits_after_training<With<GShard<>, P>, With<Task, P>>(2));
  CHECK(one == bits_after_training<With<GShard<>, P>, With<Task, P>>(4));
}
TEST_CASE("three training steps give the same bits on 1, 2 and 4 threads, fp32") { check_threads<Fp32>(); }
TEST_CASE("three training steps give the same bits on 1, 2 and 4 threads, bf16") { check_threads<Bf16>(); }

/// Mean losses of the first and the last steps of a copy task.
template <class P>
void learns() {
  CAPTURE(std::string(P::name));
  Trainer<EncoderDecoder<With<GShard<>, P>, With<Task, P>>> trainer(model_config(12, 32), 2);
  double first = 0, last = 0;
  constexpr int steps = 120, window = 10;
  for (int i = 0; i < steps; ++i) {
    const double loss = trainer.train(CopyBatch(8, 5, 12, static_cast<std::uint64_t>(i % 8)), 3e-3);
    REQUIRE(std::isfinite(loss));
    if (i < window) first += loss / window;
    if (i >= steps - window) last += loss / window;
  }
  MESSAGE(std::string(P::name), ": loss ", first, " -> ", last);
  CHECK(last < 0.5 * first);
}
TEST_CASE("every precision learns to copy") {
  learns<Fp64>();
  learns<Fp32>();
  learns<Bf16>();
  learns<Fp16>();
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// five_routers.cpp -- five routers side by side on one task, everything else equal: the same model, data, steps, seeds.
// The source opens with its task here, so that every router can learn it. Two experts work on each token with the
// top-2 routers, one with Switch and Hash.
//   g++ -std=c++20 -O2 -march=native -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP -Iinclude
//       examples/five_routers.cpp -o five_routers && ./five_routers
// 20 seconds on one core; other compilers and CPUs differ in the last digits. One seed of a toy task: no ranking.
//   router    parameters    loss   accuracy     encoder experts %  decoder experts %
//   TopK<2>        94208   0.013    100.0 %     28  28  16  27    25  33  23  19
//   Switch         94208   0.028     97.7 %     27  19  22  32    35  30   9  26
//   Sentence       94208   0.021     99.7 %     30  25  28  17    21  32  22  25
//   Task           93744   0.011     99.7 %     16  34  33  17    34  17  33  16
//   Hash           93696   0.047     95.7 %     25  23  21  32    26  34  16  23
#include <cstdio>

#include "toy_task.hpp"

namespace {

template <class R>
struct Spec : sparsemoe::SpecDefaults {
  using Router = R;  // <- the only difference
  using Precision = sparsemoe::Fp32;
  using Backend = sparsemoe::Cpu;
  using Collective = sparsemoe::Solo;
};

/// Trains and tests a model with router R in both stacks; prints its row of the table and returns its accuracy.
template <class R>
double run(const char* name) {
  constexpr int steps = 700;
  sparsemoe::StackConfig stack;
  stack.layers = 2, stack.width = 32, stack.heads = 2, stack.head_width = 16, stack.hidden = 64;
  stack.sparse_every = 1;
  stack.moe.experts = 4, stack.moe.tasks = toy::tasks;
  sparsemoe::EncoderDecoderConfig config;
  config.vocabulary = toy::vocabulary, config.label_smoothing = 0;
  config.encoder = config.decoder = stack;

  sparsemoe::Cpu::Context ctx(/*threads=*/1);  // the products are too small to share
  sparsemoe::Solo solo;
  sparsemoe::EncoderDecoder<Spec<R>> model(ctx, config);
  model.weights.initialise(ctx, 1);
  sparsemoe::AdamW<sparsemoe::Fp32, sparsemoe::Cpu> adamw(ctx, model.weights.list(), {});
  sparsemoe::Updater<sparsemoe::Fp32, sparsemoe::Cpu> update;
  const sparsemoe::Schedule rate{.kind = sparsemoe::Schedule::Kind::cosine, .peak = 3e-3, .warmup = 50, .total = steps};
  for (std::uint32_t step = 0; step < steps; ++step) {
    const toy::Batch batch(32, 1, step, /*told=*/true);
    ctx.training = true;
    ctx.random = {1, step, 0};
    model.loss(ctx, batch.view(), solo, 1 / batch.tokens(), 1);
    update(ctx, model.weights, adamw, rate.at(step), solo);
    ctx.arena.reset();
  }

  ctx.training = false;
  const toy::Batch test(300, 2, 0, /*told=*/true);
  const auto sums = model.loss(ctx, test.view(), solo, 0, 0);
  const auto in = model.encoder().statistics(ctx).back().routing, out = model.decoder().statistics(ctx).back().routing;
  sparsemoe::GreedyResult decoded;
  const double right = toy::accuracy(ctx, model, test, decoded);
  std::printf("%-9s %10lld %7.3f %8.1f %%   %s  %s\n", name, static_cast<long long>(model.weights.count()),
              sums.loss / sums.tokens, 100 * right, toy::percent(in.load.data(), in.experts).c_str(),
              toy::percent(out.load.data(), out.experts).c_str());
  return right;
}

}  // namespace

int main() {
  std::printf("router    parameters    loss   accuracy     encoder experts %%  decoder experts %%\n");
  const double worst =
      std::min({run<sparsemoe::TopK<2>>("TopK<2>"), run<sparsemoe::Switch>("Switch"),
                run<sparsemoe::Sentence>("Sentence"), run<sparsemoe::Task>("Task"), run<sparsemoe::Hash>("Hash")});
  return worst > 0.9 ? 0 : 1;
}

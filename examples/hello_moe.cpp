// SPDX-License-Identifier: Apache-2.0
// hello_moe.cpp -- the smallest trainer: an encoder that routes tokens, a decoder that routes tasks, three toy tasks.
// The source never says which task it is: only the decoder's task router knows, so the experts have to specialise.
//   g++ -std=c++20 -O2 -march=native -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP -Iinclude
//       examples/hello_moe.cpp -o hello_moe && ./hello_moe
// 5 seconds on one core. Every run of one build prints the same; other compilers and CPUs differ in the last digits:
//   step   0  loss 3.427
//   ...
//   step 799  loss 0.011
//   share of each expert, in percent
//     encoder layer 0             32  14  26  27
//     encoder layer 1             29  29  27  15
//     decoder layer 0, copy       50  50   0   0
//     decoder layer 0, reverse    50   0   0  50
//     decoder layer 0, add one     0  50  50   0
//     decoder layer 1, copy       50   0  50   0
//     decoder layer 1, reverse     0   0  50  50
//     decoder layer 1, add one    50  50   0   0
//   copy     2603446  -> 2603446
//   reverse  9522     -> 2259
//   add one  7164     -> 8275
//   ...
//   accuracy on 300 new strings: 99.7 %
// Read next: my_router.cpp; sparsemoe.hpp for what a program can include.
#include <cstdio>

#include "toy_task.hpp"

namespace {

struct ByToken : sparsemoe::SpecDefaults {
  using Router = sparsemoe::TopK<2>;  // each token to its two best experts
  using Precision = sparsemoe::Fp32;
  using Backend = sparsemoe::Cpu;
  using Collective = sparsemoe::Solo;
};
struct ByTask : ByToken {
  using Router = sparsemoe::Task;  // each task to two experts; which two is learned
};
using Model = sparsemoe::EncoderDecoder<ByToken, ByTask>;

sparsemoe::EncoderDecoderConfig configuration() {
  sparsemoe::StackConfig stack;
  stack.layers = 2, stack.width = 32, stack.heads = 2, stack.head_width = 16, stack.hidden = 64;
  stack.sparse_every = 1;  // every layer is sparse
  stack.moe.experts = 4, stack.moe.tasks = toy::tasks;
  sparsemoe::EncoderDecoderConfig config;
  config.vocabulary = toy::vocabulary, config.label_smoothing = 0;
  config.encoder = config.decoder = stack;
  return config;
}

/// Where the tokens of `batch` went.
void print_experts(Model& model, sparsemoe::Cpu::Context& ctx, const toy::Batch& batch) {
  sparsemoe::Solo solo;
  model.loss(ctx, batch.view(), solo, 0, 0);
  std::printf("share of each expert, in percent\n");
  for (const auto& l : model.encoder().statistics(ctx))
    std::printf("  encoder layer %d           %s\n", static_cast<int>(l.layer),
                toy::percent(l.routing.load.data(), l.routing.experts).c_str());
  for (const auto& l : model.decoder().statistics(ctx))
    for (int t = 0; t < toy::tasks; ++t)
      std::printf("  decoder layer %d, %-8s %s\n", static_cast<int>(l.layer), toy::task_names[t],
                  toy::percent(l.routing.usage.data() + t * l.routing.experts, l.routing.experts).c_str());
}

}  // namespace

int main() {
  constexpr int steps = 800;
  sparsemoe::Cpu::Context ctx(/*threads=*/1);  // the products are too small to share
  sparsemoe::Solo solo;
  Model model(ctx, configuration());
  model.weights.initialise(ctx, /*seed=*/1);
  sparsemoe::AdamW<sparsemoe::Fp32, sparsemoe::Cpu> adamw(ctx, model.weights.list(), {});
  sparsemoe::Updater<sparsemoe::Fp32, sparsemoe::Cpu> update;
  const sparsemoe::Schedule rate{.kind = sparsemoe::Schedule::Kind::cosine, .peak = 3e-3, .warmup = 50, .total = steps};

  for (std::uint32_t step = 0; step < steps; ++step) {
    const toy::Batch batch(/*rows=*/32, /*seed=*/1, step, /*told=*/false);
    ctx.training = true;
    ctx.random = {/*seed=*/1, step, 0};
    const auto sums = model.loss(ctx, batch.view(), solo, 1 / batch.tokens(), 1);  // forward and backward
    update(ctx, model.weights, adamw, rate.at(step), solo);
    ctx.arena.reset();
    if (step % 100 == 0 || step + 1 == steps) std::printf("step %3u  loss %.3f\n", step, sums.loss / sums.tokens);
  }

  ctx.training = false;
  const toy::Batch test(/*rows=*/300, /*seed=*/2, 0, /*told=*/false);
  print_experts(model, ctx, test);
  sparsemoe::GreedyResult decoded;
  const double right = toy::accuracy(ctx, model, test, decoded);
  for (std::size_t r = 0; r < 6; ++r)
    std::printf("%-8s %-8s -> %s\n", toy::task_names[r % toy::tasks], toy::text(test.digits[r]).c_str(),
                toy::text(decoded.tokens[r]).c_str());
  std::printf("accuracy on %d new strings: %.1f %%\n", static_cast<int>(test.rows), 100 * right);
  return right > 0.95 ? 0 : 1;
}

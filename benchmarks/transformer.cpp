// SPDX-License-Identifier: Apache-2.0
// transformer.cpp -- a small encoder-decoder (width 256, 4 heads, hidden 1024, 3 + 3 layers, vocabulary 8000): training
// steps of 2048 target tokens and greedy decoding, dense and sparse, and which share of the time is products.
//   OMP_NUM_THREADS=2 OMP_PROC_BIND=true build/release/transformer --benchmark_filter=fp32
// peers/transformer.py is the same dense model in PyTorch. Read next: moe_layer_body.hpp.
#include <benchmark/benchmark.h>

#include <chrono>
#include <random>
#include <string>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/update.hpp"
#include "timing.hpp"

namespace {

using namespace sparsemoe;
using benchmarks::median, benchmarks::now;

double wall() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct alignas(64) Seconds {
  double value = 0;
};
/// The native products; while `on`, their time is added up for every thread.
struct TimedGemm {
  static constexpr const char* name = "native";
  static constexpr bool row_invariant = true;
  static inline bool on = false;
  static inline Seconds seconds[256];

  template <class TA, class TB, class TC>
  static void run(const Product<TA, TB, TC>& q, Scratch& scratch) {
    if (!on) return NativeGemm::run(q, scratch);
    const double start = wall();
    NativeGemm::run(q, scratch);
    seconds[omp_get_thread_num()].value += wall() - start;
  }
  /// The share of `threads` threads' time that f spends in products.
  template <class F>
  static double share(int threads, const F& f) {
    for (auto& s : seconds) s.value = 0;
    on = true;
    const double start = wall();
    f();
    const double all = wall() - start;
    on = false;
    double sum = 0;
    for (const auto& s : seconds) sum += s.value;
    return sum / (all * threads);
  }
};

template <class Router_, class Precision_>
struct StackSpec : SpecDefaults {
  using Router = Router_;
  using Precision = Precision_;
  using Backend = CpuBackend<OpenMp, TimedGemm>;
  using Collective = Solo;
};

EncoderDecoderConfig config() {
  EncoderDecoderConfig c;
  c.encoder.layers = 3;
  c.encoder.moe.experts = 8;  // every second layer, where the stack's router is not Dense
  c.encoder.moe.tasks = 4;
  c.decoder = c.encoder;
  return c;
}

/// `n` sentences of `length` random ids; the target is as long. Sentence s is of task s mod 4.
struct RandomBatch {
  std::vector<std::int32_t> source, target, labels, task;
  std::vector<std::uint8_t> valid;
  index_t n, length;
  RandomBatch(index_t sentences, index_t columns) : n(sentences), length(columns) {
    std::mt19937 random(7);
    for (index_t i = 0; i < n * length; ++i) {
      source.push_back(static_cast<std::int32_t>(3 + random() % 7997));
      target.push_back(static_cast<std::int32_t>(3 + random() % 7997));
      labels.push_back(static_cast<std::int32_t>(3 + random() % 7997));
    }
    valid.assign(source.size(), 1);
    for (index_t s = 0; s < n; ++s) task.push_back(static_cast<std::int32_t>(s % 4));
  }
  Tokens tokens(const std::vector<std::int32_t>& ids) const {
    return {n, length, ids.data(), valid.data(), task.data(), 0, nullptr};
  }
};

/// Runs `f` for every iteration, `tokens` tokens a time, and then once more with the products timed.
template <class Context, class F>
void measure(benchmark::State& state, Context& ctx, index_t tokens, const F& f) {
  f();
  f();
  const std::size_t bytes = ctx.arena.peak_bytes();
  std::vector<double> times;
  for (auto _ : state) {
    const double start = now(ctx.threads);
    f();
    times.push_back(now(ctx.threads) - start);
    state.SetIterationTime(times.back());
  }
  if (ctx.arena.peak_bytes() != bytes) state.SkipWithError("the arena grew after the first step");
  state.counters["tokens_per_s"] = static_cast<double>(tokens) / median(times);
  state.counters["ms"] = 1e3 * median(times);
  state.counters["products_share"] = TimedGemm::share(ctx.threads, f);
  state.counters["threads"] = ctx.threads;
}

template <class Model>
void train(benchmark::State& state) {
  typename Model::Context ctx;
  Model model(ctx, config());
  AdamW<typename Model::P, typename Model::B> optimiser(ctx, model.weights.list(), {});
  Updater<typename Model::P, typename Model::B> updater;
  Solo solo;
  model.weights.initialise(ctx, 5);
  ctx.training = true;
  const RandomBatch batch(32, 64);
  measure(state, ctx, 2048, [&] {
    model.loss(ctx, {batch.tokens(batch.source), batch.tokens(batch.target), batch.labels.data()}, solo, 1.0 / 2048, 1);
    updater(ctx, model.weights, optimiser, 1e-4, solo);
    ctx.arena.reset();
  });
}

template <class Model>
void decode(benchmark::State& state, index_t sentences) {
  typename Model::Context ctx;
  Model model(ctx, config(), false);
  Solo solo;
  model.weights.initialise(ctx, 5);
  const RandomBatch batch(sentences, 32);
  SearchOptions options;
  options.max_length = options.min_length = 64;  // nobody stops early
  measure(state, ctx, 64 * sentences, [&] {
    benchmark::DoNotOptimize(search(ctx, model, solo, batch.tokens(batch.source), options));
    ctx.arena.reset();
  });
}

template <class EncoderRouter, class DecoderRouter, class Precision>
void add(const std::string& name) {
  using Model = EncoderDecoder<StackSpec<EncoderRouter, Precision>, StackSpec<DecoderRouter, Precision>>;
  const auto set = [](auto* b, int n) { b->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(n); };
  const std::string label = std::string(Precision::name) + "/" + name;
  set(benchmark::RegisterBenchmark((label + "/train").c_str(), [](benchmark::State& s) { train<Model>(s); }), 7);
  set(benchmark::RegisterBenchmark((label + "/greedy-1").c_str(), [](benchmark::State& s) { decode<Model>(s, 1); }),
      15);
  set(benchmark::RegisterBenchmark((label + "/greedy-32").c_str(), [](benchmark::State& s) { decode<Model>(s, 32); }),
      7);
}

}  // namespace

int main(int argc, char** argv) {
  add<Dense, Dense, Fp32>("dense");
  add<Dense, Dense, Bf16>("dense");
  add<TopK<2>, Task, Fp32>("token-task");
  add<TopK<2>, Task, Bf16>("token-task");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}

// SPDX-License-Identifier: Apache-2.0
// expert_stream.cpp -- decoding multiplies a few rows by each expert's matrices, so it can be no faster than memory
// gives the weights. The feed-forward network of E experts (512 x 2048) at B tokens, top-2, routed by token (weights
// of every chosen expert are read) and by task (two experts for all), beside a sum over the same weights, which is the
// bandwidth of reading. All alternate in one process; medians.
//   OMP_NUM_THREADS=2 OMP_PROC_BIND=true build/release/expert_stream --benchmark_filter=fp32
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/nn/experts.hpp"
#include "timing.hpp"

namespace {

using namespace sparsemoe;
using benchmarks::median, benchmarks::now;

constexpr index_t width = 512, hidden = 2048, top_k = 2;

/// Experts with weights of type P::storage, or in int8.
template <class P>
class Network {
 public:
  using S = typename P::storage;
  using Layer = Experts<P, Cpu>;

  Network(index_t experts, bool int8) : layer_{experts, width, hidden, false, 0, 1} {
    layer_.form = int8 ? WeightForm::int8 : WeightForm::plain;
    w_ = layer_.template params<const S>();
    index_t total = 0;
    const auto list = list_params(w_, &total);
    weights_ = Buffer<HostMemory>(static_cast<std::size_t>(total) * sizeof(S));
    bind_params(w_, weights_.template as<const S>());
    const Random random{5};
    std::vector<float> part(4096);
    for (std::size_t i = 0; i < part.size(); ++i)
      part[i] = 0.05f * static_cast<float>(random.normal(Purpose::test, static_cast<std::uint64_t>(i)));
    for (const auto& leaf : list) {
      S* to = weights_.template as<S>() + leaf.offset;
      if (!int8) {
        for (index_t i = 0; i < leaf.shape.size(); ++i) to[i] = S(part[static_cast<std::size_t>(i * 7 % 4096)]);
      } else {
        auto* bytes = reinterpret_cast<std::int8_t*>(to);
        auto* scale = reinterpret_cast<float*>(bytes + Int8Tensor::scale_offset(leaf.shape.size()));
        for (index_t i = 0; i < leaf.shape.size(); ++i) bytes[i] = static_cast<std::int8_t>(i * 7 % 255 - 127);
        for (index_t i = 0; i < leaf.shape.batch * leaf.shape.cols; ++i) scale[i] = 0.001f;
      }
    }
    bytes_ = total * index_t(sizeof(S));
  }
  index_t bytes() const { return bytes_; }
  index_t expert_bytes() const { return bytes_ / layer_.count; }

  /// The rows of B tokens sorted by expert, as a router would have sorted them: offsets (E + 1).
  struct Rows {
    std::vector<std::int32_t> offsets, expert;
    index_t used = 0;
  };
  /// Every token has its own two experts, drawn at random.
  Rows by_token(index_t tokens) const {
    std::vector<std::int32_t> count(static_cast<std::size_t>(layer_.count), 0);
    std::mt19937 random(7);
    for (index_t t = 0; t < tokens; ++t) {
      const auto first = static_cast<index_t>(random() % static_cast<unsigned>(layer_.count));
      const auto step = 1 + static_cast<index_t>(random() % static_cast<unsigned>(layer_.count - 1));
      ++count[static_cast<std::size_t>(first)], ++count[static_cast<std::size_t>((first + step) % layer_.count)];
    }
    return sorted(count);
  }
  /// All tokens are of one task.
  Rows by_task(index_t tokens) const {
    std::vector<std::int32_t> count(static_cast<std::size_t>(layer_.count), 0);
    count[0] = count[1] = static_cast<std::int32_t>(tokens);
    return sorted(count);
  }
  void run(const Rows& rows) {
    const auto n = static_cast<index_t>(rows.expert.size());
    ctx_.arena.reset();
    if (x_.size() < static_cast<std::size_t>(n * width)) x_.assign(static_cast<std::size_t>(n * width), S(0.5f));
    y_.resize(x_.size());
    layer_.forward(ctx_, w_, Matrix<const S>(x_.data(), n, width), {rows.offsets.data(), rows.expert.data(), nullptr},
                   Matrix<S>(y_.data(), n, width), cache_);
    benchmark::DoNotOptimize(y_.data());
  }
  /// Reads all weights once.
  void read() const {
    const auto* p = weights_.template as<const std::int64_t>();
    const index_t n = bytes_ / 8;
    std::int64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(ctx_.threads) schedule(static)
    for (index_t i = 0; i < n; ++i) sum += p[i];
    benchmark::DoNotOptimize(sum);
  }
  int threads() const { return ctx_.threads; }

 private:
  static Rows sorted(const std::vector<std::int32_t>& count) {
    Rows r;
    r.offsets.push_back(0);
    for (std::size_t e = 0; e < count.size(); ++e) {
      r.offsets.push_back(r.offsets.back() + count[e]);
      r.expert.insert(r.expert.end(), static_cast<std::size_t>(count[e]), static_cast<std::int32_t>(e));
      r.used += count[e] > 0;
    }
    return r;
  }

  Layer layer_;
  typename Layer::template Params<const S> w_;
  typename Layer::Cache cache_;
  Buffer<HostMemory> weights_;
  index_t bytes_ = 0;
  std::vector<S> x_, y_;
  Cpu::Context ctx_;
};

/// One set of experts at a time: the largest is a gigabyte. Cases of a set are run one after another.
template <class P>
Network<P>& network(index_t experts, bool int8) {
  static std::unique_ptr<Network<P>> held;
  static index_t held_experts = 0;
  static bool held_int8 = false;
  if (held == nullptr || held_experts != experts || held_int8 != int8) {
    held.reset();
    held = std::make_unique<Network<P>>(experts, int8);
    held_experts = experts, held_int8 = int8;
  }
  return *held;
}

template <class P>
void measure(benchmark::State& state, index_t experts, index_t tokens, bool int8) {
  auto& net = network<P>(experts, int8);
  const auto token = net.by_token(tokens), task = net.by_task(tokens);
  const auto timed = [&](const auto& f) {
    const double start = now(net.threads());
    f();
    return now(net.threads()) - start;
  };
  std::vector<double> by_token, by_task, read;
  net.run(token), net.run(task), net.read();
  for (auto _ : state) {
    read.push_back(timed([&] { net.read(); }));
    by_token.push_back(timed([&] { net.run(token); }));
    net.run(task);  // its two experts are in cache while a task is served
    by_task.push_back(timed([&] { net.run(task); }));
    state.SetIterationTime(by_token.back());
  }
  const double bandwidth = static_cast<double>(net.bytes()) / median(read);
  const double token_bytes = static_cast<double>(token.used * net.expert_bytes());
  state.counters["token_ms"] = 1e3 * median(by_token);
  state.counters["task_ms"] = 1e3 * median(by_task);
  state.counters["token_experts"] = static_cast<double>(token.used);
  state.counters["token_GBps"] = 1e-9 * token_bytes / median(by_token);
  state.counters["read_GBps"] = 1e-9 * bandwidth;
  state.counters["read_share"] = token_bytes / median(by_token) / bandwidth;
  state.counters["GFLOPs"] = 1e-9 * 4 * static_cast<double>(tokens * top_k * width * hidden) / median(by_token);
  state.counters["token_to_task"] = median(by_token) / median(by_task);
}

template <class P>
void add(const std::string& weights, bool int8) {
  for (const index_t experts : {32, 128})
    for (const index_t tokens : {8, 32, 128, 512})
      benchmark::RegisterBenchmark((weights + "/E" + std::to_string(experts) + "/B" + std::to_string(tokens)).c_str(),
                                   [=](benchmark::State& state) { measure<P>(state, experts, tokens, int8); })
          ->UseManualTime()
          ->Iterations(7)
          ->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  add<Fp32>("fp32", false);
  add<Bf16>("bf16", false);
  add<Fp32>("int8", true);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}

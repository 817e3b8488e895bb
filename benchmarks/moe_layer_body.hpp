// SPDX-License-Identifier: Apache-2.0
// moe_layer_body.hpp -- a sparse layer, forward and backward, against its own expert products alone: the same six
// products for every expert, with the same provider, shapes and routing counts. The two alternate in one process; what
// is reported is medians and their ratio (1 is the limit). Read next: moe_layer.cpp.
#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/nn/dense.hpp"
#include "sparsemoe/nn/moe.hpp"
#include "sparsemoe/params.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "timing.hpp"

namespace benchmarks {

using namespace sparsemoe;

template <class Router_, class Precision_, class Gemm>
struct LayerSpec : SpecDefaults {
  using Router = Router_;
  using Precision = Precision_;
  using Backend = CpuBackend<OpenMp, Gemm>;
  using Collective = Solo;
};

struct LayerShape {
  index_t width, hidden, tokens, experts;
  double capacity_factor;  // 0: dropless
};

/// A layer with its operands, and buffers of their own for the products alone.
template <class Spec>
class LayerRun {
 public:
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Layer = MoE<Spec>;

  explicit LayerRun(const LayerShape& shape) : layer_(config_of(shape)), slots_(shape.tokens * layer_.top_k()) {
    const index_t T = shape.tokens, D = shape.width, F = shape.hidden;
    x_ = filled(T, D, 1), dy_ = filled(T, D, 2), y_ = filled(T, D, 3), dx_ = filled(T, D, 4);
    rows_ = filled(slots_, D, 5), outputs_ = filled(slots_, D, 6), drows_ = filled(slots_, D, 7);
    h_ = filled(slots_, F, 8), dh_ = filled(slots_, F, 9);
    valid_.assign(static_cast<std::size_t>(T), 1);
    tokens_ = {1, T, nullptr, valid_.data(), nullptr, 0, nullptr};
    w_ = layer_.template params<const S>();
    dw_ = layer_.template params<A>();
    index_t total = 0;
    const auto list = list_params(w_, &total);
    weights_ = Buffer<HostMemory>(static_cast<std::size_t>(total) * sizeof(S));
    gradient_ = Buffer<HostMemory>(static_cast<std::size_t>(total) * sizeof(A));
    bind_params(w_, weights_.template as<const S>());
    bind_params(dw_, gradient_.template as<A>());
    B::zero(ctx_, gradient_.template as<A>(), total);
    for (const auto& leaf : list) {
      S* to = weights_.template as<S>() + leaf.offset;
      if (leaf.init.wide)
        fill(reinterpret_cast<typename P::router*>(to), leaf.shape.size(), 0.035f, 10);
      else
        fill(to, leaf.shape.size(), 1.7f / std::sqrt(static_cast<float>(leaf.shape.rows)), 11);
    }
    ctx_.training = true;
  }

  void step() {
    ctx_.arena.reset();
    layer_.forward(ctx_, w_, tokens_, x_.view(), y_.view(), cache_, solo_);
    layer_.backward(ctx_, w_, dw_, tokens_, x_.view(), dy_.view(), dx_.view(), cache_);
  }
  /// After a step: its routing counts are used.
  void products() {
    const std::int32_t* offsets = cache_.offsets;
    const auto& w = w_.experts;
    const auto& dw = dw_.experts;
    const Matrix<const S> rows = rows_.view(), drows = outputs_.view(), h = h_.view();
    B::grouped_gemm(ctx_, Op::none, rows, w.wi, offsets, h_.view());
    B::grouped_gemm(ctx_, Op::none, h, w.wo, offsets, outputs_.view());
    B::grouped_gemm_transposed(ctx_, h, drows, offsets, dw.wo);
    B::grouped_gemm(ctx_, Op::transpose, drows, w.wo, offsets, dh_.view());
    B::grouped_gemm_transposed(ctx_, rows, dh_.view().as_const(), offsets, dw.wi);
    B::grouped_gemm(ctx_, Op::transpose, dh_.view().as_const(), w.wi, offsets, drows_.view());
  }
  RoutingStatistics statistics() { return layer_.statistics(ctx_, cache_); }
  std::size_t arena_bytes() const { return ctx_.arena.peak_bytes(); }
  int threads() const { return ctx_.threads; }

 private:
  struct Operand {
    Buffer<HostMemory> memory;
    index_t rows = 0, cols = 0;
    Matrix<S> view() const { return {memory.template as<S>(), rows, cols}; }
  };
  static MoeConfig config_of(const LayerShape& s) {
    MoeConfig c;
    c.experts = s.experts, c.width = s.width, c.hidden = s.hidden;
    c.capacity_factor = s.capacity_factor;
    return c;
  }
  /// Uniform in (-scale, scale).
  template <class T>
  static void fill(T* to, index_t n, float scale, unsigned seed) {
    std::minstd_rand random(seed);
    for (index_t i = 0; i < n; ++i) to[i] = T(scale * (static_cast<float>(random()) * 9.313226e-10f - 1));
  }
  static Operand filled(index_t rows, index_t cols, unsigned seed) {
    Operand o{Buffer<HostMemory>(static_cast<std::size_t>(rows * cols) * sizeof(S)), rows, cols};
    fill(o.memory.template as<S>(), rows * cols, 1.7f, seed);
    return o;
  }

  typename B::Context ctx_;
  Layer layer_;
  Solo solo_;
  index_t slots_;
  Operand x_, dy_, y_, dx_, rows_, outputs_, drows_, h_, dh_;
  std::vector<std::uint8_t> valid_;
  Tokens tokens_;
  Buffer<HostMemory> weights_, gradient_;
  typename Layer::template Params<const S> w_;
  typename Layer::template Params<A> dw_;
  typename Layer::Cache cache_;
};

template <class Spec>
void layer_against_products(benchmark::State& state, LayerShape shape) {
  LayerRun<Spec> run(shape);
  run.step();
  run.step();  // the arena is one block from here on
  run.products();
  const std::size_t bytes = run.arena_bytes();
  std::vector<double> layer, products, ratio;
  for (auto _ : state) {
    const double a = now(run.threads());
    run.step();
    const double b = now(run.threads());
    run.products();
    const double c = now(run.threads());
    layer.push_back(b - a), products.push_back(c - b), ratio.push_back((b - a) / (c - b));
    state.SetIterationTime(b - a);
  }
  if (run.arena_bytes() != bytes) state.SkipWithError("the arena grew after the first step");
  const RoutingStatistics s = run.statistics();
  state.counters["layer_ms"] = 1e3 * median(layer);
  state.counters["products_ms"] = 1e3 * median(products);
  state.counters["ratio"] = median(ratio);
  state.counters["tokens_per_s"] = static_cast<double>(shape.tokens) / median(layer);
  state.counters["gflops"] =
      12e-9 * (s.choices - s.dropped) * static_cast<double>(shape.width * shape.hidden) / median(products);
  state.counters["dropped"] = s.dropped / s.choices;
  state.counters["threads"] = run.threads();
}

/// Every shape of one router, precision and provider: names read  precision/provider/router/width x
/// hidden/tokens/experts.
template <class Router, class Precision, class Gemm>
void add_layers(const std::string& router, double capacity_factor) {
  for (const index_t width : {256, 512})
    for (const index_t tokens : {1024, 4096})
      for (const index_t experts : {4, 8, 32, 128}) {
        const LayerShape shape{width, 4 * width, tokens, experts, capacity_factor};
        const std::string name = std::string(Precision::name) + "/" + Gemm::name + "/" + router + "/" +
                                 std::to_string(width) + "x" + std::to_string(4 * width) + "/T" +
                                 std::to_string(tokens) + "/E" + std::to_string(experts);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [shape](benchmark::State& state) {
                                       layer_against_products<LayerSpec<Router, Precision, Gemm>>(state, shape);
                                     })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(9);
      }
}
/// Switch under capacity 1.25 and without a limit, and the two best experts without a limit.
template <class Precision, class Gemm>
void add_routers() {
  add_layers<Switch, Precision, Gemm>("switch-1.25", 1.25);
  add_layers<Switch, Precision, Gemm>("switch", 0);
  add_layers<TopK<2>, Precision, Gemm>("top-2", 0);
}

}  // namespace benchmarks

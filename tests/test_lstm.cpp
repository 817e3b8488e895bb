// SPDX-License-Identifier: Apache-2.0
// test_lstm.cpp -- the LSTM: its values against naive loops, its backward pass against difference quotients with
// planted faults, segments and single steps against the whole, and its bits on several threads. Read next:
// include/sparsemoe/nn/lstm.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/nn/lstm.hpp"
#include "sparsemoe/testing/check_layer.hpp"

namespace {

using namespace sparsemoe;
using Context = Cpu::Context;
using ConstViews = std::vector<Matrix<const double>>;
using Views = std::vector<Matrix<double>>;

/// A layer with random weights, and random states to start from.
template <class P>
struct Trial {
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Layer = Lstm<P, Cpu>;
  Layer layer;
  index_t sequences, length;
  std::vector<S> weights;
  typename Layer::template Params<const S> w;
  std::vector<S> x;

  Trial(const Layer& l, index_t b, index_t n) : layer(l), sequences(b), length(n) {
    w = layer.template params<const S>();
    index_t total = 0;
    list_params(w, &total);
    for (const double v : detail::random_values(total, 1, 1, 0.5)) weights.push_back(S(v));
    bind_params(w, static_cast<const S*>(weights.data()));
    for (const double v : detail::random_values(b * n * layer.in, 1, 2)) x.push_back(S(v));
  }
  static void randomise(const typename Layer::State& s) {
    const auto h = detail::random_values(s.output().size(), 1, 3, 0.5),
               c = detail::random_values(s.cell().size(), 1, 4);
    for (std::size_t i = 0; i < h.size(); ++i) s.output().data[i] = S(h[i]);
    for (std::size_t i = 0; i < c.size(); ++i) s.cell().data[i] = C(c[i]);
  }
  /// The outputs, read in segments of `segment` steps.
  std::vector<S> run(Context& ctx, index_t segment) const {
    const index_t out = layer.out();
    std::vector<S> all(static_cast<std::size_t>(sequences * length * out));
    const typename Layer::State state = layer.state(ctx, sequences);
    randomise(state);
    for (index_t first = 0; first < length; first += segment) {
      const index_t n = std::min(segment, length - first);
      const auto px = ctx.arena.template matrix<S>(sequences * n, layer.in);
      const auto py = ctx.arena.template matrix<S>(sequences * n, out);
      for (index_t b = 0; b < sequences; ++b)
        std::copy_n(x.data() + (b * length + first) * layer.in, n * layer.in, px.row(b * n).data);
      typename Layer::Cache cache;
      layer.forward(ctx, w, n, px.as_const(), py, cache, state);
      for (index_t b = 0; b < sequences; ++b)
        std::copy_n(py.row(b * n).data, n * out, all.data() + (b * length + first) * out);
      ctx.arena.reset();
    }
    return all;
  }
};

template <class S>
bool same_bits(const std::vector<S>& a, const std::vector<S>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(S)) == 0;
}

TEST_CASE("the values are those of the equations, with and without a projection") {
  for (const index_t projection : {0, 3}) {
    CAPTURE(projection);
    const index_t in = 4, n = 5, b = 2, length = 6;
    const Trial<Fp64> t({in, n, projection, 1}, b, length);
    const index_t out = t.layer.out();
    Context ctx(1);
    const auto y = t.run(ctx, length);
    const auto state = t.layer.state(ctx, b);
    Trial<Fp64>::randomise(state);
    const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
    for (index_t s = 0; s < b; ++s) {
      std::vector<double> h(state.output().row(s).data, state.output().row(s).data + out);
      std::vector<double> c(state.cell().row(s).data, state.cell().row(s).data + n);
      for (index_t i = 0; i < length; ++i) {
        std::vector<double> m(static_cast<std::size_t>(n));
        for (index_t j = 0; j < n; ++j) {
          double gate[4];
          for (index_t k = 0; k < 4; ++k) {
            gate[k] = t.w.bias.data[k * n + j];
            for (index_t d = 0; d < in; ++d)
              gate[k] += t.x[static_cast<std::size_t>((s * length + i) * in + d)] * t.w.input.matrix()(d, k * n + j);
            for (index_t d = 0; d < out; ++d)
              gate[k] += h[static_cast<std::size_t>(d)] * t.w.recurrent.matrix()(d, k * n + j);
          }
          double& cell = c[static_cast<std::size_t>(j)];
          cell = sigmoid(gate[1] + 1) * cell + sigmoid(gate[0]) * std::tanh(gate[2]);
          m[static_cast<std::size_t>(j)] = sigmoid(gate[3]) * std::tanh(cell);
        }
        for (index_t d = 0; d < out; ++d) {
          double v = projection > 0 ? 0 : m[static_cast<std::size_t>(d)];
          if (projection > 0)
            for (index_t j = 0; j < n; ++j) v += m[static_cast<std::size_t>(j)] * t.w.projection.matrix()(j, d);
          h[static_cast<std::size_t>(d)] = v;
          CHECK(y[static_cast<std::size_t>((s * length + i) * out + d)] == doctest::Approx(v).epsilon(1e-12));
        }
      }
    }
  }
}

enum class Fault { none, scale_dx, drop_recurrent, overwrite_bias, forget_the_cell };

LayerReport check(const Lstm<Fp64, Cpu>& layer, index_t sequences, index_t length, Fault fault = Fault::none) {
  Context ctx(1);
  Lstm<Fp64, Cpu>::Cache cache;
  const auto state = layer.state(ctx, sequences);
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    Trial<Fp64>::randomise(state);
    layer.forward(ctx, w, length, x[0], y, cache, state);
  };
  const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    const double recurrent = dw.recurrent.data[0], bias = dw.bias.data[0];
    if (fault == Fault::forget_the_cell)  // as if no gradient went from cell to cell
      for (index_t i = 0; i < cache.gates.rows; ++i)
        for (index_t j = 0; j < layer.cells; ++j) cache.gates(i, layer.cells + j) = 0;
    layer.backward(ctx, w, dw, length, x[0], dy, dx[0], cache);
    if (fault == Fault::scale_dx) dx[0](0, 0) *= 1.001;
    if (fault == Fault::drop_recurrent) dw.recurrent.data[0] = recurrent;
    if (fault == Fault::overwrite_bias) dw.bias.data[0] -= bias;
  };
  return check_layer<Cpu>(ctx, layer, {{sequences * length, layer.in}}, {sequences * length, layer.out()}, forward,
                          backward);
}

TEST_CASE("the gradient through time, and the faults in it") {
  const Lstm<Fp64, Cpu> plain{4, 5, 0, 1}, projected{4, 5, 3, 1};
  for (const auto& layer : {plain, projected}) {
    for (const index_t length : {1, 4}) {
      const LayerReport report = check(layer, 3, length);
      INFO(report.text());
      CHECK(report.passed());
    }
    for (const Fault fault : {Fault::scale_dx, Fault::drop_recurrent, Fault::overwrite_bias, Fault::forget_the_cell}) {
      CAPTURE(static_cast<int>(fault));
      CHECK_FALSE(check(layer, 3, 4, fault).passed());
    }
  }
}

TEST_CASE("segments that carry the state, and single steps, give the bits of the whole") {
  for (const index_t projection : {0, 40}) {
    const Trial<Fp32> t({37, 64, projection, 1}, 5, 12);
    Context ctx(1);
    const auto whole = t.run(ctx, 12);
    for (const index_t segment : {1, 3, 5}) {
      CAPTURE(segment);
      CHECK(same_bits(whole, t.run(ctx, segment)));
    }
  }
}

TEST_CASE("every number of threads gives the same bits") {
  const Trial<Fp32> t({64, 160, 96, 1}, 33, 9);
  Context one(1);
  const auto whole = t.run(one, 9);
  for (const int threads : {2, 4}) {
    Context ctx(threads);
    CHECK(same_bits(whole, t.run(ctx, 9)));
  }
}

TEST_CASE("shapes that do not fit are refused") {
  Context ctx(1);
  const Trial<Fp32> t({3, 4, 0, 1}, 2, 3);
  const auto state = t.layer.state(ctx, 2);
  Lstm<Fp32, Cpu>::Cache cache;
  const auto x = ctx.arena.matrix<float>(5, 3), y = ctx.arena.matrix<float>(5, 4);
  CHECK_THROWS_WITH_AS(t.layer.forward(ctx, t.w, 3, x.as_const(), y, cache, state),
                       doctest::Contains("expected 2 sequences of 3 steps"), Error);
}

}  // namespace

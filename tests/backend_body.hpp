// SPDX-License-Identifier: Apache-2.0
// tests/backend_body.hpp -- what every backend must do, against naive loops in double; templates over the backend, so
// that tests/test_kernels.cpp runs them on CPUs and tests/cuda_backend.cu on a GPU.
// Outputs start as NaN, operands are parts of wider matrices, and tolerances come from unit roundoffs: an element may
// be off by one rounding to its own type plus (number of additions) * (roundoff of the compute type) * (size of the
// terms).
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/backend/gemm/gemm.hpp"
#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/kernels/rows.hpp"
#include "sparsemoe/nn/distill.hpp"
#include "sparsemoe/precision.hpp"
#include "sparsemoe/random.hpp"

namespace backend_body {

namespace sm = sparsemoe;
using sm::index_t;

// ------------------------------------------------------------------------------------------------ small tools
template <class T>
constexpr double roundoff() {
  return std::is_same_v<T, double>     ? 0x1p-53
         : std::is_same_v<T, float>    ? 0x1p-24
         : std::is_same_v<T, sm::fp16> ? 0x1p-11
                                       : 0x1p-8;
}
template <class T>
constexpr double half_step_at_zero() {  // half the distance between the two smallest numbers
  return std::is_same_v<T, sm::fp16> ? 0x1p-25 : std::is_same_v<T, double> ? 0.0 : 0x1p-134;
}
inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

using Doubles = std::vector<double>;

/// `n` values of T in [-size, size), the same for the same seed.
template <class T>
std::vector<T> values(index_t n, std::uint32_t seed, double size = 1) {
  const sm::Random random{seed};
  std::vector<T> v(at(n));
  for (index_t i = 0; i < n; ++i)
    v[at(i)] = T(size * (2.0 * random.uniform(sm::Purpose::test, static_cast<std::uint64_t>(i)) - 1.0));
  return v;
}

/// Values on the backend, with a copy of what they were at the start.
template <class B, class T>
class Array {
 public:
  Array(typename B::Context& ctx, std::vector<T> start)
      : ctx_(ctx), start_(std::move(start)), room_(start_.size() * sizeof(T)) {
    B::copy_from_host(ctx_, data(), start_.data(), size());
  }
  /// n values that nobody may rely on: NaN in every float type.
  Array(typename B::Context& ctx, index_t n) : ctx_(ctx), start_(at(n)), room_(start_.size() * sizeof(T)) {
    if (n > 0) std::memset(static_cast<void*>(start_.data()), 0xff, start_.size() * sizeof(T));
    B::copy_from_host(ctx_, data(), start_.data(), size());
  }
  T* data() const { return room_.template as<T>(); }
  index_t size() const { return static_cast<index_t>(start_.size()); }
  sm::Matrix<T> matrix(index_t rows, index_t cols) const { return {data(), rows, cols}; }
  /// The start, widened.
  double operator[](index_t i) const { return static_cast<double>(start_[at(i)]); }
  const std::vector<T>& start() const { return start_; }
  std::vector<T> read() const {
    std::vector<T> now(start_.size());
    B::copy_to_host(ctx_, now.data(), data(), size());
    return now;
  }

 private:
  typename B::Context& ctx_;
  std::vector<T> start_;
  sm::Buffer<typename B::Memory> room_;
};

/// got[i] is want[i] up to one rounding to T and error[i].
template <class T>
void expect_close(const std::string& what, const std::vector<T>& got, const Doubles& want, const Doubles& error) {
  REQUIRE(got.size() == want.size());
  REQUIRE(error.size() == want.size());
  std::size_t wrong = 0, first = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double allowed = roundoff<T>() * (std::abs(want[i]) + error[i]) + error[i] + half_step_at_zero<T>();
    if (!(std::abs(static_cast<double>(got[i]) - want[i]) <= allowed) && wrong++ == 0) first = i;
  }
  CAPTURE(what);
  CAPTURE(first);
  if (wrong > 0) {
    CAPTURE(static_cast<double>(got[first]));
    CAPTURE(want[first]);
    CAPTURE(error[first]);
    CHECK(wrong == 0);
  } else {
    CHECK(wrong == 0);
  }
}
template <class T>
void expect_close(const std::string& what, const std::vector<T>& got, const Doubles& want, double error) {
  expect_close(what, got, want, Doubles(want.size(), error));
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// ------------------------------------------------------------------------------------------------- elementwise
template <class B, class P>
void elementwise() {
  using S = typename P::storage;
  using C = typename P::compute;
  typename B::Context ctx;
  for (const index_t n : {index_t(1), index_t(7), index_t(2048), index_t(9001)}) {
    CAPTURE(n);
    Array<B, S> a(ctx, values<S>(n, 1)), b(ctx, values<S>(n, 2)), out(ctx, n);
    Array<B, C> total(ctx, values<C>(n, 3));
    Doubles sum(at(n)), scaled(at(n)), added(at(n));
    for (index_t i = 0; i < n; ++i) {
      sum[at(i)] = a[i] + b[i];
      scaled[at(i)] = 0.375 * a[i];
      added[at(i)] = total[i] + a[i];
    }
    const double u = roundoff<C>();
    B::for_each_index(ctx, n, sm::Sum<S, C>{a.data(), b.data(), out.data()});
    expect_close("Sum", out.read(), sum, 2 * u);
    B::for_each_index(ctx, n, sm::ScaleInto<S, S, C>{a.data(), out.data(), C(0.375)});
    expect_close("ScaleInto", out.read(), scaled, u);
    B::for_each_index(ctx, n, sm::AddTo<S, C, C>{a.data(), total.data()});
    expect_close("AddTo", total.read(), added, 2 * u);

    // Dropout: the mask is the generator's, on every device the same.
    const sm::Random random{11, 5, 3};
    const float p = 0.3f;
    Doubles dropped(at(n));
    for (index_t i = 0; i < n; ++i) {
      const auto draws = random.draw4(sm::Purpose::dropout, static_cast<std::uint64_t>(i / 8));
      const std::uint32_t bits = (draws.v[i % 8 / 2] >> (16 * (i % 2))) & 0xffffu;
      const bool kept = bits >= static_cast<std::uint32_t>(p * 65536.0f);
      dropped[at(i)] = kept ? a[i] / (1.0 - static_cast<double>(p)) : 0.0;
    }
    Array<B, S> y(ctx, n);
    B::for_each_index(ctx, (n + 7) / 8, sm::Dropout8<S, C>{a.data(), y.data(), n, p, random, sm::Purpose::dropout});
    // 1 - p is rounded to float, and so is its inverse.
    expect_close("Dropout8", y.read(), dropped, 4 * 0x1p-24);
    if (n > 1000) {
      const auto zeros = std::count(dropped.begin(), dropped.end(), 0.0);
      CHECK(std::abs(static_cast<double>(zeros) / static_cast<double>(n) - 0.3) <
            4 * std::sqrt(0.21 / static_cast<double>(n)));
    }
  }
}

inline double naive(sm::Relu, double x) { return x > 0 ? x : 0; }
inline double naive(sm::Gelu, double x) { return x * std::erfc(-x / std::sqrt(2.0)) / 2; }
inline double naive(sm::GeluTanh, double x) {
  return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}
inline double naive(sm::Silu, double x) { return x / (1 + std::exp(-x)); }
inline double naive(sm::Sigmoid, double x) { return 1 / (1 + std::exp(-x)); }
inline double naive(sm::Tanh, double x) { return std::tanh(x); }
inline double naive(sm::QuickGelu, double x) { return x / (1 + std::exp(-1.702 * x)); }
inline double naive(sm::Softplus, double x) { return std::log1p(std::exp(x)); }

template <class B, class P, class Act>
void activation() {
  using S = typename P::storage;
  using C = typename P::compute;
  typename B::Context ctx;
  CAPTURE(std::string(Act::name));
  const index_t n = 1203;
  std::vector<S> points(at(n));
  for (index_t i = 0; i < n; ++i) points[at(i)] = S(-6.01 + 0.01 * static_cast<double>(i) + 0.003);  // never 0
  Array<B, S> x(ctx, points), dy(ctx, values<S>(n, 4)), y(ctx, n), dx(ctx, n);
  B::for_each_index(ctx, n, sm::Activate<Act, S, C>{x.data(), y.data()});
  B::for_each_index(ctx, n, sm::ActivateBackward<Act, S, C>{x.data(), dy.data(), dx.data()});
  Doubles value(at(n)), value_error(at(n)), slope(at(n)), slope_error(at(n));
  const double h = 0x1p-17;  // the central difference is off by about h^2, and by 2^-53 / h
  for (index_t i = 0; i < n; ++i) {
    const double v = x[i];
    value[at(i)] = naive(Act{}, v);
    value_error[at(i)] = 16 * roundoff<C>() * (1 + std::abs(v));
    slope[at(i)] = dy[i] * (naive(Act{}, v + h) - naive(Act{}, v - h)) / (2 * h);
    slope_error[at(i)] = 32 * roundoff<C>() * (1 + v * v) + 1e-9;
  }
  expect_close("value", y.read(), value, value_error);
  expect_close("derivative", dx.read(), slope, slope_error);
}
template <class B, class P>
void activations() {
  activation<B, P, sm::Relu>();
  activation<B, P, sm::Gelu>();
  activation<B, P, sm::GeluTanh>();
  activation<B, P, sm::Silu>();
  activation<B, P, sm::Sigmoid>();
  activation<B, P, sm::Tanh>();
  activation<B, P, sm::QuickGelu>();
  activation<B, P, sm::Softplus>();
}

// -------------------------------------------------------------------------------------------------------- rows
template <class B, class P>
void norms() {
  using S = typename P::storage;
  using C = typename P::compute;
  typename B::Context ctx;
  const double u = roundoff<C>(), eps = 1e-5;
  const index_t rows = 6;
  for (const index_t n : {index_t(1), index_t(3), index_t(7), index_t(33), index_t(100)})
    for (const bool with_beta : {true, false}) {
      CAPTURE(n);
      CAPTURE(with_beta);
      const auto at2 = [n](index_t r, index_t j) { return at(r * n + j); };
      Array<B, S> x(ctx, values<S>(rows * n, 5)), gamma(ctx, values<S>(n, 6)), beta(ctx, values<S>(n, 7)),
          dy(ctx, values<S>(rows * n, 8));
      Doubles y(at(rows * n)), y_error(y), dx(y), dx_error(y), mean(at(rows)), scale(mean), scale_error(mean);
      Doubles z(y), z_error(y), dz(y), dz_error(y), root(mean), root_error(mean);
      for (index_t r = 0; r < rows; ++r) {
        double m = 0, var = 0, square = 0;
        for (index_t j = 0; j < n; ++j) m += x[r * n + j] / static_cast<double>(n);
        for (index_t j = 0; j < n; ++j) {
          var += (x[r * n + j] - m) * (x[r * n + j] - m) / static_cast<double>(n);
          square += x[r * n + j] * x[r * n + j] / static_cast<double>(n);
        }
        const double s = 1 / std::sqrt(var + eps), q = 1 / std::sqrt(square + eps);
        const double slack = 4 * static_cast<double>(n + 8) * u;
        mean[at(r)] = m, scale[at(r)] = s, root[at(r)] = q;
        scale_error[at(r)] = slack * s * (1 + s), root_error[at(r)] = slack * q;
        double sum = 0, dot = 0, dot_z = 0;
        for (index_t j = 0; j < n; ++j) {
          const double d = dy[r * n + j] * gamma[j];
          sum += d / static_cast<double>(n);
          dot += d * (x[r * n + j] - m) * s / static_cast<double>(n);
          dot_z += d * x[r * n + j] * q / static_cast<double>(n);
        }
        for (index_t j = 0; j < n; ++j) {
          const double hat = (x[r * n + j] - m) * s, d = dy[r * n + j] * gamma[j];
          y[at2(r, j)] = hat * gamma[j] + (with_beta ? beta[j] : 0);
          y_error[at2(r, j)] = slack * (1 + s) * (1 + std::abs(y[at2(r, j)]));
          dx[at2(r, j)] = s * (d - sum - hat * dot);
          dx_error[at2(r, j)] = 4 * slack * s * (1 + s) * (1 + std::abs(hat));
          z[at2(r, j)] = x[r * n + j] * q * gamma[j];
          z_error[at2(r, j)] = slack * (1 + q);
          dz[at2(r, j)] = q * (d - x[r * n + j] * q * dot_z);
          dz_error[at2(r, j)] = 4 * slack * q * (1 + q);
        }
      }
      const auto as_compute = [](const Doubles& v) { return std::vector<C>(v.begin(), v.end()); };
      const auto mx = x.matrix(rows, n).as_const(), mdy = dy.matrix(rows, n).as_const();
      {
        Array<B, S> out(ctx, rows * n);
        Array<B, C> got_mean(ctx, rows), got_scale(ctx, rows);
        B::for_each_row(ctx, rows,
                        sm::LayerNormRow<P>{mx, gamma.data(), with_beta ? beta.data() : nullptr, C(eps),
                                            out.matrix(rows, n), got_mean.data(), got_scale.data()},
                        n);
        expect_close("LayerNormRow y", out.read(), y, y_error);
        expect_close("LayerNormRow mean", got_mean.read(), mean, 4 * static_cast<double>(n + 8) * u);
        expect_close("LayerNormRow scale", got_scale.read(), scale, scale_error);
      }
      {
        Array<B, C> m(ctx, as_compute(mean)), s(ctx, as_compute(scale));
        Array<B, S> out(ctx, rows * n);
        B::for_each_row(ctx, rows,
                        sm::LayerNormBackwardRow<P>{mx, mdy, gamma.data(), m.data(), s.data(), out.matrix(rows, n)}, n);
        expect_close("LayerNormBackwardRow", out.read(), dx, dx_error);
      }
      {
        Array<B, S> out(ctx, rows * n);
        Array<B, C> got(ctx, rows);
        B::for_each_row(ctx, rows, sm::RmsNormRow<P>{mx, gamma.data(), C(eps), out.matrix(rows, n), got.data()}, n);
        expect_close("RmsNormRow y", out.read(), z, z_error);
        expect_close("RmsNormRow scale", got.read(), root, root_error);
      }
      {
        Array<B, C> s(ctx, as_compute(root));
        Array<B, S> out(ctx, rows * n);
        B::for_each_row(ctx, rows, sm::RmsNormBackwardRow<P>{mx, mdy, gamma.data(), s.data(), out.matrix(rows, n)}, n);
        expect_close("RmsNormBackwardRow", out.read(), dz, dz_error);
      }
    }
}

template <class B, class P>
void column_sums() {
  using S = typename P::storage;
  using A = typename P::accumulate;
  typename B::Context ctx;
  for (const index_t rows : {index_t(0), index_t(1), index_t(63), index_t(64), index_t(65), index_t(200)})
    for (const index_t cols : {index_t(1), index_t(7), index_t(50)}) {
      CAPTURE(rows);
      CAPTURE(cols);
      Array<B, S> x(ctx, values<S>(rows * cols, 9));
      Array<B, A> out(ctx, values<A>(cols, 10));
      Doubles want(at(cols)), error(at(cols));
      for (index_t j = 0; j < cols; ++j) {
        double total = 0, size = std::abs(out[j]);
        for (index_t i = 0; i < rows; ++i) total += x[i * cols + j], size += std::abs(x[i * cols + j]);
        want[at(j)] = out[j] + total;
        error[at(j)] = static_cast<double>(rows + 2) * roundoff<A>() * size;
      }
      sm::add_column_sums<B>(ctx, rows, cols, sm::ElementTerm<S, A>{x.matrix(rows, cols).as_const()}, out.data());
      expect_close("add_column_sums", out.read(), want, error);
    }
}

template <class B, class P>
void attention_softmax(bool causal, index_t window, bool masked, bool biased, bool in_place) {
  using S = typename P::storage;
  using C = typename P::compute;
  typename B::Context ctx;
  CAPTURE(causal);
  CAPTURE(window);
  CAPTURE(masked);
  CAPTURE(biased);
  const index_t batch = 3, heads = 2, queries = 5, keys = 9, offset = 3, rows = batch * heads * queries;
  Array<B, S> scores(ctx, values<S>(rows * keys, 12, 4)), probs(ctx, rows * keys);
  Array<B, C> bias(ctx, values<C>(heads * queries * keys, 13, 2));
  std::vector<std::uint8_t> ok(at(batch * keys), 1);
  for (index_t j = 0; j < keys; ++j) ok[at(j)] = j % 3 != 1, ok[at(2 * keys + j)] = 0;  // the last sentence is empty
  Array<B, std::uint8_t> valid(ctx, ok);
  Doubles want(at(rows * keys)), error(want.size(), 0);
  for (index_t r = 0; r < rows; ++r) {
    const index_t i = r % queries, h = r / queries % heads, b = r / queries / heads;
    const auto open = [&](index_t j) {
      if (causal && j > i + offset) return false;
      if (window > 0 && j <= i + offset - window) return false;
      return !masked || ok[at(b * keys + j)] != 0;
    };
    const auto score = [&](index_t j) {
      return scores[r * keys + j] + (biased ? bias[(h * queries + i) * keys + j] : 0);
    };
    double total = 0;
    for (index_t j = 0; j < keys; ++j) total += open(j) ? std::exp(score(j)) : 0;
    for (index_t j = 0; j < keys; ++j) {
      want[at(r * keys + j)] = open(j) ? std::exp(score(j)) / total : 0;
      // Each exponent is off by a few roundings of a number up to 12.
      error[at(r * keys + j)] = 2 * roundoff<C>() * static_cast<double>(keys + 32) * want[at(r * keys + j)];
    }
  }
  Array<B, S>& out = in_place ? scores : probs;
  B::for_each_row(ctx, rows,
                  sm::AttentionSoftmaxRow<P>{
                      scores.matrix(rows, keys).as_const(), out.matrix(rows, keys), masked ? valid.data() : nullptr,
                      biased ? bias.matrix(heads * queries, keys).as_const() : sm::Matrix<const C>(), heads, queries,
                      offset, causal, window},
                  keys);
  expect_close("AttentionSoftmaxRow", out.read(), want, error);
}
template <class B, class P>
void attention_rows() {
  using S = typename P::storage;
  using C = typename P::compute;
  for (const bool causal : {false, true})
    for (const index_t window : {index_t(0), index_t(2)})
      for (const bool masked : {false, true})
        for (const bool biased : {false, true})
          attention_softmax<B, P>(causal, window, masked, biased, causal != biased);

  typename B::Context ctx;
  for (const index_t n : {index_t(1), index_t(7), index_t(50)}) {
    CAPTURE(n);
    const index_t rows = 12;  // also (batch 3) x (4 rows of bias)
    Array<B, S> p(ctx, values<S>(rows * n, 14)), d(ctx, values<S>(rows * n, 15));
    Array<B, C> dbias(ctx, values<C>(4 * n, 16));
    Doubles ds(at(rows * n)), bias(at(4 * n));
    for (index_t r = 0; r < rows; ++r) {
      double dot = 0;
      for (index_t j = 0; j < n; ++j) dot += p[r * n + j] * d[r * n + j];
      for (index_t j = 0; j < n; ++j) ds[at(r * n + j)] = p[r * n + j] * (d[r * n + j] - dot);
    }
    for (index_t i = 0; i < 4 * n; ++i) bias[at(i)] = dbias[i] + p[i] + p[4 * n + i] + p[8 * n + i];
    B::for_each_row(ctx, rows, sm::SoftmaxBackwardRow<P>{p.matrix(rows, n).as_const(), d.matrix(rows, n)}, n);
    expect_close("SoftmaxBackwardRow", d.read(), ds, static_cast<double>((n + 4) * (n + 1)) * roundoff<C>());
    B::for_each_row(ctx, 4, sm::BiasGradientRow<P>{p.matrix(rows, n).as_const(), dbias.matrix(4, n), 3}, n);
    expect_close("BiasGradientRow", dbias.read(), bias, 4 * 4 * roundoff<C>());
  }
}

template <class B, class P>
void cross_entropy() {
  using S = typename P::storage;
  using C = typename P::compute;
  typename B::Context ctx;
  const index_t rows = 7;
  for (const index_t n : {index_t(2), index_t(7), index_t(50), index_t(129)})
    for (const double smoothing : {0.0, 0.1})
      for (const bool gradient : {true, false}) {
        CAPTURE(n);
        CAPTURE(smoothing);
        CAPTURE(gradient);
        auto config = sm::CrossEntropyConfig::smoothed(smoothing, n);
        config.z = smoothing > 0 ? 0.01 : 0;
        const double scale = 0.25;
        Array<B, S> logits(ctx, values<S>(rows * n, 17, 3));
        std::vector<std::int32_t> target(at(rows));
        for (index_t r = 0; r < rows; ++r) target[at(r)] = r == 3 ? -1 : static_cast<std::int32_t>((r * 37 + 1) % n);
        {  // one row predicts its target
          index_t best = 0;
          for (index_t j = 1; j < n; ++j) best = logits[5 * n + j] > logits[5 * n + best] ? j : best;
          target[5] = static_cast<std::int32_t>(best);
        }
        Array<B, std::int32_t> t(ctx, target), correct(ctx, rows);
        Array<B, C> loss(ctx, rows), nll(ctx, rows);
        Doubles want_loss(at(rows)), want_nll(at(rows)), want_gradient(at(rows * n));
        std::vector<std::int32_t> want_correct(at(rows));
        for (index_t r = 0; r < rows; ++r) {
          const std::int32_t y = target[at(r)];
          if (y < 0) continue;
          double total = 0, top = logits[r * n];
          for (index_t j = 0; j < n; ++j) total += std::exp(logits[r * n + j]), top = std::max(top, logits[r * n + j]);
          const double lse = std::log(total);
          double mass = 0;
          for (index_t j = 0; j < n; ++j) {
            const double q = config.everywhere + (j == y ? config.on_target : 0);
            want_loss[at(r)] -= q * (logits[r * n + j] - lse);
            mass += q;
          }
          want_loss[at(r)] += config.z * lse * lse;
          want_nll[at(r)] = lse - logits[r * n + y];
          want_correct[at(r)] = logits[r * n + y] >= top;
          for (index_t j = 0; j < n; ++j) {
            const double p = std::exp(logits[r * n + j] - lse), q = config.everywhere + (j == y ? config.on_target : 0);
            want_gradient[at(r * n + j)] = scale * (p * (mass + 2 * config.z * lse) - q);
          }
        }
        if (!gradient)
          for (index_t i = 0; i < rows * n; ++i) want_gradient[at(i)] = logits[i];
        B::for_each_row(
            ctx, rows,
            sm::CrossEntropyRow<P>{logits.matrix(rows, n), t.data(), C(config.on_target), C(config.everywhere),
                                   C(config.z), C(scale), loss.data(), nll.data(), correct.data(), gradient},
            n);
        // Sums of n terms of at most 6, and logarithms of at most 8.
        const double slack = 32 * static_cast<double>(n + 16) * roundoff<C>();
        expect_close("CrossEntropyRow loss", loss.read(), want_loss, slack);
        expect_close("CrossEntropyRow nll", nll.read(), want_nll, slack);
        // The exponentials wait in the logits' own type: a probability of at most 1 is rounded once more.
        const double kept = gradient ? slack / 16 + scale * roundoff<S>() : 0;
        expect_close("CrossEntropyRow gradient", logits.read(), want_gradient, kept);
        CHECK(correct.read() == want_correct);
        CHECK(std::count(want_correct.begin(), want_correct.end(), 1) >= 1);
      }
}

/// The teacher's rows that do not count are NaN: they are not read.
template <class B, class P>
void distillation() {
  using S = typename P::storage;
  using C = typename P::compute;
  typename B::Context ctx;
  const index_t rows = 7;
  for (const index_t n : {index_t(2), index_t(50), index_t(300)})
    for (const double temperature : {1.0, 2.5})
      for (const bool gradient : {true, false}) {
        CAPTURE(n);
        CAPTURE(temperature);
        CAPTURE(gradient);
        auto config = sm::CrossEntropyConfig::smoothed(0.1, n);
        config.z = 0.01;
        const double scale = 0.25, share = 0.6;
        Array<B, S> logits(ctx, values<S>(rows * n, 19, 3));
        std::vector<C> lesson = values<C>(rows * n, 20, 3);
        std::fill_n(lesson.begin() + 3 * n, n, std::numeric_limits<C>::quiet_NaN());
        Array<B, C> teacher(ctx, lesson);
        std::vector<std::int32_t> target(at(rows));
        for (index_t r = 0; r < rows; ++r) target[at(r)] = r == 3 ? -1 : static_cast<std::int32_t>((r * 37 + 1) % n);
        Array<B, std::int32_t> t(ctx, target), correct(ctx, rows);
        Array<B, C> hard(ctx, rows), soft(ctx, rows), nll(ctx, rows);
        Doubles want_hard(at(rows)), want_soft(at(rows)), want_nll(at(rows)), want_gradient(at(rows * n));
        std::vector<std::int32_t> want_correct(at(rows));
        for (index_t r = 0; r < rows; ++r) {
          const std::int32_t y = target[at(r)];
          if (y < 0) continue;
          double total = 0, cooled = 0, taught = 0, top = logits[r * n];
          for (index_t j = 0; j < n; ++j) {
            total += std::exp(logits[r * n + j]), top = std::max(top, logits[r * n + j]);
            cooled += std::exp(logits[r * n + j] / temperature);
            taught += std::exp(teacher[r * n + j] / temperature);
          }
          const double lse = std::log(total), mass = config.on_target + config.everywhere * static_cast<double>(n);
          want_nll[at(r)] = lse - logits[r * n + y];
          want_correct[at(r)] = logits[r * n + y] >= top;
          want_hard[at(r)] = config.z * lse * lse;
          for (index_t j = 0; j < n; ++j) {
            const double label = config.everywhere + (j == y ? config.on_target : 0), x = logits[r * n + j];
            const double q = std::exp(teacher[r * n + j] / temperature) / taught;
            const double p = std::exp(x - lse), soft_p = std::exp(x / temperature) / cooled;
            want_hard[at(r)] -= label * (x - lse);
            want_soft[at(r)] -= q * std::log(soft_p);
            want_gradient[at(r * n + j)] =
                scale * ((1 - share) * (p * (mass + 2 * config.z * lse) - label) + share * temperature * (soft_p - q));
          }
        }
        if (!gradient)
          for (index_t i = 0; i < rows * n; ++i) want_gradient[at(i)] = logits[i];
        const sm::DistillationRow<P, C> row{logits.matrix(rows, n),
                                            teacher.matrix(rows, n).as_const(),
                                            t.data(),
                                            C(config.on_target),
                                            C(config.everywhere),
                                            C(config.z),
                                            C(share),
                                            C(temperature),
                                            C(scale),
                                            hard.data(),
                                            soft.data(),
                                            nll.data(),
                                            correct.data(),
                                            gradient};
        B::for_each_row(ctx, rows, row, n);
        // Sums of n terms of at most 6, and logarithms of at most 9.
        const double slack = 32 * static_cast<double>(n + 16) * roundoff<C>();
        expect_close("DistillationRow hard", hard.read(), want_hard, slack);
        expect_close("DistillationRow soft", soft.read(), want_soft, slack);
        expect_close("DistillationRow nll", nll.read(), want_nll, slack);
        expect_close("DistillationRow gradient", logits.read(), want_gradient, gradient ? slack / 16 : 0);
        CHECK(correct.read() == want_correct);
      }
}

// ----------------------------------------------------------------------------------------------- matrix products
/// A (rows, cols) part of a wider matrix whose other columns must not be touched.
template <class B, class T>
struct Part {
  index_t rows, cols, stride, before;
  Array<B, T> all;
  Part(typename B::Context& ctx, index_t r, index_t c, std::uint32_t seed, index_t margin)
      : rows(r), cols(c), stride(c + 2 * margin), before(margin), all(ctx, values<T>(r * stride, seed)) {}
  sm::Matrix<T> view() const { return {all.data() + before, rows, cols, stride}; }
  double operator()(index_t r, index_t c) const { return all[r * stride + before + c]; }
  /// Checks the part against (rows, cols) numbers, and that everything around it is as it was.
  void expect(const std::string& what, const Doubles& want, const Doubles& error) const {
    const std::vector<T> now = all.read();
    Doubles whole(now.size()), slack(now.size(), 0);
    for (std::size_t i = 0; i < now.size(); ++i) whole[i] = static_cast<double>(all.start()[i]);
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < cols; ++c) {
        whole[at(r * stride + before + c)] = want[at(r * cols + c)];
        slack[at(r * stride + before + c)] = error[at(r * cols + c)];
      }
    for (std::size_t i = 0; i < now.size(); ++i)  // around it: bits
      if (const auto c = static_cast<index_t>(i) % stride; c < before || c >= before + cols)
        if (std::memcmp(&now[i], &all.start()[i], sizeof(T)) != 0)
          FAIL_CHECK(what << ": wrote beside the result, at " << i);
    expect_close(what, now, whole, slack);
  }
};

struct Sizes {
  index_t m, n, k;
};
inline const std::vector<Sizes>& product_sizes() {
  static const std::vector<Sizes> list = {{1, 1, 1},      {1, 7, 13},    {3, 1, 50},     {7, 13, 3},
                                          {13, 50, 7},    {50, 3, 100},  {100, 100, 50}, {13, 7, 801},
                                          {1, 100, 801},  {50, 13, 385}, {3, 3, 0},      {9, 49, 384},
                                          {100, 50, 769}, {257, 193, 7}, {16, 32, 32},   {64, 48, 16}};
  return list;
}

/// alpha op(a) op(b) + c0 in double, and what an implementation that sums in type A may be off.
template <class A, class X, class Y>
void naive_product(sm::Op op_a, sm::Op op_b, double alpha, const X& a, const Y& b, index_t m, index_t n, index_t k,
                   Doubles& c, Doubles& error) {
  error.assign(c.size(), 0);
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < n; ++j) {
      double total = 0, size = 0;
      for (index_t p = 0; p < k; ++p) {
        const double term = (op_a == sm::Op::none ? a(i, p) : a(p, i)) * (op_b == sm::Op::none ? b(p, j) : b(j, p));
        total += term, size += std::abs(term);
      }
      double& out = c[at(i * n + j)];
      error[at(i * n + j)] = roundoff<A>() * (static_cast<double>(k + 3) * std::abs(alpha) * size + 2 * std::abs(out));
      out += alpha * total;
    }
}
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Multiplier: (ctx, op_a, op_b, alpha, a, b, accumulate, c).
template <class B, class T, class TC, class Multiplier>
void products(const Multiplier& multiply) {
  typename B::Context ctx;
  for (const auto& s : product_sizes())
    for (const auto op_a : {sm::Op::none, sm::Op::transpose})
      for (const auto op_b : {sm::Op::none, sm::Op::transpose})
        for (const bool accumulate : {false, true}) {
          CAPTURE(s.m);
          CAPTURE(s.n);
          CAPTURE(s.k);
          CAPTURE(static_cast<int>(op_a));
          CAPTURE(static_cast<int>(op_b));
          CAPTURE(accumulate);
          const double alpha = accumulate ? -0.75 : (s.m % 2 == 0 ? 0.125 : 1.0);
          const index_t margin = (s.m + s.n + s.k) % 3;
          const bool ta = op_a == sm::Op::transpose, tb = op_b == sm::Op::transpose;
          Part<B, T> a(ctx, ta ? s.k : s.m, ta ? s.m : s.k, 21, margin),
              b(ctx, tb ? s.n : s.k, tb ? s.k : s.n, 22, margin);
          Part<B, TC> c(ctx, s.m, s.n, 23, margin);
          Doubles want(at(s.m * s.n), 0), error;
          if (accumulate)
            for (index_t i = 0; i < s.m * s.n; ++i) want[at(i)] = c(i / s.n, i % s.n);
          naive_product<SumOf<T>>(op_a, op_b, alpha, a, b, s.m, s.n, s.k, want, error);
          multiply(ctx, op_a, op_b, alpha, a.view().as_const(), b.view().as_const(), accumulate, c.view());
          c.expect("product", want, error);
        }
}
template <class B, class T, class TC>
void gemm() {
  products<B, T, TC>([](auto& ctx, sm::Op op_a, sm::Op op_b, double alpha, auto a, auto b, bool accumulate, auto c) {
    B::gemm(ctx, op_a, op_b, alpha, a, b, accumulate, c);
  });
}

/// max(0, c + bias), and the row's sum of what was there before: an epilogue that would notice a column done twice.
template <class T, class C>
struct BiasRelu {
  sm::Matrix<T> c;
  const C* bias;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r, index_t first, index_t last) const {
    for (index_t j = first + team.lane(); j < last; j += Team::lanes) {
      const C v = C(c(r, j)) + bias[j];
      c(r, j) = T(v > C(0) ? v : C(0));
    }
  }
};

template <class B, class T, class TC>
void gemm_with_epilogue() {
  using C = SumOf<T>;
  typename B::Context ctx;
  for (const auto& s : product_sizes()) {
    CAPTURE(s.m);
    CAPTURE(s.n);
    CAPTURE(s.k);
    Part<B, T> a(ctx, s.m, s.k, 24, 1), b(ctx, s.n, s.k, 25, 0);
    Part<B, TC> c(ctx, s.m, s.n, 26, 1);
    Array<B, C> bias(ctx, values<C>(s.n, 27));
    Doubles want(at(s.m * s.n), 0), error;
    naive_product<C>(sm::Op::none, sm::Op::transpose, 1, a, b, s.m, s.n, s.k, want, error);
    for (index_t i = 0; i < s.m * s.n; ++i) {
      error[at(i)] += roundoff<TC>() * std::abs(want[at(i)]) + 4 * roundoff<C>() +
                      half_step_at_zero<TC>();  // c is rounded before the bias comes
      want[at(i)] = std::max(0.0, want[at(i)] + bias[i % s.n]);
    }
    B::gemm(ctx, sm::Op::none, sm::Op::transpose, 1, a.view().as_const(), b.view().as_const(), false, c.view(),
            BiasRelu<TC, C>{c.view(), bias.data()});
    c.expect("gemm with epilogue", want, error);
  }
}

template <class B, class T>
void grouped() {
  using C = SumOf<T>;
  typename B::Context ctx;
  const std::vector<std::vector<std::int32_t>> cases = {
      {0, 5}, {0, 0, 7, 7, 8, 21}, {0, 0, 0}, {0, 300, 301, 301, 333}, {0, 13, 26, 39, 52, 65, 78, 91, 104}};
  for (const auto& offsets : cases)
    for (const auto op_b : {sm::Op::none, sm::Op::transpose})
      for (const Sizes s : {Sizes{0, 13, 7}, Sizes{0, 32, 64}, Sizes{0, 50, 1}}) {
        const index_t groups = static_cast<index_t>(offsets.size()) - 1, rows = offsets.back();
        CAPTURE(groups);
        CAPTURE(rows);
        CAPTURE(s.n);
        CAPTURE(s.k);
        CAPTURE(static_cast<int>(op_b));
        const index_t br = op_b == sm::Op::none ? s.k : s.n, bc = op_b == sm::Op::none ? s.n : s.k;
        Array<B, std::int32_t> first(ctx, offsets);
        Part<B, T> a(ctx, rows, s.k, 31, 1), c(ctx, rows, s.n, 32, 1), d(ctx, rows, s.n, 32, 1);
        Array<B, T> b(ctx, values<T>(groups * br * bc, 33));
        Array<B, C> dw(ctx, values<C>(groups * s.k * s.n, 34)), bias(ctx, values<C>(s.n, 35));
        const sm::Tensor<T> weights{b.data(), groups, br, bc, 3};
        Doubles want(at(rows * s.n), 0), error(want.size(), 0), want_dw(at(groups * s.k * s.n)),
            error_dw(want_dw.size(), 0);
        for (index_t g = 0; g < groups; ++g) {
          const index_t r0 = offsets[at(g)], m = offsets[at(g + 1)] - r0;
          const auto rows_of = [r0](const auto& x) { return [&x, r0](index_t i, index_t j) { return x(r0 + i, j); }; };
          Doubles part(at(m * s.n), 0), slack;
          naive_product<C>(
              sm::Op::none, op_b, 1, rows_of(a), [&](index_t i, index_t j) { return b[(g * br + i) * bc + j]; }, m, s.n,
              s.k, part, slack);
          std::copy(part.begin(), part.end(), want.begin() + r0 * s.n);
          std::copy(slack.begin(), slack.end(), error.begin() + r0 * s.n);
          Doubles sum(at(s.k * s.n));
          for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = dw[g * s.k * s.n + static_cast<index_t>(i)];
          naive_product<C>(sm::Op::transpose, sm::Op::none, 1, rows_of(a), rows_of(d), s.k, s.n, m, sum, slack);
          std::copy(sum.begin(), sum.end(), want_dw.begin() + g * s.k * s.n);
          std::copy(slack.begin(), slack.end(), error_dw.begin() + g * s.k * s.n);
        }
        sm::Tensor<C> gradient{dw.data(), groups, s.k, s.n, 3};
        B::grouped_gemm_transposed(ctx, a.view().as_const(), d.view().as_const(), first.data(), gradient);
        expect_close("grouped_gemm_transposed", dw.read(), want_dw, error_dw);
        B::grouped_gemm(ctx, op_b, a.view().as_const(), weights.as_const(), first.data(), c.view());
        c.expect("grouped_gemm", want, error);
        for (std::size_t i = 0; i < want.size(); ++i) {
          error[i] += roundoff<T>() * std::abs(want[i]) + 4 * roundoff<C>() + half_step_at_zero<T>();
          want[i] = std::max(0.0, want[i] + bias[static_cast<index_t>(i) % s.n]);
        }
        B::grouped_gemm(ctx, op_b, a.view().as_const(), weights.as_const(), first.data(), d.view(),
                        BiasRelu<T, C>{d.view(), bias.data()});
        d.expect("grouped_gemm with epilogue", want, error);
      }
}

/// Weights in int8 and, where the host multiplies, in a file's bytes at any address give the bits of plain ones.
template <class B, class T>
void weight_forms() {
  typename B::Context ctx;
  const std::vector<std::vector<std::int32_t>> cases = {{0, 1}, {0, 3, 3, 20}, {0, 40, 41, 49}};
  for (const auto& offsets : cases)
    for (const auto op_b : {sm::Op::none, sm::Op::transpose})
      for (const Sizes s : {Sizes{0, 13, 7}, Sizes{0, 101, 64}, Sizes{0, 160, 51}}) {
        const index_t groups = static_cast<index_t>(offsets.size()) - 1, rows = offsets.back();
        CAPTURE(rows);
        CAPTURE(s.n);
        CAPTURE(s.k);
        CAPTURE(static_cast<int>(op_b));
        const index_t br = op_b == sm::Op::none ? s.k : s.n, bc = op_b == sm::Op::none ? s.n : s.k;
        const auto real = values<float>(groups * br * bc, 41);
        std::vector<T> plain(real.size()), rounded(real.size());
        std::vector<std::int8_t> bytes(at(sm::Int8Tensor::bytes(groups, br, bc)));
        auto* scale = reinterpret_cast<float*>(bytes.data() + sm::Int8Tensor::scale_offset(groups * br * bc));
        for (index_t g = 0; g < groups; ++g) {
          sm::quantise_columns(real.data() + g * br * bc, br, bc, bytes.data() + g * br * bc, scale + g * bc);
          for (index_t i = 0; i < br * bc; ++i) {
            plain[at(g * br * bc + i)] = T(real[at(g * br * bc + i)]);
            rounded[at(g * br * bc + i)] = T(scale[g * bc + i % bc] * static_cast<float>(bytes[at(g * br * bc + i)]));
          }
        }
        Array<B, std::int32_t> first(ctx, offsets);
        Array<B, T> a(ctx, values<T>(rows * s.k, 42)), b(ctx, plain), r(ctx, rounded), c(ctx, rows * s.n),
            d(ctx, rows * s.n);
        Array<B, std::int8_t> q(ctx, bytes);
        const auto multiply = [&](const void* data, sm::WeightForm form, const Array<B, T>& out) {
          const sm::Tensor<const T> weights{static_cast<const T*>(data), groups, br, bc, 3, form};
          B::grouped_gemm(ctx, op_b, a.matrix(rows, s.k).as_const(), weights, first.data(), out.matrix(rows, s.n));
          return out.read();
        };
        CHECK(same_bits(multiply(q.data(), sm::WeightForm::int8, c), multiply(r.data(), sm::WeightForm::plain, d)));
        if constexpr (B::host_memory) {
          const auto want = multiply(b.data(), sm::WeightForm::plain, d);
          std::vector<unsigned char> own(plain.size() * sizeof(T) + 1), wide(real.size() * sizeof(float) + 1);
          std::memcpy(own.data() + 1, plain.data(), own.size() - 1);
          std::memcpy(wide.data() + 1, real.data(), wide.size() - 1);
          CHECK(same_bits(multiply(own.data() + 1, sm::WeightForm::file, c), want));
          CHECK(same_bits(multiply(wide.data() + 1, sm::WeightForm::file_float, c), want));
        }
      }
}

/// The two products of attention: heads are columns of one matrix, scores are matrices of their own.
template <class B, class T>
void batched() {
  using C = SumOf<T>;
  typename B::Context ctx;
  struct Shape {
    index_t batch, heads, queries, keys, width;
  };
  for (const Shape s : {Shape{1, 1, 1, 1, 1}, Shape{5, 2, 3, 7, 13}, Shape{2, 5, 7, 3, 4}, Shape{3, 4, 16, 32, 64},
                        Shape{1, 8, 1, 50, 16}}) {
    CAPTURE(s.batch);
    CAPTURE(s.heads);
    const index_t model = s.heads * s.width;
    Array<B, T> q(ctx, values<T>(s.batch * s.queries * model, 41)), k(ctx, values<T>(s.batch * s.keys * model, 42));
    Array<B, T> p(ctx, s.batch * s.heads * s.queries * s.keys), out(ctx, s.batch * s.queries * model);
    const auto heads_of = [&](const T* data, index_t length) {
      return sm::BatchOf<const T>{data, model, length * model, s.width};
    };
    const index_t square = s.queries * s.keys;
    B::batched_gemm(ctx, sm::Op::none, sm::Op::transpose, 0.5, s.batch, s.heads, s.queries, s.keys, s.width,
                    heads_of(q.data(), s.queries), heads_of(k.data(), s.keys),
                    sm::BatchOf<T>{p.data(), s.keys, s.heads * square, square});
    const std::vector<T> scores = p.read();
    B::batched_gemm(ctx, sm::Op::none, sm::Op::none, 1, s.batch, s.heads, s.queries, s.width, s.keys,
                    sm::BatchOf<const T>{p.data(), s.keys, s.heads * square, square}, heads_of(k.data(), s.keys),
                    sm::BatchOf<T>{out.data(), model, s.queries * model, s.width});
    // dk = p^T q: the transposed left operand.
    Array<B, T> dk(ctx, s.batch * s.keys * model);
    B::batched_gemm(ctx, sm::Op::transpose, sm::Op::none, 1, s.batch, s.heads, s.keys, s.width, s.queries,
                    sm::BatchOf<const T>{p.data(), s.keys, s.heads * square, square}, heads_of(q.data(), s.queries),
                    sm::BatchOf<T>{dk.data(), model, s.keys * model, s.width});
    Doubles want(p.read().size()), error(want.size()), want_out(at(out.size())), error_out(want_out.size()),
        want_dk(at(dk.size())), error_dk(want_dk.size());
    for (index_t b = 0; b < s.batch; ++b)
      for (index_t h = 0; h < s.heads; ++h) {
        const auto head = [&](const Array<B, T>& x, index_t length) {
          return [&x, b, h, length, model, s](index_t i, index_t j) {
            return x[(b * length + i) * model + h * s.width + j];
          };
        };
        const index_t base = (b * s.heads + h) * square;
        const auto score = [&](index_t i, index_t j) { return static_cast<double>(scores[at(base + i * s.keys + j)]); };
        Doubles one(at(square), 0), slack;
        naive_product<C>(sm::Op::none, sm::Op::transpose, 0.5, head(q, s.queries), head(k, s.keys), s.queries, s.keys,
                         s.width, one, slack);
        std::copy(one.begin(), one.end(), want.begin() + base);
        std::copy(slack.begin(), slack.end(), error.begin() + base);
        const auto spread = [&](const Doubles& from, index_t length, Doubles& to) {
          for (index_t i = 0; i < length; ++i)
            for (index_t j = 0; j < s.width; ++j)
              to[at((b * length + i) * model + h * s.width + j)] = from[at(i * s.width + j)];
        };
        one.assign(at(s.queries * s.width), 0);
        naive_product<C>(sm::Op::none, sm::Op::none, 1, score, head(k, s.keys), s.queries, s.width, s.keys, one, slack);
        spread(one, s.queries, want_out), spread(slack, s.queries, error_out);
        one.assign(at(s.keys * s.width), 0);
        naive_product<C>(sm::Op::transpose, sm::Op::none, 1, score, head(q, s.queries), s.keys, s.width, s.queries, one,
                         slack);
        spread(one, s.keys, want_dk), spread(slack, s.keys, error_dk);
      }
    expect_close("batched_gemm, scores", scores, want, error);
    expect_close("batched_gemm, heads", out.read(), want_out, error_out);
    expect_close("batched_gemm, transposed", dk.read(), want_dk, error_dk);
  }
}

// --------------------------------------------------------------------------------------------------------- verbs
struct WriteIndex {
  std::int32_t* out;
  SPARSEMOE_HD void operator()(index_t i) const { out[i] += static_cast<std::int32_t>(i % 1000); }
};
/// Every lane adds up its share of 0 ... cols - 1, and tells what the team's sum and maximum were.
struct TeamFacts {
  index_t cols;
  double* sums;        // (rows, lanes)
  std::int32_t* tops;  // (rows, lanes)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    double total = 0;
    std::int32_t top = -1;
    for (index_t j = team.lane(); j < cols; j += Team::lanes) {
      total += static_cast<double>(j + r);
      top = static_cast<std::int32_t>((j * 7 + r) % 101) > top ? static_cast<std::int32_t>((j * 7 + r) % 101) : top;
    }
    total = team.sum(total);
    top = team.max(top);
    sums[r * 32 + team.lane()] = total;
    tops[r * 32 + team.lane()] = top;
  }
};
struct WriteDraws {
  sm::Random random;
  std::uint32_t* out;
  SPARSEMOE_HD void operator()(index_t i) const {
    const sm::Draw4 d = random.draw4(sm::Purpose::jitter, static_cast<std::uint64_t>(i) << 30);
    for (int j = 0; j < 4; ++j) out[4 * i + j] = d.v[j];
  }
};
template <class T>
struct RoundTrip {
  const float* in;
  T* out;
  float* back;
  SPARSEMOE_HD void operator()(index_t i) const {
    out[i] = T(in[i]);
    back[i] = float(out[i]);
  }
};

template <class B>
void verbs() {
  typename B::Context ctx;
  for (const index_t n : {index_t(0), index_t(1), index_t(255), index_t(257), index_t(100003)}) {
    CAPTURE(n);
    std::vector<std::int32_t> counts(at(n)), offsets(at(n)), indices(at(n));
    std::int32_t total = 0;
    for (index_t i = 0; i < n; ++i) {
      counts[at(i)] = static_cast<std::int32_t>((i * 31) % 17);
      offsets[at(i)] = total;
      total += counts[at(i)];
      indices[at(i)] = static_cast<std::int32_t>(i % 1000);
    }
    Array<B, std::int32_t> in(ctx, counts), out(ctx, n);
    B::exclusive_scan(ctx, in.data(), out.data(), n);
    CHECK(out.read() == offsets);
    B::exclusive_scan(ctx, in.data(), in.data(), n);  // in place
    CHECK(in.read() == offsets);
    B::copy(ctx, out.data(), in.data(), n);
    B::zero(ctx, in.data(), n);
    CHECK(out.read() == offsets);
    CHECK(in.read() == std::vector<std::int32_t>(at(n), 0));
    B::for_each_index(ctx, n, WriteIndex{in.data()});
    CHECK(in.read() == indices);  // every index exactly once
  }
  for (const index_t cols : {index_t(0), index_t(1), index_t(31), index_t(32), index_t(77)}) {
    CAPTURE(cols);
    const index_t rows = 301;
    Array<B, double> sums(ctx, rows * 32);
    Array<B, std::int32_t> tops(ctx, rows * 32);
    B::for_each_row(ctx, rows, TeamFacts{cols, sums.data(), tops.data()}, cols);
    const auto s = sums.read();
    const auto t = tops.read();
    index_t lanes = 32;  // as many as wrote
    while (lanes > 1 && std::isnan(s[at(lanes - 1)])) --lanes;
    bool good = true;
    for (index_t r = 0; r < rows; ++r) {
      std::int32_t top = -1;
      for (index_t j = 0; j < cols; ++j) top = std::max(top, static_cast<std::int32_t>((j * 7 + r) % 101));
      const auto want = static_cast<double>(cols * (cols - 1) / 2 + cols * r);
      for (index_t lane = 0; lane < lanes; ++lane)
        good = good && s[at(r * 32 + lane)] == want && t[at(r * 32 + lane)] == top;
    }
    CHECK(good);
  }
  {  // the same random numbers, and the same roundings, as the host's
    const index_t n = 1000;
    const sm::Random random{0x123456789abcdefull, 77, 5};
    Array<B, std::uint32_t> draws(ctx, 4 * n);
    B::for_each_index(ctx, n, WriteDraws{random, draws.data()});
    std::vector<std::uint32_t> want;
    for (index_t i = 0; i < n; ++i)
      for (const std::uint32_t v : random.draw4(sm::Purpose::jitter, static_cast<std::uint64_t>(i) << 30).v)
        want.push_back(v);
    CHECK(draws.read() == want);

    std::vector<float> numbers;
    for (const std::uint32_t v : want) {
      const float f = sm::bits_as<float>(v);
      numbers.push_back(std::isnan(f) ? 0.0f : f);
      numbers.push_back(std::isnan(f) ? 1.0f
                                      : std::ldexp(f, -std::ilogb(f == 0 || std::isinf(f) ? 1.0f : f) -
                                                          static_cast<int>(v % 40) + 20));
    }
    const auto count = static_cast<index_t>(numbers.size());
    Array<B, float> x(ctx, numbers), back(ctx, count);
    Array<B, sm::bf16> brain(ctx, count);
    Array<B, sm::fp16> half(ctx, count);
    std::vector<sm::bf16> want_brain(at(count));
    std::vector<sm::fp16> want_half(at(count));
    std::vector<float> want_back(at(count));
    for (index_t i = 0; i < count; ++i) {
      want_brain[at(i)] = sm::bf16(numbers[at(i)]);
      want_half[at(i)] = sm::fp16(numbers[at(i)]);
      want_back[at(i)] = static_cast<float>(want_half[at(i)]);
    }
    B::for_each_index(ctx, count, RoundTrip<sm::bf16>{x.data(), brain.data(), back.data()});
    B::for_each_index(ctx, count, RoundTrip<sm::fp16>{x.data(), half.data(), back.data()});
    CHECK(same_bits(brain.read(), want_brain));
    CHECK(same_bits(half.read(), want_half));
    CHECK(same_bits(back.read(), want_back));
  }
  {  // arena memory can be poisoned: NaN until written
    ctx.arena.poison(true);
    const float* p = ctx.arena.template take<float>(100);
    std::vector<float> seen(100, 0.0f);
    B::copy_to_host(ctx, seen.data(), p, 100);
    B::synchronise(ctx);
    CHECK(std::all_of(seen.begin(), seen.end(), [](float f) { return std::isnan(f); }));
    ctx.arena.poison(false);
    ctx.arena.reset();
  }
}

// ------------------------------------------------------------------------------------------------------ everything
template <class B, class P>
void all_functors() {
  CAPTURE(std::string(B::name));
  CAPTURE(std::string(P::name));
  elementwise<B, P>();
  activations<B, P>();
  norms<B, P>();
  column_sums<B, P>();
  attention_rows<B, P>();
  cross_entropy<B, P>();
  distillation<B, P>();
}
template <class B>
void all_products() {
  CAPTURE(std::string(B::name));
  gemm<B, double, double>();
  gemm<B, float, float>();
  gemm<B, sm::bf16, sm::bf16>();
  gemm<B, sm::bf16, float>();
  gemm<B, sm::fp16, sm::fp16>();
  gemm<B, sm::fp16, float>();
  gemm_with_epilogue<B, double, double>();
  gemm_with_epilogue<B, sm::bf16, sm::bf16>();
  gemm_with_epilogue<B, sm::bf16, float>();
  grouped<B, double>();
  grouped<B, float>();
  grouped<B, sm::bf16>();
  weight_forms<B, float>();
  weight_forms<B, sm::bf16>();
  weight_forms<B, sm::fp16>();
  batched<B, double>();
  batched<B, float>();
  batched<B, sm::bf16>();
}

}  // namespace backend_body

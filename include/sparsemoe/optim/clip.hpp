// SPDX-License-Identifier: Apache-2.0
// optim/clip.hpp -- the global norm of a gradient, whether all of it is finite, and the factor that clips it.
// Sums are in double over chunks of constant size, added in order: the bits depend on the values alone.
// Read next: optim/schedule.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/math.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The squared norm: sums of it over ranks, or over parts of a gradient, are norms again.
struct GradientNorm {
  double square = 0;
  double norm() const { return std::sqrt(square); }
  /// False if any value is infinite or not a number: double holds the square of any float.
  bool finite() const { return std::isfinite(square); }
};

template <class T>
struct SquareChunk {
  static constexpr index_t length = 16384;
  const T* x;
  index_t n;
  double scale;
  double* partial;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t chunk) const {
    const index_t first = chunk * length, count = math::min(length, n - first);
    const T* values = x + first;
    double total = 0;
    SPARSEMOE_SIMD_SUM(total)
    for (index_t i = team.lane(); i < count; i += Team::lanes) {
      const double v = static_cast<double>(values[i]) * scale;
      total += v * v;
    }
    total = team.sum(total);
    if (team.lane() == 0) partial[chunk] = total;
  }
};
struct SumPartials {
  const double* partial;
  index_t n;
  double* out;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t) const {
    double total = 0;
    for (index_t i = team.lane(); i < n; i += Team::lanes) total += partial[i];
    total = team.sum(total);
    if (team.lane() == 0) *out = total;
  }
};

/// The norm of gradient_scale * gradient[0, n). A flat buffer's gaps count: keep them zero.
template <class B, class T>
GradientNorm gradient_norm(typename B::Context& ctx, const T* gradient, index_t n, double gradient_scale = 1) {
  const typename Arena<typename B::Memory>::Scope scope(ctx.arena);
  const index_t chunks = (n + SquareChunk<T>::length - 1) / SquareChunk<T>::length;
  double* partial = ctx.arena.template take<double>(chunks);
  double* total = ctx.arena.template take<double>(1);
  B::for_each_row(ctx, chunks, SquareChunk<T>{gradient, n, gradient_scale, partial}, SquareChunk<T>::length);
  B::for_each_row(ctx, 1, SumPartials{partial, chunks, total}, chunks);
  GradientNorm result;
  B::copy_to_host(ctx, &result.square, total, 1);
  B::synchronise(ctx);
  return result;
}

/// One chunk of sum |v|^p, or of max |v| where p is infinite.
template <class T>
struct PowerChunk {
  const T* x;
  index_t n;
  double scale, p;
  double* partial;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t chunk) const {
    const index_t first = chunk * SquareChunk<T>::length, count = math::min(SquareChunk<T>::length, n - first);
    const bool largest = std::isinf(p);
    double total = 0;
    for (index_t i = team.lane(); i < count; i += Team::lanes) {
      const double v = std::abs(static_cast<double>(x[first + i]) * scale);
      if (largest)
        total = v > total || v != v ? v : total;
      else
        total += p == 1 ? v : std::pow(v, p);
    }
    total = largest ? team.max(total) : team.sum(total);
    if (team.lane() == 0) partial[chunk] = total;
  }
};
/// The p-norm of gradient_scale * gradient[0, n), for any p > 0: 1 and infinity among them. A flat buffer's gaps count:
/// keep them zero.
template <class B, class T>
double gradient_p_norm(typename B::Context& ctx, const T* gradient, index_t n, double p, double gradient_scale = 1) {
  require(p > 0, "the order of a norm must be positive, not ", p);
  if (p == 2) return gradient_norm<B>(ctx, gradient, n, gradient_scale).norm();
  const typename Arena<typename B::Memory>::Scope scope(ctx.arena);
  const index_t length = SquareChunk<T>::length, chunks = (n + length - 1) / length;
  double* partial = ctx.arena.template take<double>(chunks);
  B::for_each_row(ctx, chunks, PowerChunk<T>{gradient, n, gradient_scale, p, partial}, length);
  std::vector<double> parts(static_cast<std::size_t>(chunks));
  B::copy_to_host(ctx, parts.data(), partial, chunks);
  B::synchronise(ctx);
  double total = 0;
  for (const double part : parts) total = !std::isinf(p) ? total + part : part > total || part != part ? part : total;
  return std::isinf(p) ? total : std::pow(total, 1 / p);
}

/// What to multiply a gradient of that norm by, so that its norm is at most `most`; infinity: no limit. The 1e-6 is torch's.
inline double clip_factor(double norm, double most) { return std::min(1.0, most / (norm + 1e-6)); }

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// optim/clip.hpp -- the global norm of a gradient, whether all of it is finite, and the factor that clips it.
// Sums are in double over chunks of constant size, added in order: the bits depend on the values alone.
// Read next: optim/schedule.hpp.
#pragma once

#include <algorithm>
#include <cmath>

#include "sparsemoe/arena.hpp"
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

/// What to multiply a gradient of that norm by, so that its norm is at most `most`; 0: no limit. The 1e-6 is torch's.
inline double clip_factor(double norm, double most) { return most > 0 ? std::min(1.0, most / (norm + 1e-6)) : 1.0; }

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// math.hpp -- the scalar functions of the kernels, written so that a compiler can vectorise the loops that call them.
// exp of float is a branch-free polynomial (under 2 ulp); everything else is exact to the standard library.
// Read next: kernels/rows.hpp.
#pragma once

#include <cmath>
#include <cstdint>

#include "sparsemoe/precision.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {
namespace math {

/// e^x in float: range reduction by ln 2 in two parts, a degree-6 polynomial, and an exponent add. Underflows to 0,
/// overflows to infinity, NaN stays NaN.
SPARSEMOE_INLINE float exp(float x) {
  const float low = -105.0f, high = 89.0f;  // beyond them the result is 0 or infinity
  const float clamped = x < low ? low : (x > high ? high : x);
  // Rounded to an integer by adding 1.5 2^23. With std::floor, or with a cast, g++ does not vectorise a loop of this.
  const float shift = 12582912.0f, shifted = clamped * 1.44269504088896341f + shift;
  const std::int32_t whole = bits_as<std::int32_t>(shifted) - bits_as<std::int32_t>(shift), half = whole / 2;
  // Under -ffast-math the difference would be simplified away.
  const float n = SPARSEMOE_FAST_MATH ? static_cast<float>(whole) : shifted - shift;
  float r = clamped - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // Two factors, so that results below the smallest normal number and n = 128 are reached without leaving the range.
  return p * bits_as<float>((half + 127) << 23) * bits_as<float>((whole - half + 127) << 23);
}
SPARSEMOE_INLINE double exp(double x) { return std::exp(x); }

template <class T>
SPARSEMOE_HD T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}
/// tanh through exp: exact at 0 and at the ends, relative error a few ulp above |x| = 0.1.
SPARSEMOE_HD inline float tanh(float x) {
  const float a = x < 0 ? -x : x;
  const float e = exp(-2.0f * a);
  const float ratio = (1.0f - e) / (1.0f + e);
  const float s = x * x;
  const float series = a * (1.0f + s * (-0.333333333f + s * (0.133333333f - s * 0.0539682540f)));
  const float t = a < 0.1f ? series : ratio;
  return x < 0 ? -t : t;
}
SPARSEMOE_HD inline double tanh(double x) { return std::tanh(x); }

template <class T>
SPARSEMOE_HD T log1p_exp(T x) {  // softplus, without overflow
  return x > T(0) ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
template <class T>
SPARSEMOE_HD T max(T a, T b) {
  return a > b ? a : b;
}
template <class T>
SPARSEMOE_HD T min(T a, T b) {
  return a < b ? a : b;
}

}  // namespace math
}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// precision.hpp -- Fp64, Fp32, Bf16, Fp16: a precision is five nouns (stored, computed, summed, remembered, routed),
// and the two 16-bit types with their conversions, the same on host and device.
// Read next: config.hpp; math.hpp; concepts.hpp for check_precision.
#pragma once

#include <cstdint>
#include <cstring>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The bits of a value as another type of its size; std::bit_cast for both sides.
template <class To, class From>
SPARSEMOE_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

/// Brain float: the upper half of a float. Rounds to nearest even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  SPARSEMOE_INLINE explicit bf16(float f) {
    const auto u = bits_as<std::uint32_t>(f);
    const std::uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
    // NaN by arithmetic and not by a branch, so that loops which store bf16 are vectorised: the top bit of this
    // difference is set where the magnitude is above infinity's.
    const std::uint32_t nan = 0u - ((0x7f800000u - (u & 0x7fffffffu)) >> 31);
    bits = static_cast<std::uint16_t>((((u | 0x400000u) & nan) | (rounded & ~nan)) >> 16);
  }
  SPARSEMOE_HD explicit bf16(double d) : bf16(static_cast<float>(d)) {}
  SPARSEMOE_INLINE explicit operator float() const { return bits_as<float>(std::uint32_t(bits) << 16); }
  SPARSEMOE_HD explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

/// IEEE half. Rounds to nearest even; overflows to infinity; keeps subnormals.
struct fp16 {
  std::uint16_t bits = 0;
  fp16() = default;
  SPARSEMOE_HD explicit fp16(float f) {
    const auto u = bits_as<std::uint32_t>(f);
    const std::uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    std::uint32_t half;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      half = 0x7c00u;  // rounds to infinity
    } else if (magnitude < 0x38800000u) {
      // Subnormal: adding 0.5 lines the bits up so that the float adder does the rounding.
      half = bits_as<std::uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
    } else {
      half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    bits = static_cast<std::uint16_t>(sign | half);
  }
  SPARSEMOE_HD explicit fp16(double d) : fp16(static_cast<float>(d)) {}
  SPARSEMOE_HD explicit operator float() const {
    const std::uint32_t sign = std::uint32_t(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) return bits_as<float>(sign | ((magnitude << 13) + 0x38000000u));
    const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
    return sign != 0 ? -subnormal : subnormal;
  }
  SPARSEMOE_HD explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

/// to = v, rounded, without a temporary of the 16-bit type (see SPARSEMOE_SIMD): for stores inside reductions.
template <class S, class C>
SPARSEMOE_INLINE void store(S& to, C v) {
  if constexpr (requires { to.bits; })
    to.bits = S(v).bits;
  else
    to = S(v);
}

/// The precision of gradient checks: everything double.
struct Fp64 {
  using storage = double;     // weights, activations and activation gradients in memory
  using compute = double;     // arithmetic inside a functor
  using accumulate = double;  // reductions, GEMM accumulators, weight gradients
  using master = double;      // the optimiser's copy of the weights
  using router = double;      // gate logits, softmax and routing losses: never narrower than float
  static constexpr bool scaled_loss = false;
  static constexpr const char* name = "fp64";
};
struct Fp32 {
  using storage = float;
  using compute = float;
  using accumulate = float;
  using master = float;
  using router = float;
  static constexpr bool scaled_loss = false;
  static constexpr const char* name = "fp32";
};
/// Selective precision of the Switch Transformer, section 2.4: bf16 everywhere but in the router.
struct Bf16 {
  using storage = bf16;
  using compute = float;
  using accumulate = float;
  using master = float;
  using router = float;
  static constexpr bool scaled_loss = false;
  static constexpr const char* name = "bf16";
};
/// Half precision; its gradients underflow unless the loss is scaled.
struct Fp16 {
  using storage = fp16;
  using compute = float;
  using accumulate = float;
  using master = float;
  using router = float;
  static constexpr bool scaled_loss = true;
  static constexpr const char* name = "fp16";
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// random.hpp -- counter-based random numbers: a pure function of (seed, step, layer, purpose, index).
// The same number comes out in any order, on any thread, rank or device, and after a resume; nothing holds state.
// The generator is Philox4x32-10 of Random123 (Salmon et al. 2011). Read next: kernels/elementwise.hpp for a use.
#pragma once

#include <Random123/philox.h>

#include <cmath>
#include <cstdint>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What a number is drawn for. Two purposes never share a stream.
enum class Purpose : std::uint32_t {
  init,
  dropout,
  jitter,
  second_expert,
  gate_noise,
  expert_dropout,
  sampling,
  test,
  slot,
  output_mask,
  hash
};

/// Four 32-bit draws.
struct Draw4 {
  std::uint32_t v[4];
};

/// Maps 32 random bits to [0, 1): 24 bits, so that float and double agree.
SPARSEMOE_HD inline float to_unit(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// A family of streams. `step` counts optimiser steps (micro-batches differ in `index`), `layer` numbers the layers.
struct Random {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t layer = 0;

  SPARSEMOE_HD Draw4 draw4(Purpose purpose, std::uint64_t index) const {
    const r123::Philox4x32::ctr_type counter = {
        {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), static_cast<std::uint32_t>(step),
         (layer << 4) | static_cast<std::uint32_t>(purpose)}};
    // The counter has 32 bits for the step; every 2^32 steps go on under another key, so that none comes back.
    const auto epoch = static_cast<std::uint32_t>(step >> 32) * 0x9e3779b9u;
    const r123::Philox4x32::key_type key = {
        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32) + epoch}};
    const auto r = r123::Philox4x32()(counter, key);
    return {{r[0], r[1], r[2], r[3]}};
  }
  /// Uniform in [0, 1).
  SPARSEMOE_HD float uniform(Purpose purpose, std::uint64_t index) const { return to_unit(draw4(purpose, index).v[0]); }
  /// Standard normal (Box-Muller).
  SPARSEMOE_HD double normal(Purpose purpose, std::uint64_t index) const {
    const Draw4 d = draw4(purpose, index);
    const double u = (static_cast<double>(d.v[0]) + 0.5) * 0x1p-32, v = static_cast<double>(d.v[1]) * 0x1p-32;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
  }
  /// Standard normal resampled until |z| <= 2, divided by its standard deviation 0.8796 (semantics: Switch init).
  SPARSEMOE_HD double truncated_normal(Purpose purpose, std::uint64_t index) const {
    for (std::uint64_t attempt = 0;; ++attempt) {
      const double z = normal(purpose, index + (attempt << 40));
      if (z >= -2.0 && z <= 2.0) return z / 0.87962566103423978;
    }
  }
  SPARSEMOE_HD Random for_layer(std::uint32_t l) const { return {seed, step, l}; }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

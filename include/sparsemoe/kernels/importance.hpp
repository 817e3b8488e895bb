// SPDX-License-Identifier: Apache-2.0
// kernels/importance.hpp -- the importance and load losses of Shazeer et al. 2017: the squared coefficient of variation
// of what each expert weighs, and of how many tokens it is expected to get. Sums are over the global batch.
// Read next: kernels/noise.hpp for the load, nn/routing.hpp.
#pragma once

#include "sparsemoe/kernels/noise.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// importance(e) = sum over tokens of the gate of expert e, whether or not the choice is dropped later (equation 6).
template <class R>
struct ImportanceTerm {
  const R* gates;  // (U, K) weights before any is dropped
  const std::int32_t *chosen, *weight;
  index_t top_k;
  SPARSEMOE_HD R operator()(index_t u, index_t e) const {
    R total = 0;
    for (index_t k = 0; k < top_k; ++k)
      if (chosen[u * top_k + k] == e) total += gates[u * top_k + k];
    return total * R(weight[u]);
  }
};

/// CV^2 = variance / mean^2 over n values, population variance; slope(i) = d CV^2 / d value(i) for all i. A mean of 0
/// (no token) gives 0; the authors' code adds 1e-10 to the denominator instead, which the paper does not.
template <class R, class Value, class Slope>
SPARSEMOE_HD R squared_variation(index_t n, const Value& value, const Slope& slope) {
  R mean = 0, variance = 0;
  for (index_t i = 0; i < n; ++i) mean += value(i) / R(n);
  for (index_t i = 0; i < n; ++i) variance += (value(i) - mean) * (value(i) - mean) / R(n);
  const R square = mean > R(0) ? mean * mean : R(1);
  for (index_t i = 0; i < n; ++i)
    slope(i, (R(2) * (value(i) - mean) - R(2) * mean * variance / square) / (R(n) * square));
  return variance / square;
}

/// One index: both losses, and their slopes with respect to each importance and each column's load. With two levels
/// load(i, j) = load_i load_ij / |X_i| (equation 14), X_i the tokens that chose branch i, a count without gradient.
template <class Router, class R>
struct ImportanceLoss {
  GateColumns<Router> columns;
  const R *importance, *load;        // (E), (columns)
  const R* chosen;                   // (E) choices counted
  R *importance_slope, *load_slope;  // (E), (columns)
  R* expected;                       // (E) the load of each leaf
  R* loss;                           // (2)

  SPARSEMOE_HD void operator()(index_t) const {
    const index_t E = columns.experts, a = columns.branches, b = columns.per_branch();
    loss[0] = squared_variation<R>(E, Read{importance}, Write{importance_slope});
    for (index_t e = 0; e < E; ++e)
      expected[e] = a == 0 ? load[e] : members(e / b) > R(0) ? load[e / b] * load[a + e] / members(e / b) : R(0);
    loss[1] = squared_variation<R>(E, Read{expected}, Write{load_slope + a});
    for (index_t i = 0; i < a; ++i) {
      const R n = members(i);
      R branch = 0;
      for (index_t e = i * b; e < (i + 1) * b; ++e) {
        const R g = n > R(0) ? load_slope[a + e] / n : R(0);
        branch += g * load[a + e];
        load_slope[a + e] = g * load[i];
      }
      load_slope[i] = branch;
    }
  }

 private:
  struct Read {
    const R* v;
    SPARSEMOE_HD R operator()(index_t i) const { return v[i]; }
  };
  struct Write {
    R* v;
    SPARSEMOE_HD void operator()(index_t i, R s) const { v[i] = s; }
  };
  /// |X_i|: each token of a branch makes second_k choices in it.
  SPARSEMOE_HD R members(index_t branch) const {
    R n = 0;
    for (index_t e = branch * columns.per_branch(); e < (branch + 1) * columns.per_branch(); ++e) n += chosen[e];
    return n / R(columns.second_k > 0 ? columns.second_k : 1);
  }
};

/// dgate(u, k) += coefficient slope(e) weight(u), for every choice: dropping comes after the importance.
template <class R>
struct AddImportanceGradient {
  const R* slope;  // (E)
  R coefficient;
  const std::int32_t *chosen, *weight;
  index_t top_k;
  R* dgate;  // (U, K)
  SPARSEMOE_HD void operator()(index_t i) const {
    if (chosen[i] >= 0) dgate[i] += coefficient * slope[chosen[i]] * R(weight[i / top_k]);
  }
};
/// out = coefficient slope
template <class R>
struct ScaleSlope {
  const R* slope;
  R coefficient;
  R* out;
  SPARSEMOE_HD void operator()(index_t i) const { out[i] = coefficient * slope[i]; }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// kernels/thresholds.hpp -- learned thresholds in place of a mask over the batch (Shazeer et al. 2017, appendix F):
// the loss sum over x, i of (M_threshold - M_batch)(score - T), over the number of tokens so that the size of the batch
// does not matter. Read next: routers/balanced.hpp, nn/routing.hpp.
#pragma once

#include "sparsemoe/kernels/tokens.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// disagreement(u, e) = M_threshold - M_batch: 1, 0 or -1; 0 for padding.
template <class R>
struct ThresholdDisagreement {
  Matrix<const R> scores;
  const R* thresholds;
  const std::int32_t *chosen, *weight;  // (U, E), (U)
  Matrix<R> out;
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t u = i / scores.cols, e = i % scores.cols;
    const R above = scores(u, e) > thresholds[e] ? R(1) : R(0), in_batch = chosen[i] >= 0 ? R(1) : R(0);
    out(u, e) = weight[u] != 0 ? above - in_batch : R(0);
  }
};
/// The loss of an expert, a term of add_column_sums.
template <class R>
struct ThresholdTerm {
  Matrix<const R> scores, disagreement;
  const R* thresholds;
  SPARSEMOE_HD R operator()(index_t u, index_t e) const { return disagreement(u, e) * (scores(u, e) - thresholds[e]); }
};
/// d loss / d T(e) = - sum of disagreement / tokens.
template <class R>
struct ThresholdGradientTerm {
  Matrix<const R> disagreement;
  R coefficient;
  const R* tokens;  // (1)
  SPARSEMOE_HD R operator()(index_t u, index_t e) const {
    return *tokens > R(0) ? -coefficient * disagreement(u, e) / *tokens : R(0);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

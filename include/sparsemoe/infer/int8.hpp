// infer/int8.hpp -- what 8-bit expert weights do to a model's outputs: every expert matrix is rounded to the values
// that int8 with one scale an output channel can hold. The rounded weights stay in the storage type, so this measures
// the cost in score; it saves no memory yet. Routers, biases and dense layers are never rounded. Read next:
// model/weights.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sparsemoe/model/weights.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Whether a parameter is a weight matrix of experts: the only thing that is quantised.
inline bool is_expert_matrix(const ParamInfo& p) {
  return p.shape.rank == 3 && p.name.find(".moe.experts.w") != std::string::npos;
}

/// w (rows, cols) -> s q with integers -127 <= q <= 127 and s = max |w| / 127 over each column: symmetric, weight-only,
/// one scale an output channel (Dettmers et al. 2022, "LLM.int8()", section 2.1). A column of zeros stays.
template <class S>
void round_columns_to_int8(S* w, index_t rows, index_t cols) {
  for (index_t j = 0; j < cols; ++j) {
    double most = 0;
    for (index_t i = 0; i < rows; ++i) most = std::max(most, std::fabs(static_cast<double>(w[i * cols + j])));
    if (!(most > 0)) continue;
    const double scale = most / 127;
    for (index_t i = 0; i < rows; ++i) {
      const double q = std::nearbyint(static_cast<double>(w[i * cols + j]) / scale);
      w[i * cols + j] = S(static_cast<float>(scale * q));
    }
  }
}

/// Rounds the expert matrices of a loaded model; returns how many weights that were. For evaluation: the optimiser's
/// copies are left as they are.
template <class P, class B>
index_t round_experts_to_int8(typename B::Context& ctx, Weights<P, B>& weights) {
  using S = typename P::storage;
  std::vector<S> host;
  index_t count = 0;
  for (const ParamInfo& p : weights.list()) {
    if (!is_expert_matrix(p)) continue;
    const index_t n = p.shape.size(), one = p.shape.rows * p.shape.cols;
    host.resize(static_cast<std::size_t>(n));
    B::copy_to_host(ctx, host.data(), weights.storage() + p.offset, n);
    for (index_t e = 0; e < p.shape.batch; ++e)
      round_columns_to_int8(host.data() + e * one, p.shape.rows, p.shape.cols);
    B::copy_from_host(ctx, weights.storage() + p.offset, host.data(), n);
    count += n;
  }
  return count;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// infer/int8.hpp -- expert weights in 8 bits, for models that only infer: set MoeConfig::expert_form to
// WeightForm::int8 before the model is made, and loading quantises every expert matrix; they are never in memory in
// full. Routers, biases and dense layers keep their type. Here: what that saves, and the same rounding for plain
// weights, to compare with. Read next: weight_form.hpp for the form itself.
#pragma once

#include <string>
#include <vector>

#include "sparsemoe/model/weights.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The expert matrices of a model: how many weights, their bytes in memory, and what they would take as plain values.
struct ExpertBytes {
  index_t weights = 0, held = 0, plain = 0;
};
template <class P, class B>
ExpertBytes expert_bytes(const Weights<P, B>& weights) {
  using S = typename P::storage;
  ExpertBytes sum;
  for (const ParamInfo& p : weights.list()) {
    if (p.role != Role::expert) continue;
    const Tensor<float>& t = p.shape;
    sum.weights += t.size();
    sum.plain += t.size() * index_t(sizeof(S));
    if (t.form == WeightForm::plain) sum.held += t.size() * index_t(sizeof(S));
    if (t.form == WeightForm::int8) sum.held += Int8Tensor::bytes(t.batch, t.rows, t.cols);
  }
  return sum;
}

/// w (rows, cols) becomes the values that its int8 form stands for.
template <class T>
void round_columns_to_int8(T* w, index_t rows, index_t cols) {
  std::vector<std::int8_t> q(static_cast<std::size_t>(rows * cols));
  std::vector<float> scale(static_cast<std::size_t>(cols));
  quantise_columns(w, rows, cols, q.data(), scale.data());
  const Int8Matrix m{q.data(), rows, cols, cols, scale.data()};
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c) w[r * cols + c] = T(m(r, c));
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

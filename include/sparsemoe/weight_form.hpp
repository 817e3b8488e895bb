// SPDX-License-Identifier: Apache-2.0
// weight_form.hpp -- weights of a model that only infers, where they are not plain values: int8 with one scale an
// output channel, and values in a mapped file at any alignment. A product reads them where they lie and rounds each to
// the type of the model, so it gives the bits of the same weights in plain form. Read next: backend/gemm/forms.hpp for
// the products, nn/experts.hpp for whose weights these are; infer/int8.hpp and io/mapped_weights.hpp for the two forms.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "sparsemoe/precision.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A value whose address need not be a multiple of anything.
template <class T>
struct Unaligned {
  unsigned char bytes[sizeof(T)];
  SPARSEMOE_HD T get() const {
    T v;
    memcpy(&v, bytes, sizeof(T));
    return v;
  }
};

/// (rows, cols) values scale[c] q(r, c); the product is rounded to float.
struct Int8Matrix {
  const std::int8_t* data = nullptr;
  index_t rows = 0, cols = 0, stride = 0;
  const float* scale = nullptr;  // (cols)

  SPARSEMOE_HD float operator()(index_t r, index_t c) const {
    return scale[c] * static_cast<float>(data[r * stride + c]);
  }
  SPARSEMOE_HD index_t size() const { return rows * cols; }
  SPARSEMOE_HD Int8Matrix slice_rows(index_t first, index_t count) const {
    return {data + first * stride, count, cols, stride, scale};
  }
  SPARSEMOE_HD Int8Matrix slice_cols(index_t first, index_t count) const {
    return {data + first, rows, count, stride, scale + first};
  }
};

/// The int8 form of a tensor: batch * rows * cols numbers, then, from the next multiple of 64 bytes on, batch * cols
/// scales.
struct Int8Tensor {
  const std::int8_t* data = nullptr;
  index_t batch = 1, rows = 1, cols = 0;
  const float* scale = nullptr;

  template <class S>
  explicit Int8Tensor(const Tensor<const S>& t)
      : data(reinterpret_cast<const std::int8_t*>(t.data)), batch(t.batch), rows(t.rows), cols(t.cols) {
    scale = reinterpret_cast<const float*>(data + scale_offset(t.size()));
  }
  static index_t scale_offset(index_t numbers) { return (numbers + 63) / 64 * 64; }
  static index_t bytes(index_t batch, index_t rows, index_t cols) {
    return scale_offset(batch * rows * cols) + batch * cols * index_t(sizeof(float));
  }
  Int8Matrix matrix(index_t b = 0) const { return {data + b * rows * cols, rows, cols, cols, scale + b * cols}; }
};

/// w (rows, cols) becomes scale[c] q(r, c) with -127 <= q <= 127 and scale = max |w| / 127 over each column: symmetric,
/// weight-only, one scale an output channel (Dettmers et al. 2022, "LLM.int8()", section 2.1). A column of zeros has
/// scale 0.
template <class T>
void quantise_columns(const T* w, index_t rows, index_t cols, std::int8_t* q, float* scale) {
  for (index_t c = 0; c < cols; ++c) {
    double most = 0;
    for (index_t r = 0; r < rows; ++r) most = std::fmax(most, std::fabs(static_cast<double>(w[r * cols + c])));
    scale[c] = static_cast<float>(most / 127);
    for (index_t r = 0; r < rows; ++r) {
      const double steps = scale[c] > 0 ? static_cast<double>(w[r * cols + c]) / static_cast<double>(scale[c]) : 0;
      q[r * cols + c] = static_cast<std::int8_t>(std::fmax(-127, std::fmin(127, std::nearbyint(steps))));
    }
  }
}

/// Element (r, c) of a matrix in any form, as the value of type S that the model computes with.
template <class S>
SPARSEMOE_INLINE S form_value(const Matrix<const S>& m, index_t r, index_t c) {
  return m(r, c);
}
template <class S, class T>
SPARSEMOE_INLINE S form_value(const Matrix<const Unaligned<T>>& m, index_t r, index_t c) {
  return S(m(r, c).get());
}
template <class S>
SPARSEMOE_INLINE S form_value(const Int8Matrix& m, index_t r, index_t c) {
  return S(m(r, c));
}

/// to[i] = element i of an int8 matrix, row by row.
template <class S>
struct WidenInt8 {
  Int8Matrix from;
  S* to;
  SPARSEMOE_HD void operator()(index_t i) const { to[i] = form_value<S>(from, i / from.cols, i % from.cols); }
};

/// Types a served model's weights can have another form for: double is for checking gradients.
template <class S>
inline constexpr bool has_forms = !std::is_same_v<S, double>;

/// f(the tensor as what its form says): Tensor<const S>, Int8Tensor or Tensor<const Unaligned<...>>.
template <class S, class F>
void with_form(const Tensor<const S>& t, F&& f) {
  switch (t.form) {
    case WeightForm::plain: return f(t);
    case WeightForm::int8: return f(Int8Tensor(t));
    case WeightForm::file:
      return f(Tensor<const Unaligned<S>>{reinterpret_cast<const Unaligned<S>*>(t.data), t.batch, t.rows, t.cols,
                                          t.rank, t.form});
    case WeightForm::file_float:
      return f(Tensor<const Unaligned<float>>{reinterpret_cast<const Unaligned<float>*>(t.data), t.batch, t.rows,
                                              t.cols, t.rank, t.form});
  }
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

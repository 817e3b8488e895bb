// SPDX-License-Identifier: Apache-2.0
// view.hpp -- Row, Matrix and Tensor: a pointer and its extents. Row-major, trivially copyable, never owning.
// Matrix is what kernels and layers work on; Tensor is what a parameter is (a stack of matrices for experts).
// Read next: arena.hpp for where they lie, params.hpp for what visits Tensors, random.hpp for what fills them, team.hpp
// for who shares a row, weight_form.hpp for weights in other forms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

using index_t = std::int64_t;

/// One row: `n` contiguous values.
template <class T>
struct Row {
  T* data = nullptr;
  index_t n = 0;
  SPARSEMOE_HD T& operator[](index_t i) const { return data[i]; }
  SPARSEMOE_HD index_t size() const { return n; }
};

/// (rows, cols) values, row r starting at data + r * stride.
template <class T>
struct Matrix {
  T* data = nullptr;
  index_t rows = 0, cols = 0, stride = 0;

  Matrix() = default;
  SPARSEMOE_HD Matrix(T* d, index_t r, index_t c) : data(d), rows(r), cols(c), stride(c) {}
  SPARSEMOE_HD Matrix(T* d, index_t r, index_t c, index_t s) : data(d), rows(r), cols(c), stride(s) {}
  template <class U, class = std::enable_if_t<!std::is_const_v<U> && std::is_same_v<const U, T>>>
  SPARSEMOE_HD Matrix(Matrix<U> m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}

  SPARSEMOE_HD T& operator()(index_t r, index_t c) const { return data[r * stride + c]; }
  SPARSEMOE_HD Row<T> row(index_t r) const { return {data + r * stride, cols}; }
  SPARSEMOE_HD index_t size() const { return rows * cols; }
  SPARSEMOE_HD bool empty() const { return data == nullptr; }
  /// Rows [first, first + count).
  SPARSEMOE_HD Matrix slice_rows(index_t first, index_t count) const {
    return {data + first * stride, count, cols, stride};
  }
  /// Columns [first, first + count) of every row.
  SPARSEMOE_HD Matrix slice_cols(index_t first, index_t count) const { return {data + first, rows, count, stride}; }
  SPARSEMOE_HD Matrix<const T> as_const() const { return {data, rows, cols, stride}; }
};

/// How a weight lies in memory: as values of its type; or, where a model only infers, as int8 with one scale an output
/// channel, or in a mapped file, in its type or in float, at any alignment (weight_form.hpp).
enum class WeightForm : std::uint8_t { plain, int8, file, file_float };

/// A parameter: rank 1 (cols), rank 2 (rows, cols) or rank 3 (batch, rows, cols); contiguous. For expert weights the
/// batch axis is the expert, and optimisers keep their statistics per batch item. In another form than plain, `data` is
/// only where the bytes of that form begin.
template <class T>
struct Tensor {
  T* data = nullptr;
  index_t batch = 1, rows = 1, cols = 0;
  int rank = 0;
  WeightForm form = WeightForm::plain;

  SPARSEMOE_HD index_t size() const { return batch * rows * cols; }
  SPARSEMOE_HD Matrix<T> matrix(index_t b = 0) const { return {data + b * rows * cols, rows, cols}; }
  SPARSEMOE_HD Row<T> row() const { return {data, cols}; }
  SPARSEMOE_HD Tensor<const T> as_const() const { return {data, batch, rows, cols, rank, form}; }
};

/// Extents of a parameter, without storage.
template <class T>
Tensor<T> vector_of(index_t n) {
  return {nullptr, 1, 1, n, 1};
}
template <class T>
Tensor<T> matrix_of(index_t rows, index_t cols) {
  return {nullptr, 1, rows, cols, 2};
}
template <class T>
Tensor<T> stack_of(index_t batch, index_t rows, index_t cols) {
  return {nullptr, batch, rows, cols, 3};
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

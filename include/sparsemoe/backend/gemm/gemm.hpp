// SPDX-License-Identifier: Apache-2.0
// backend/gemm/gemm.hpp -- what every GEMM provider shares: the transposition flags and the shape of a product.
// A provider is a struct with  static void run(Product<...>, Scratch&)  for one tile on one thread, and a flag
// `row_invariant` that says whether an element's bits are independent of how a product is cut into tiles.
// Read next: backend/gemm/eigen.hpp (always there), native.hpp (16-bit types, exact tiling), onednn.hpp (opt-in).
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/weight_form.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The view of a right operand of element type T: int8 comes with its scales.
template <class T>
struct RightOperand {
  using type = Matrix<const T>;
};
template <>
struct RightOperand<std::int8_t> {
  using type = Int8Matrix;
};

/// c = alpha op(a) op(b) + (accumulate ? c : 0).  op(a) is (m, k), op(b) is (k, n), c is (m, n).
template <class TA, class TB, class TC>
struct Product {
  Op op_a = Op::none, op_b = Op::none;
  double alpha = 1;
  Matrix<const TA> a;
  typename RightOperand<TB>::type b;
  bool accumulate = false;
  Matrix<TC> c;

  index_t m() const { return c.rows; }
  index_t n() const { return c.cols; }
  index_t k() const { return op_a == Op::none ? a.cols : a.rows; }
  /// The part of the product that makes c's rows [r, r + rows) and columns [s, s + cols).
  Product tile(index_t r, index_t rows, index_t s, index_t cols) const {
    Product t = *this;
    t.a = op_a == Op::none ? a.slice_rows(r, rows) : a.slice_cols(r, rows);
    t.b = op_b == Op::none ? b.slice_cols(s, cols) : b.slice_rows(s, cols);
    t.c = c.slice_rows(r, rows).slice_cols(s, cols);
    return t;
  }
};

/// A thread's scratch memory, grown and never shrunk, so that a steady step does not allocate.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Scratch(Scratch&& o) noexcept : data_(o.data_), bytes_(o.bytes_) { o.data_ = nullptr, o.bytes_ = 0; }
  ~Scratch() { std::free(data_); }
  /// Room for `bytes`, aligned to 64; contents are undefined.
  void* get(std::size_t bytes) {
    if (bytes > bytes_) {
      const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
      std::free(data_);
      data_ = std::aligned_alloc(4096, rounded);
      bytes_ = data_ != nullptr ? rounded : 0;
      if (data_ == nullptr) throw std::bad_alloc();
    }
    return data_;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

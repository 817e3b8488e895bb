// SPDX-License-Identifier: Apache-2.0
// backend/gemm/library.hpp -- what a backend needs around a library that multiplies whole products: the row-major
// product as a column-major library is asked for it, the plain product for what the library refuses, and the epilogue
// as a row functor of its own. Nothing here knows which library, so all of it is tested on a CPU.
// Read next: backend/cuda_gemm.hpp, backend/cuda.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "sparsemoe/backend/gemm/gemm.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Item i of a batch of products lies a + i * step. Elements, not bytes.
struct BatchSteps {
  index_t count = 1, a = 0, b = 0, c = 0;
};

/// An operand as a column-major library sees it: (rows, cols) in memory, columns `ld` apart, batch items `step` apart.
struct ColumnMajorOperand {
  const void* data = nullptr;
  index_t rows = 0, cols = 0, ld = 0, step = 0;
  bool transposed = false;
  std::uint32_t alignment = 1;  // bytes that every item's first element is a multiple of, at most 256
};

/// c = alpha op(a) op(b) in rows is c^T = alpha op(b)^T op(a)^T in columns: a and b change places, no element moves.
struct ColumnMajorProduct {
  ColumnMajorOperand first, second, out;  // out (m, n) = op(first) (m, k) op(second) (k, n)
  index_t m = 0, n = 0, k = 0, count = 1;
};

namespace detail {
template <class T>
ColumnMajorOperand column_major_operand(Matrix<T> x, Op op, index_t step, index_t count) {
  ColumnMajorOperand o;
  o.data = x.data;
  o.rows = x.cols;
  o.cols = x.rows;
  o.ld = x.stride > x.cols ? x.stride : x.cols;  // one row may come with any stride
  o.step = count > 1 ? step : 0;
  o.transposed = op == Op::transpose;
  const std::uint64_t bits = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(x.data)) |
                             static_cast<std::uint64_t>(o.step) * sizeof(T) | 256u;
  o.alignment = static_cast<std::uint32_t>(bits & (~bits + 1));  // the lowest set bit
  return o;
}
}  // namespace detail

template <class TA, class TB, class TC>
ColumnMajorProduct column_major(const Product<TA, TB, TC>& q, const BatchSteps& steps = {}) {
  return {detail::column_major_operand(q.b, q.op_b, steps.b, steps.count),
          detail::column_major_operand(q.a, q.op_a, steps.a, steps.count),
          detail::column_major_operand(q.c, Op::none, steps.c, steps.count),
          q.n(),
          q.m(),
          q.k(),
          steps.count};
}

/// One element of one product of a batch, summed in the order of k: for k = 0, and where a library has no kernel for
/// the types or the alignment. Run over count * m * n indices.
template <class TA, class TB, class TC>
struct PlainProduct {
  using C = std::conditional_t<std::is_same_v<TA, double> || std::is_same_v<TB, double>, double, float>;
  Product<TA, TB, TC> q;
  index_t k;
  BatchSteps steps;
  PlainProduct(const Product<TA, TB, TC>& product, const BatchSteps& s) : q(product), k(product.k()), steps(s) {}
  index_t size() const { return steps.count * q.c.size(); }
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t item = i / (q.c.rows * q.c.cols), r = i / q.c.cols % q.c.rows, j = i % q.c.cols;
    const TA* a = q.a.data + item * steps.a;
    const TB* b = q.b.data + item * steps.b;
    TC& c = q.c.data[item * steps.c + r * q.c.stride + j];
    C total = 0;
    for (index_t p = 0; p < k; ++p)
      total += C(a[q.op_a == Op::none ? r * q.a.stride + p : p * q.a.stride + r]) *
               C(b[q.op_b == Op::none ? p * q.b.stride + j : j * q.b.stride + p]);
    c = TC(C(q.alpha) * total + (q.accumulate ? C(c) : C(0)));
  }
};

/// A product's epilogue on finished rows: epilogue(team, row, 0, cols).
template <class Epilogue>
struct EpilogueRow {
  Epilogue epilogue;
  index_t first_row, cols;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    epilogue(team, first_row + r, index_t(0), cols);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// backend/gemm/eigen.hpp -- GEMM by Eigen, for one thread: the provider that is always there.
// 16-bit operands are widened to float panels first (Eigen has no fast 16-bit product). Not row-invariant: Eigen's sums
// depend on the number of rows, so the backend cuts products the same way whatever the thread count.
// Read next: backend/gemm/native.hpp.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <type_traits>

#include "sparsemoe/backend/gemm/gemm.hpp"
#include "sparsemoe/precision.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct EigenGemm {
  static constexpr const char* name = "eigen";
  static constexpr bool row_invariant = false;

  template <class TA, class TB, class TC>
  static void run(const Product<TA, TB, TC>& q, Scratch& scratch) {
    using C = std::conditional_t<std::is_same_v<TA, double> || std::is_same_v<TB, double>, double, float>;
    if (q.m() == 0 || q.n() == 0) return;
    if constexpr (std::is_same_v<TA, C> && std::is_same_v<TB, C> && std::is_same_v<TC, C>) {
      multiply(q);
    } else {
      auto* room =
          static_cast<C*>(scratch.get(sizeof(C) * static_cast<std::size_t>(q.a.size() + q.b.size() + q.c.size())));
      Product<C, C, C> wide{q.op_a,
                            q.op_b,
                            q.alpha,
                            widen<C>(q.a, room),
                            widen<C>(q.b, room + q.a.size()),
                            false,
                            Matrix<C>(room + q.a.size() + q.b.size(), q.c.rows, q.c.cols)};
      multiply(wide);
      for (index_t i = 0; i < q.c.rows; ++i)
        for (index_t j = 0; j < q.c.cols; ++j) q.c(i, j) = TC(wide.c(i, j) + (q.accumulate ? C(q.c(i, j)) : C(0)));
    }
  }

 private:
  template <class T>
  using Dense = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  template <class T>
  static auto map(Matrix<const T> m) {
    return Eigen::Map<const Dense<T>, 0, Eigen::OuterStride<>>(m.data, m.rows, m.cols, Eigen::OuterStride<>(m.stride));
  }
  template <class T>
  static void multiply(const Product<T, T, T>& q) {
    Eigen::Map<Dense<T>, 0, Eigen::OuterStride<>> c(q.c.data, q.c.rows, q.c.cols, Eigen::OuterStride<>(q.c.stride));
    const T alpha = static_cast<T>(q.alpha);
    if (!q.accumulate) c.setZero();
    const auto a = map(q.a), b = map(q.b);
    if (q.k() == 0) return;
    if (q.op_a == Op::none && q.op_b == Op::none) c.noalias() += alpha * (a * b);
    if (q.op_a == Op::none && q.op_b == Op::transpose) c.noalias() += alpha * (a * b.transpose());
    if (q.op_a == Op::transpose && q.op_b == Op::none) c.noalias() += alpha * (a.transpose() * b);
    if (q.op_a == Op::transpose && q.op_b == Op::transpose) c.noalias() += alpha * (a.transpose() * b.transpose());
  }
  template <class C, class T>
  static Matrix<const C> widen(Matrix<const T> m, C* room) {
    for (index_t i = 0; i < m.rows; ++i)
      for (index_t j = 0; j < m.cols; ++j) room[i * m.cols + j] = static_cast<C>(m(i, j));
    return {room, m.rows, m.cols};
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

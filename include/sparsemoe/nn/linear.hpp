// SPDX-License-Identifier: Apache-2.0
// nn/linear.hpp -- y = x W + b. Forward, and the three products of its backward.
// The pattern of every layer: a value with sizes, Params<T> with one visit(), weights passed in, caches typed.
// Weight gradients accumulate (+=), activation gradients are assigned (=). Read next: nn/norm.hpp, nn/attention.hpp.
#pragma once

#include <string>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/rows.hpp"
#include "sparsemoe/params.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Run after a tile of a product: y(r, j) += bias(j).
template <class P>
struct AddBiasRow {
  using S = typename P::storage;
  using C = typename P::compute;
  const S* bias;
  Matrix<S> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r, index_t first, index_t last) const {
    if (bias == nullptr) return;
    S* out = y.row(r).data;
    for (index_t j = first + team.lane(); j < last; j += Team::lanes) out[j] = S(C(out[j]) + C(bias[j]));
  }
};

template <class P, class Backend>
struct Linear {
  using B = Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t in = 0, out = 0;
  bool bias = true;
  double init_scale = 1;  // s of the fan-in initialisation

  template <class T>
  struct Params {
    Tensor<T> weight;  // (in, out)
    Tensor<T> bias;    // (out), or nothing
    Init init;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "weight", weight, init);
      if (bias.cols > 0) f(prefix + "bias", bias, Init::zero());
    }
  };
  template <class T>
  Params<T> params() const {
    return {matrix_of<T>(in, out), vector_of<T>(bias ? out : 0), Init::fan_in(init_scale, in)};
  }

  /// x (T, in) -> y (T, out). Throws Error if the widths do not fit.
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<S> y) const {
    require(x.cols == in && y.cols == out && x.rows == y.rows, "linear: x is ", x.rows, " x ", x.cols, " and y ",
            y.rows, " x ", y.cols, ", expected widths ", in, " and ", out);
    B::gemm(ctx, Op::none, Op::none, 1, x, w.weight.matrix(), false, y, AddBiasRow<P>{bias ? w.bias.data : nullptr, y});
  }
  /// dw += x^T dy; dx = dy W^T, or dx += that.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, Matrix<const S> dy,
                Matrix<S> dx, bool accumulate = false) const {
    B::gemm(ctx, Op::transpose, Op::none, 1, x, dy, true, dw.weight.matrix());
    if (bias) add_column_sums<B>(ctx, dy.rows, out, ElementTerm<S, A>{dy}, dw.bias.data);
    if (!dx.empty()) B::gemm(ctx, Op::none, Op::transpose, 1, dy, w.weight.matrix(), accumulate, dx);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

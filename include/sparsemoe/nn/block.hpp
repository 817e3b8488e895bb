// SPDX-License-Identifier: Apache-2.0
// nn/block.hpp -- the pre-norm residual sub-layer: y = x + dropout(sub(norm(x))), and its backward read bottom up.
// Encoder and decoder layers are two and three of these. Sub-layers are called through a function object, since each
// takes what it needs (masks, memory, routing information). Read next: model/encoder.hpp.
#pragma once

#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/norm.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class Norm>
struct Residual {
  using B = typename Norm::B;
  using S = typename Norm::S;
  using C = typename Norm::C;
  using A = typename Norm::A;
  using Context = typename B::Context;
  using NormParams = typename Norm::template Params<const S>;

  struct Cache {
    typename Norm::Cache norm;
    Matrix<S> normed;
  };

  Norm norm;
  double dropout = 0;
  std::uint32_t stream = 0;  // tells this sub-layer's dropout from every other's

  /// sub(normed, out) computes the sub-layer. x and y may not be the same matrix.
  template <class Sub>
  void forward(Context& ctx, const NormParams& w, Matrix<const S> x, Matrix<S> y, Cache& c, const Sub& sub) const {
    c.normed = ctx.arena.template matrix<S>(x.rows, x.cols);
    norm.forward(ctx, w, x, c.normed, c.norm);
    sub(c.normed.as_const(), y);
    if (ctx.training && dropout > 0) drop(ctx, y.data, y.data, y.size());
    B::for_each_index(ctx, y.size(), AddTo<S, S, C>{x.data, y.data});
  }
  /// sub_backward(normed, dy of the sub-layer, dnormed) computes its gradients.
  template <class Sub>
  void backward(Context& ctx, const NormParams& w, const typename Norm::template Params<A>& dw, Matrix<const S> x,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c, const Sub& sub_backward) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const Matrix<S> dnormed = ctx.arena.template matrix<S>(x.rows, x.cols);
    if (ctx.training && dropout > 0) {
      const Matrix<S> dsub = ctx.arena.template matrix<S>(x.rows, x.cols);
      drop(ctx, dy.data, dsub.data, dy.size());
      sub_backward(c.normed.as_const(), dsub.as_const(), dnormed);
    } else {
      sub_backward(c.normed.as_const(), dy, dnormed);
    }
    norm.backward(ctx, w, dw, x, dnormed, dx, c.norm);
    B::for_each_index(ctx, dx.size(), AddTo<S, S, C>{dy.data, dx.data});  // the skip path
  }

 private:
  void drop(Context& ctx, const S* x, S* y, index_t n) const {
    B::for_each_index(
        ctx, (n + 7) / 8,
        Dropout8<S, C>{x, y, n, static_cast<float>(dropout), ctx.random.for_layer(stream), Purpose::dropout});
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

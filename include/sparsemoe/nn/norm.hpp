// SPDX-License-Identifier: Apache-2.0
// nn/norm.hpp -- LayerNorm and RmsNorm over the last axis.
// Both keep what backward needs of a row (mean, 1/deviation) in the compute type. Read next: nn/block.hpp.
#pragma once

#include "sparsemoe/nn/linear.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// dgamma(j) = sum over rows of dy * (x - mean) * scale; with mean == null the RMS form.
template <class P>
struct NormGammaTerm {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> x, dy;
  const C *mean, *scale;
  SPARSEMOE_HD typename P::accumulate operator()(index_t i, index_t j) const {
    const C m = mean != nullptr ? mean[i] : C(0);
    return C(dy(i, j)) * (C(x(i, j)) - m) * scale[i];
  }
};

/// (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016).
template <class P, class Backend>
struct LayerNorm {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t width = 0;
  double epsilon = 1e-5;

  template <class T>
  struct Params {
    Tensor<T> weight, bias;  // (D)
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "weight", weight, Leaf{Init::one(), Role::norm});
      f(prefix + "bias", bias, Leaf{Init::zero(), Role::norm});
    }
  };
  struct Cache {
    C *mean = nullptr, *scale = nullptr;
  };
  template <class T>
  Params<T> params() const {
    return {vector_of<T>(width), vector_of<T>(width)};
  }
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<S> y, Cache& c) const {
    c.mean = ctx.arena.template take<C>(x.rows);
    c.scale = ctx.arena.template take<C>(x.rows);
    B::for_each_row(ctx, x.rows, LayerNormRow<P>{x, w.weight.data, w.bias.data, C(epsilon), y, c.mean, c.scale},
                    width * 4);
  }
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, Matrix<const S> dy,
                Matrix<S> dx, const Cache& c) const {
    add_column_sums<B>(ctx, x.rows, width, NormGammaTerm<P>{x, dy, c.mean, c.scale}, dw.weight.data);
    add_column_sums<B>(ctx, x.rows, width, ElementTerm<S, A>{dy}, dw.bias.data);
    B::for_each_row(ctx, x.rows, LayerNormBackwardRow<P>{x, dy, w.weight.data, c.mean, c.scale, dx}, width * 4);
  }
};

/// x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019; T5).
template <class P, class Backend>
struct RmsNorm {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t width = 0;
  double epsilon = 1e-6;

  template <class T>
  struct Params {
    Tensor<T> weight;  // (D)
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "weight", weight, Leaf{Init::one(), Role::norm});
    }
  };
  struct Cache {
    C* scale = nullptr;
  };
  template <class T>
  Params<T> params() const {
    return {vector_of<T>(width)};
  }
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<S> y, Cache& c) const {
    c.scale = ctx.arena.template take<C>(x.rows);
    B::for_each_row(ctx, x.rows, RmsNormRow<P>{x, w.weight.data, C(epsilon), y, c.scale}, width * 3);
  }
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, Matrix<const S> dy,
                Matrix<S> dx, const Cache& c) const {
    add_column_sums<B>(ctx, x.rows, width, NormGammaTerm<P>{x, dy, nullptr, c.scale}, dw.weight.data);
    B::for_each_row(ctx, x.rows, RmsNormBackwardRow<P>{x, dy, w.weight.data, c.scale, dx}, width * 3);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

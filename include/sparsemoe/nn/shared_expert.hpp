// SPDX-License-Identifier: Apache-2.0
// nn/shared_expert.hpp -- an expert that every token goes to, beside the routed ones and with weight 1 (DeepSeek-MoE,
// Dai et al. 2024, equation 4): y += F(x) where the token is valid. Read next: nn/moe.hpp.
#pragma once

#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/ffn.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// y(t) += x(t); or, with `only`, y(t) = x(t): for valid tokens. Padding is left alone, or gets 0.
template <class P>
struct AddValidRow {
  using S = typename P::storage;
  using C = typename P::compute;
  const std::uint8_t* valid;
  Matrix<const S> x;
  Matrix<S> y;
  bool only;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    const bool counts = valid[t] != 0;
    if (!counts && !only) return;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes)
      y(t, j) = only ? (counts ? x(t, j) : S(C(0))) : S(C(y(t, j)) + C(x(t, j)));
  }
};

template <class P, class Backend, class Act>
struct SharedExpert {
  using B = Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using Block = FeedForward<P, B, Act>;

  index_t width = 0, hidden = 0;  // hidden 0: there is none
  bool bias = false;
  double dropout = 0, init_scale = 1;

  Block block() const { return Block::make(width, hidden, bias, dropout, init_scale); }
  template <class T>
  struct Params {
    typename Block::template Params<T> block;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      if (block.wi.rank != 0) block.visit(prefix, f);
    }
  };
  template <class T>
  Params<T> params() const {
    return hidden > 0 ? Params<T>{block().template params<T>()} : Params<T>{};
  }
  struct Cache {
    typename Block::Cache block;
  };

  /// y += F(x) for valid tokens.
  void forward(Context& ctx, const Params<const S>& w, const std::uint8_t* valid, Matrix<const S> x, Matrix<S> y,
               Cache& c) const {
    if (hidden == 0) return;
    const Matrix<S> out = ctx.arena.template matrix<S>(x.rows, width);
    block().forward(ctx, w.block, x, out, c.block);
    B::for_each_row(ctx, x.rows, AddValidRow<P>{valid, out, y, false}, width);
  }
  /// dw +=, dx +=.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const std::uint8_t* valid,
                Matrix<const S> x, Matrix<const S> dy, Matrix<S> dx, const Cache& c) const {
    if (hidden == 0) return;
    const Matrix<S> masked = ctx.arena.template matrix<S>(x.rows, width);
    const Matrix<S> own = ctx.arena.template matrix<S>(x.rows, width);
    B::for_each_row(ctx, x.rows, AddValidRow<P>{valid, dy, masked, true}, width);
    block().backward(ctx, w.block, dw.block, x, masked.as_const(), own, c.block);
    B::for_each_row(ctx, x.rows, AddValidRow<P>{valid, own, dx, false}, width);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// nn/ffn.hpp -- the dense feed-forward block: Experts with one expert that every row goes to.
// Read next: nn/moe.hpp, the sparse one.
#pragma once

#include "sparsemoe/nn/experts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class P, class Backend, class Act = Relu>
struct FeedForward {
  using B = Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using Inner = Experts<P, B, Act>;

  Inner inner;  // count stays 1
  static FeedForward make(index_t width, index_t hidden, bool bias, double dropout = 0, double init_scale = 1) {
    return {{1, width, hidden, bias, dropout, init_scale}};
  }

  template <class T>
  using Params = typename Inner::template Params<T>;
  struct Cache {
    typename Inner::Cache inner;
    std::int32_t* offsets = nullptr;
  };
  template <class T>
  Params<T> params() const {
    Params<T> p = inner.template params<T>();
    p.dense = true;
    return p;
  }
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<S> y, Cache& c) const {
    require(x.cols == inner.width && y.cols == inner.width, "feed-forward: x is ", x.rows, " x ", x.cols, " and y ",
            y.rows, " x ", y.cols, ", expected width ", inner.width);
    c.offsets = ctx.arena.template take<std::int32_t>(2);
    const std::int32_t host[2] = {0, static_cast<std::int32_t>(x.rows)};
    B::copy_from_host(ctx, c.offsets, host, 2);
    inner.forward(ctx, w, x, {c.offsets}, y, c.inner);
  }
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, Matrix<const S> dy,
                Matrix<S> dx, const Cache& c) const {
    inner.backward(ctx, w, dw, x, {c.offsets}, dy, dx, c.inner);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

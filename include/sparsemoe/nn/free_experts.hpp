// SPDX-License-Identifier: Apache-2.0
// nn/free_experts.hpp -- experts without a product (MoE++, Jin et al. 2024, section 3.1): the copy gives the token, the
// constant a0 x + a1 v with [a0, a1] = softmax(x W); the null gives 0 and has no row at all. Their rows lie behind
// those of the experts, sorted the same way. Read next: nn/moe.hpp.
#pragma once

#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/experts.hpp"
#include "sparsemoe/nn/moe_config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Row s of the slots, whose token is x(source % T): outputs(s), for the free experts alone.
template <class P>
struct FreeExpertRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> x;  // (T, D)
  ExpertRows rows;
  index_t first_copy, first_constant, last;  // as experts; their rows begin at rows.offsets[...]
  const S *v, *mix;                          // (constants, D), (constants, D, 2)
  Matrix<C> share;                           // (rows, 2): a0, a1 of constants
  Matrix<S> outputs;
  SPARSEMOE_HD bool mine(index_t s) const { return s >= rows.offsets[first_copy] && s < rows.offsets[last]; }
  SPARSEMOE_HD const S* token(index_t s) const { return x.row(rows.source[s] % x.rows).data; }
  SPARSEMOE_HD index_t constant(index_t s) const { return rows.expert[s] - first_constant; }
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    if (!mine(s)) return;
    const S* in = token(s);
    S* out = outputs.row(s).data;
    const index_t c = constant(s);
    if (c < 0) {
      for (index_t j = team.lane(); j < x.cols; j += Team::lanes) out[j] = in[j];
      return;
    }
    const S *own = v + c * x.cols, *w = mix + 2 * c * x.cols;
    C z0 = 0, z1 = 0;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) {
      z0 += C(in[j]) * C(w[2 * j]);
      z1 += C(in[j]) * C(w[2 * j + 1]);
    }
    const C a0 = math::sigmoid(team.sum(z0) - team.sum(z1)), a1 = C(1) - a0;
    if (team.lane() == 0) share(s, 0) = a0, share(s, 1) = a1;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) out[j] = S(a0 * C(in[j]) + a1 * C(own[j]));
  }
};
/// dinputs(s) of the free experts; dz (rows): d loss / d (x W)_0 of constants, minus that of (x W)_1.
template <class P>
struct FreeExpertBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  FreeExpertRow<P> forward;
  Matrix<const S> doutputs;
  Matrix<S> dinputs;
  C* dz;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    if (!forward.mine(s)) return;
    const S* g = doutputs.row(s).data;
    S* out = dinputs.row(s).data;
    const index_t c = forward.constant(s), n = dinputs.cols;
    if (c < 0) {
      for (index_t j = team.lane(); j < n; j += Team::lanes) out[j] = g[j];
      return;
    }
    const S *in = forward.token(s), *own = forward.v + c * n, *w = forward.mix + 2 * c * n;
    C dot = 0;
    for (index_t j = team.lane(); j < n; j += Team::lanes) dot += C(g[j]) * (C(in[j]) - C(own[j]));
    const C a0 = forward.share(s, 0), d = a0 * forward.share(s, 1) * team.sum(dot);
    if (team.lane() == 0) dz[s] = d;
    for (index_t j = team.lane(); j < n; j += Team::lanes)
      out[j] = S(a0 * C(g[j]) + d * (C(w[2 * j]) - C(w[2 * j + 1])));
  }
};
/// Gradients of v and W of one constant, 16 columns an index, its rows in order.
template <class P>
struct ConstantGradient {
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  static constexpr index_t width = 16;
  FreeExpertRow<P> forward;
  Matrix<const S> doutputs;
  const C* dz;
  A *dv, *dmix;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const index_t n = doutputs.cols, blocks = (n + width - 1) / width, c = i / blocks, first = i % blocks * width;
    const index_t last = math::min(first + width, n), e = forward.first_constant + c;
    for (index_t s = forward.rows.offsets[e]; s < forward.rows.offsets[e + 1]; ++s)
      for (index_t j = first + team.lane(); j < last; j += Team::lanes) {
        dv[c * n + j] += A(forward.share(s, 1) * C(doutputs(s, j)));
        const A d = A(dz[s] * C(forward.token(s)[j]));
        dmix[2 * (c * n + j)] += d;
        dmix[2 * (c * n + j) + 1] -= d;
      }
  }
};

template <class P, class Backend>
struct FreeExpertLayer {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t experts = 0, width = 0;  // experts that compute, before these
  FreeExperts free;

  template <class T>
  struct Params {
    Tensor<T> v, mix;  // (constants, 1, D), (constants, D, 2)
    Init init;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      if (v.rank == 0) return;
      f(prefix + "v", v, Init::normal(1));
      f(prefix + "mix", mix, init);
    }
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    if (free.constants == 0) return p;
    p.v = stack_of<T>(free.constants, 1, width);
    p.mix = stack_of<T>(free.constants, width, 2);
    p.init = Init::fan_in(1.0 / 3, width);
    return p;
  }
  struct Cache {
    Matrix<C> share;
  };
  bool has_rows() const { return free.copies + free.constants > 0; }

  /// Fills the rows of `outputs` that are those of free experts.
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, const ExpertRows& rows, Matrix<S> outputs,
               Cache& c) const {
    if (!has_rows()) return;
    c.share = ctx.arena.template matrix<C>(outputs.rows, 2);
    B::for_each_row(ctx, outputs.rows, row(w, x, rows, outputs, c), width * 2);
  }
  /// dw +=; their rows of dinputs =.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, const ExpertRows& rows,
                Matrix<const S> doutputs, Matrix<S> dinputs, const Cache& c) const {
    if (!has_rows()) return;
    C* dz = ctx.arena.template take<C>(doutputs.rows);
    const FreeExpertRow<P> forward = row(w, x, rows, {}, c);
    B::for_each_row(ctx, doutputs.rows, FreeExpertBackwardRow<P>{forward, doutputs, dinputs, dz}, width * 3);
    const index_t blocks = (width + ConstantGradient<P>::width - 1) / ConstantGradient<P>::width;
    if (free.constants > 0)
      B::for_each_row(ctx, free.constants * blocks, ConstantGradient<P>{forward, doutputs, dz, dw.v.data, dw.mix.data},
                      doutputs.rows * 16);
  }

 private:
  FreeExpertRow<P> row(const Params<const S>& w, Matrix<const S> x, const ExpertRows& rows, Matrix<S> outputs,
                       const Cache& c) const {
    const index_t constants = experts + free.copies;
    return {x, rows, experts, constants, constants + free.constants, w.v.data, w.mix.data, c.share, outputs};
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

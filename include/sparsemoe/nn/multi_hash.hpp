// SPDX-License-Identifier: Apache-2.0
// nn/multi_hash.hpp -- MultiHash layers (Roller et al. 2021, section 3.3): the weights of a feed-forward block are cut
// in N segments, and each segment of each token is taken from the expert that its own hash names:
//   v = act(concat_m x A[m, k_m]),  y = concat_m v B[m, k_m].
// A layer of its own beside nn/moe.hpp: the second product needs all segments of the first, so that what leaves an
// expert is not a row of the output. Dispatch and grouped products are the same. Read next: routers/hash.hpp.
#pragma once

#include <algorithm>

#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/dispatch.hpp"
#include "sparsemoe/params.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// N tables from vocabulary ids to experts, one after another, in the backend's memory.
struct HashTables {
  const std::int32_t* table = nullptr;  // (N, vocabulary)
  index_t vocabulary = 0;
};

/// chosen(t, m) = m E + table(m, id of t): segment m has experts of its own.
struct MultiHashChoice {
  HashTables tables;
  Tokens tokens;
  index_t experts, segments;
  std::int32_t* chosen;  // (T, N)
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t t = i / segments, m = i % segments;
    chosen[i] = tokens.valid[t] != 0
                    ? static_cast<std::int32_t>(m * experts) + tables.table[m * tables.vocabulary + tokens.ids[t]]
                    : -1;
  }
};
/// rows(slot) = the whole row of its token; or, with pieces, columns [m width, (m + 1) width) of it.
template <class S>
struct SegmentGatherRow {
  Matrix<const S> x;  // (T, cols)
  const std::int32_t *source, *in_use;
  bool pieces;
  Matrix<S> rows;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    if (s >= *in_use) return;
    const index_t t = source[s] % x.rows, first = pieces ? source[s] / x.rows * rows.cols : 0;
    for (index_t j = team.lane(); j < rows.cols; j += Team::lanes) rows(s, j) = x(t, first + j);
  }
};
/// y(t, m width + j) = f(rows(slot(m, t), j)), 0 for padding.
template <class S>
struct SegmentScatterRow {
  Matrix<const S> rows;
  const std::int32_t* slot;  // (N T)
  Matrix<S> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      const std::int32_t s = slot[j / rows.cols * y.rows + t];
      y(t, j) = s >= 0 ? rows(s, j % rows.cols) : S(0);
    }
  }
};
/// y(t) = sum over segments of rows(slot(m, t)).
template <class P>
struct SegmentSumRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> rows;
  const std::int32_t* slot;
  index_t segments;
  Matrix<S> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      C total = 0;
      for (index_t m = 0; m < segments; ++m)
        if (const std::int32_t s = slot[m * y.rows + t]; s >= 0) total += C(rows(s, j));
      y(t, j) = S(total);
    }
  }
};
/// a = act(h), and back: da becomes dh.
template <class P, class Act>
struct MultiHashActivation {
  using S = typename P::storage;
  using C = typename P::compute;
  const S* h;
  S* a;
  SPARSEMOE_HD void operator()(index_t i) const { a[i] = S(Act::value(C(h[i]))); }
};
template <class P, class Act>
struct MultiHashActivationBackward {
  using S = typename P::storage;
  using C = typename P::compute;
  const S *h, *a;
  S* da;
  SPARSEMOE_HD void operator()(index_t i) const {
    da[i] = S(C(da[i]) * Act::derivative(C(Act::from_output ? a[i] : h[i])));
  }
};

struct MultiHashConfig {
  index_t experts = 8, segments = 2, width = 0, hidden = 0;
};

template <class P, class Backend, class Act = Relu>
class MultiHashFeedForward {
 public:
  using B = Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  static_assert(!Act::gated, "multi-hash: use an activation that is not gated");

  /// Throws Error if the widths do not divide into segments.
  explicit MultiHashFeedForward(const MultiHashConfig& config) : c_(config) {
    require(c_.experts >= 1 && c_.segments >= 1 && c_.width >= 1 && c_.hidden >= 1,
            "multi-hash: experts, segments, width and hidden must be at least 1");
    require(c_.width % c_.segments == 0 && c_.hidden % c_.segments == 0, "multi-hash: width ", c_.width, " and hidden ",
            c_.hidden, " do not divide into ", c_.segments, " segments");
  }

  template <class T>
  struct Params {
    Tensor<T> a, b;  // (N E, D, H / N), (N E, H, D / N)
    Init init_a, init_b;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "a", a, Leaf{init_a, Role::expert});
      f(prefix + "b", b, Leaf{init_b, Role::expert});
    }
  };
  template <class T>
  Params<T> params() const {
    const index_t n = c_.segments * c_.experts;
    return {stack_of<T>(n, c_.width, c_.hidden / c_.segments), stack_of<T>(n, c_.hidden, c_.width / c_.segments),
            Init::fan_in(1, c_.width), Init::fan_in(1, c_.hidden)};
  }
  struct Cache {
    std::int32_t *slot = nullptr, *source = nullptr, *offsets = nullptr;
    Matrix<S> x, h, a, v;  // (slots, D), (T, H), (T, H), (slots, H)
  };

  /// x (T, D) -> y (T, D); padding gives 0.
  void forward(Context& ctx, const Params<const S>& w, const HashTables& tables, const Tokens& tokens,
               Matrix<const S> x, Matrix<S> y, Cache& c) const {
    const index_t T = tokens.count(), N = c_.segments, E = N * c_.experts;
    require(tokens.valid != nullptr && tokens.ids != nullptr, "multi-hash: give the ids and the validity mask");
    require(x.rows == T && x.cols == c_.width && y.rows == T && y.cols == c_.width, "multi-hash: x is ", x.rows, " x ",
            x.cols, " and y ", y.rows, " x ", y.cols, ", expected ", T, " x ", c_.width);
    auto& arena = ctx.arena;
    std::int32_t* chosen = arena.template take<std::int32_t>(T * N);
    std::int32_t* expert = arena.template take<std::int32_t>(T * N);
    c.slot = arena.template take<std::int32_t>(T * N);
    c.source = arena.template take<std::int32_t>(T * N);
    c.offsets = arena.template take<std::int32_t>(E + 1);
    c.x = arena.template matrix<S>(T * N, c_.width);
    c.h = arena.template matrix<S>(T, c_.hidden);
    c.a = arena.template matrix<S>(T, c_.hidden);
    c.v = arena.template matrix<S>(T * N, c_.hidden);
    const Matrix<S> pieces = arena.template matrix<S>(T * N, c_.hidden / N);
    const Matrix<S> outputs = arena.template matrix<S>(T * N, c_.width / N);
    B::for_each_index(ctx, T * N, MultiHashChoice{tables, tokens, c_.experts, N, chosen});
    assign_slots<B, float>(ctx, {{Level::none, tokens.length, nullptr}, chosen, tokens.valid, N},
                           {T, N, std::max<index_t>(T, 1)}, {}, E, {}, 0, {c.slot, c.source, c.offsets, expert});
    B::for_each_row(ctx, T * N, SegmentGatherRow<S>{x, c.source, c.offsets + E, false, c.x}, c_.width);
    B::grouped_gemm(ctx, Op::none, c.x.as_const(), w.a, c.offsets, pieces);
    B::for_each_row(ctx, T, SegmentScatterRow<S>{pieces, c.slot, c.h}, c_.hidden);
    B::for_each_index(ctx, c.h.size(), MultiHashActivation<P, Act>{c.h.data, c.a.data});
    B::for_each_row(ctx, T * N, SegmentGatherRow<S>{c.a, c.source, c.offsets + E, false, c.v}, c_.hidden);
    B::grouped_gemm(ctx, Op::none, c.v.as_const(), w.b, c.offsets, outputs);
    B::for_each_row(ctx, T, SegmentScatterRow<S>{outputs, c.slot, y}, c_.width);
  }
  /// dw +=, dx =.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, Matrix<const S> dy,
                Matrix<S> dx, const Cache& c) const {
    auto& arena = ctx.arena;
    typename Arena<typename B::Memory>::Scope scope(arena);
    const index_t T = x.rows, N = c_.segments, E = N * c_.experts;
    const std::int32_t* in_use = c.offsets + E;
    const Matrix<S> dout = arena.template matrix<S>(T * N, c_.width / N),
                    dv = arena.template matrix<S>(T * N, c_.hidden);
    const Matrix<S> da = arena.template matrix<S>(T, c_.hidden),
                    dpiece = arena.template matrix<S>(T * N, c_.hidden / N);
    const Matrix<S> dxs = arena.template matrix<S>(T * N, c_.width);
    B::for_each_row(ctx, T * N, SegmentGatherRow<S>{dy, c.source, in_use, true, dout}, c_.width);
    B::grouped_gemm_transposed(ctx, c.v.as_const(), dout.as_const(), c.offsets, dw.b);
    B::grouped_gemm(ctx, Op::transpose, dout.as_const(), w.b, c.offsets, dv);
    B::for_each_row(ctx, T, SegmentSumRow<P>{dv, c.slot, N, da}, c_.hidden * N);
    B::for_each_index(ctx, da.size(), MultiHashActivationBackward<P, Act>{c.h.data, c.a.data, da.data});
    B::for_each_row(ctx, T * N, SegmentGatherRow<S>{da, c.source, in_use, true, dpiece}, c_.hidden);
    B::grouped_gemm_transposed(ctx, c.x.as_const(), dpiece.as_const(), c.offsets, dw.a);
    B::grouped_gemm(ctx, Op::transpose, dpiece.as_const(), w.a, c.offsets, dxs);
    B::for_each_row(ctx, T, SegmentSumRow<P>{dxs, c.slot, N, dx}, c_.width * N);
  }

 private:
  MultiHashConfig c_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

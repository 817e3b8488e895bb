// SPDX-License-Identifier: Apache-2.0
// nn/experts.hpp -- E feed-forward networks over rows sorted by expert: grouped products, activation while a tile is in
// cache. With E = 1 it is the dense feed-forward block, so there is one implementation of both.
// y = act(x wi + bi) wo + bo, or (act(x wi) * (x wg)) wo for a gated activation. A model that only infers may hold the
// matrices in another form (weight_form.hpp): the products read it. Read next: nn/ffn.hpp, nn/moe.hpp.
#pragma once

#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/linear.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// h += bi; a = act(h) [* g]. With from_output the pre-activation is not kept: a is h.
template <class P, class Act>
struct ExpertActivation {
  using S = typename P::storage;
  using C = typename P::compute;
  const S* bias;               // (E, F) or null
  const std::int32_t* expert;  // (rows) or null: expert 0
  Matrix<S> h, g, a;
  Act act;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r, index_t first, index_t last) const {
    if constexpr (requires { Act::run_time; })
      act.visit([&](auto chosen) { apply<decltype(chosen)>(team, r, first, last); });
    else
      apply<Act>(team, r, first, last);
  }
  /// With the function F, which is Act or what it stands for.
  template <class F, class Team>
  SPARSEMOE_HD void apply(Team team, index_t r, index_t first, index_t last) const {
    S *pre = h.row(r).data, *out = a.row(r).data;
    const S* b = bias != nullptr ? bias + (expert != nullptr ? index_t(expert[r]) : 0) * h.cols : nullptr;
    if constexpr (Act::gated) {
      const S* gate = g.row(r).data;
      SPARSEMOE_SIMD
      for (index_t j = first + team.lane(); j < last; j += Team::lanes) {
        if (b != nullptr) pre[j] = S(C(pre[j]) + C(b[j]));
        out[j] = S(F::value(C(pre[j])) * C(gate[j]));
      }
    } else if (b != nullptr) {
      SPARSEMOE_SIMD
      for (index_t j = first + team.lane(); j < last; j += Team::lanes) {
        const S v = S(C(pre[j]) + C(b[j]));
        if constexpr (!Act::from_output) pre[j] = v;
        out[j] = S(F::value(C(v)));
      }
    } else {
      SPARSEMOE_SIMD
      for (index_t j = first + team.lane(); j < last; j += Team::lanes) out[j] = S(F::value(C(pre[j])));
    }
  }
};
/// da becomes dh = da act'(h) [* g], and dg = da act(h).
template <class P, class Act>
struct ExpertActivationBackward {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> h, g;
  Matrix<S> da, dg;
  Act act;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r, index_t first, index_t last) const {
    if constexpr (requires { Act::run_time; })
      act.visit([&](auto chosen) { apply<decltype(chosen)>(team, r, first, last); });
    else
      apply<Act>(team, r, first, last);
  }
  template <class F, class Team>
  SPARSEMOE_HD void apply(Team team, index_t r, index_t first, index_t last) const {
    S* d = da.row(r).data;
    const S* pre = h.row(r).data;
    SPARSEMOE_SIMD
    for (index_t j = first + team.lane(); j < last; j += Team::lanes) {
      if constexpr (Act::gated) {
        const C v = C(d[j]);
        dg(r, j) = S(v * F::value(C(pre[j])));
        d[j] = S(v * F::derivative(C(pre[j])) * C(g(r, j)));
      } else {
        d[j] = S(C(d[j]) * F::derivative(C(pre[j])));
      }
    }
  }
};
template <class P>
struct AddExpertBias {
  using S = typename P::storage;
  using C = typename P::compute;
  const S* bias;
  const std::int32_t* expert;
  Matrix<S> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r, index_t first, index_t last) const {
    if (bias == nullptr) return;
    const S* b = bias + (expert != nullptr ? index_t(expert[r]) : 0) * y.cols;
    S* out = y.row(r).data;
    SPARSEMOE_SIMD
    for (index_t j = first + team.lane(); j < last; j += Team::lanes) out[j] = S(C(out[j]) + C(b[j]));
  }
};
/// dbias(e) += sum of the expert's rows, in order: 16 columns of one expert an index.
template <class T, class A>
struct ExpertBiasGradient {
  static constexpr index_t width = 16;
  Matrix<const T> dy;
  const std::int32_t* offsets;
  A* dbias;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t n) const {
    const index_t blocks = (dy.cols + width - 1) / width, e = n / blocks, first = n % blocks * width;
    const index_t last = math::min(first + width, dy.cols);
    A* out = dbias + e * dy.cols;
    for (index_t r = offsets[e]; r < offsets[e + 1]; ++r)
      for (index_t j = first + team.lane(); j < last; j += Team::lanes) out[j] += A(dy(r, j));
  }
};
/// Inverted dropout of the hidden activation, in place; drawn by (choice, column), so that a row's mask does not depend
/// on the slot it got.
template <class P>
struct ExpertDropoutRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<S> a;
  const std::int32_t *source, *in_use;  // (rows) or null: the row itself
  float p;
  Random random;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    if (in_use != nullptr && r >= *in_use) return;
    const index_t key = (source != nullptr ? index_t(source[r]) : r) * ((a.cols + 3) / 4);
    const C keep = C(1) / C(1.0f - p);
    for (index_t q = team.lane(); q < (a.cols + 3) / 4; q += Team::lanes) {
      const Draw4 d = random.draw4(Purpose::expert_dropout, static_cast<std::uint64_t>(key + q));
      for (index_t i = 0; i < 4 && 4 * q + i < a.cols; ++i) {
        S& v = a(r, 4 * q + i);
        v = to_unit(d.v[i]) >= p ? S(C(v) * keep) : S(C(0));
      }
    }
  }
};

/// Rows sorted by expert: offsets (E + 1), and for a row its expert and its choice (both may be null when E is 1).
struct ExpertRows {
  const std::int32_t* offsets = nullptr;
  const std::int32_t* expert = nullptr;
  const std::int32_t* source = nullptr;
};

template <class P, class Backend, class Act = Relu>
struct Experts {
  using B = Backend;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t count = 1, width = 0, hidden = 0;
  bool bias = false;
  double dropout = 0;  // of the hidden activation, in training: expert dropout (Switch Transformer, section 2.4)
  double init_scale = 1;
  WeightForm form = WeightForm::plain;  // of the matrices; any other is for forward passes alone
  Act activation = {};                  // which function, where that is said at run time

  template <class T>
  struct Params {
    Tensor<T> wi, wg, bi;  // (E, D, F), (E, D, F) if gated, (E, F) if bias
    Tensor<T> wo, bo;      // (E, F, D), (E, D) if bias
    Init init_in, init_out;
    bool dense = false;  // one block that every token meets, not experts
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      const Role matrix = dense ? Role::dense : Role::expert;
      const Role vector = dense ? Role::dense : Role::expert_bias;
      f(prefix + "wi", wi, Leaf{init_in, matrix});
      if (wg.rank != 0) f(prefix + "wg", wg, Leaf{init_in, matrix});
      if (bi.rank != 0) f(prefix + "bi", bi, Leaf{Init::zero(), vector});
      f(prefix + "wo", wo, Leaf{init_out, matrix});
      if (bo.rank != 0) f(prefix + "bo", bo, Leaf{Init::zero(), vector});
    }
  };
  struct Cache {
    Matrix<S> h, g, a;  // (rows, F)
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    p.wi = stack_of<T>(count, width, hidden);
    if (Act::gated) p.wg = stack_of<T>(count, width, hidden);
    if (bias) p.bi = stack_of<T>(count, 1, hidden);
    p.wo = stack_of<T>(count, hidden, width);
    if (bias) p.bo = stack_of<T>(count, 1, width);
    p.wi.form = p.wg.form = p.wo.form = form;
    p.init_in = Init::fan_in(init_scale, width);
    p.init_out = Init::fan_in(init_scale, hidden);
    return p;
  }

  /// x (rows, D), sorted by expert -> y (rows, D). Rows at and beyond offsets[E] are left alone.
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, const ExpertRows& rows, Matrix<S> y,
               Cache& c) const {
    c.h = ctx.arena.template matrix<S>(x.rows, hidden);
    c.g = Act::gated ? ctx.arena.template matrix<S>(x.rows, hidden) : Matrix<S>{};
    const bool own = !Act::from_output;
    c.a = own ? ctx.arena.template matrix<S>(x.rows, hidden) : c.h;
    if (Act::gated) B::grouped_gemm(ctx, Op::none, x, w.wg, rows.offsets, c.g);
    const ExpertActivation<P, Act> act{bias ? w.bi.data : nullptr, rows.expert, c.h, c.g, c.a, activation};
    B::grouped_gemm(ctx, Op::none, x, w.wi, rows.offsets, c.h, act);
    if (ctx.training && dropout > 0) {
      const ExpertDropoutRow<P> drop{c.a, rows.source, rows.offsets + count, static_cast<float>(dropout), ctx.random};
      B::for_each_row(ctx, x.rows, drop, hidden * 8);
    }
    B::grouped_gemm(ctx, Op::none, c.a.as_const(), w.wo, rows.offsets, y,
                    AddExpertBias<P>{bias ? w.bo.data : nullptr, rows.expert, y});
  }
  /// Of experts in a mapped file: asks the system to read expert e's matrices from disk, without waiting for them.
  void fetch(const Params<const S>& w, index_t e) const {
    const auto ask = [&](const Tensor<const S>& t) {
      if (t.rank == 0 || t.data == nullptr) return;
      const index_t bytes = t.rows * t.cols * index_t(t.form == WeightForm::file_float ? sizeof(float) : sizeof(S));
      B::will_need(reinterpret_cast<const std::byte*>(t.data) + e * bytes, static_cast<std::size_t>(bytes));
    };
    ask(w.wi), ask(w.wg), ask(w.wo);
  }
  // Named here and not below: nvcc launches no kernel over a private type.
  struct WholeRow {
    ExpertActivationBackward<P, Act> act;
    const std::int32_t* in_use;
    index_t cols;
    template <class Team>
    SPARSEMOE_HD void operator()(Team team, index_t r) const {
      if (r < *in_use) act(team, r, 0, cols);
    }
  };
  struct AddUsedRow {
    Matrix<const S> x;
    const std::int32_t* in_use;
    Matrix<S> y;
    template <class Team>
    SPARSEMOE_HD void operator()(Team team, index_t r) const {
      using C = typename P::compute;
      if (r >= *in_use) return;
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(r, j) = S(C(y(r, j)) + C(x(r, j)));
    }
  };
  /// dw +=, dx =. Consumes nothing of the cache.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, const ExpertRows& rows,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const Matrix<S> da = ctx.arena.template matrix<S>(x.rows, hidden);
    const Matrix<S> dg = Act::gated ? ctx.arena.template matrix<S>(x.rows, hidden) : Matrix<S>{};
    B::grouped_gemm_transposed(ctx, c.a.as_const(), dy, rows.offsets, dw.wo);
    if (bias) bias_gradient(ctx, dy, rows.offsets, dw.bo.data);
    const ExpertActivationBackward<P, Act> act{c.h, c.g, da, dg, activation};
    if (ctx.training && dropout > 0) {
      B::grouped_gemm(ctx, Op::transpose, dy, w.wo, rows.offsets, da);
      const ExpertDropoutRow<P> drop{da, rows.source, rows.offsets + count, static_cast<float>(dropout), ctx.random};
      B::for_each_row(ctx, x.rows, drop, hidden * 8);
      B::for_each_row(ctx, x.rows, WholeRow{act, rows.offsets + count, hidden}, hidden);
    } else {
      B::grouped_gemm(ctx, Op::transpose, dy, w.wo, rows.offsets, da, act);
    }
    B::grouped_gemm_transposed(ctx, x, da.as_const(), rows.offsets, dw.wi);
    if (bias) bias_gradient(ctx, da, rows.offsets, dw.bi.data);
    B::grouped_gemm(ctx, Op::transpose, da.as_const(), w.wi, rows.offsets, dx);
    if (Act::gated) {
      B::grouped_gemm_transposed(ctx, x, dg.as_const(), rows.offsets, dw.wg);
      const Matrix<S> through_gate = ctx.arena.template matrix<S>(dx.rows, width);
      B::grouped_gemm(ctx, Op::transpose, dg.as_const(), w.wg, rows.offsets, through_gate);
      B::for_each_row(ctx, dx.rows, AddUsedRow{through_gate, rows.offsets + count, dx}, width);
    }
  }

 private:
  void bias_gradient(Context& ctx, Matrix<const S> dy, const std::int32_t* offsets, A* out) const {
    const index_t blocks = (dy.cols + 15) / 16;
    B::for_each_row(ctx, count * blocks, ExpertBiasGradient<S, A>{dy, offsets, out}, dy.rows * 16 / count + 16);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

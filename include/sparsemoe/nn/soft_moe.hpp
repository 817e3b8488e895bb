// SPDX-License-Identifier: Apache-2.0
// nn/soft_moe.hpp -- Soft MoE (Puigcerver et al. 2023, equations 1-4): no token is sent anywhere; every expert computes
// a few slots, each a mean of all tokens of a sentence, and every token gets a mean of all slots. With L = x' (scale
// P')^T, rows of x and of P normalised, D = softmax of L over tokens, C = softmax over slots:  y = C experts(D^T x).
// `using Router = SoftMixture<slots>;` puts it in the sparse layers of an encoder; a decoder would see later tokens. It
// drops nothing, is balanced by construction and has no losses. Read next: nn/moe.hpp, the layer it stands for.
#pragma once

#include <string>
#include <vector>

#include "sparsemoe/feed.hpp"
#include "sparsemoe/nn/moe.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace soft {

inline constexpr double epsilon = 1e-6;

/// y(r) = scale x(r) / sqrt(|x(r)|^2 + epsilon), inverse(r) = the root's inverse.
template <class S, class R>
struct NormaliseRow {
  Matrix<const S> x;
  const R* scale;  // or null: 1
  Matrix<R> y;
  R* inverse;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    R sum = 0;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) sum += R(x(r, j)) * R(x(r, j));
    const R inv = R(1) / std::sqrt(team.sum(sum) + R(epsilon));
    if (team.lane() == 0) inverse[r] = inv;
    const R s = scale != nullptr ? *scale * inv : inv;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) y(r, j) = R(x(r, j)) * s;
  }
};
/// The way back: dx(r) += scale inverse (dy - u <u, dy>), u = y / scale; dscale(r) = <u, dy>.
template <class R, class T>
struct NormaliseBackwardRow {
  Matrix<const R> y, dy;
  const R *scale, *inverse;
  Matrix<T> dx;
  R* dscale;  // or null
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const R s = scale != nullptr ? *scale : R(1), to_unit = s != R(0) ? R(1) / s : R(0);
    R dot = 0;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) dot += y(r, j) * to_unit * dy(r, j);
    dot = team.sum(dot);
    if (dscale != nullptr && team.lane() == 0) dscale[r] = dot;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes)
      dx(r, j) = T(R(dx(r, j)) + s * inverse[r] * (dy(r, j) - y(r, j) * to_unit * dot));
  }
};

/// Column (sentence, slot): dispatch = softmax of the logits over the sentence's tokens; padding gets 0.
template <class S, class R>
struct DispatchColumn {
  Matrix<const R> logits;  // (T, slots)
  Tokens tokens;
  Matrix<R> dispatch;
  Matrix<S> stored;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const index_t s = i % logits.cols, first = i / logits.cols * tokens.length, last = first + tokens.length;
    R top = R(-1e30), total = 0;
    for (index_t t = first + team.lane(); t < last; t += Team::lanes)
      if (tokens.valid[t] != 0) top = logits(t, s) > top ? logits(t, s) : top;
    top = team.max(top);
    for (index_t t = first + team.lane(); t < last; t += Team::lanes)
      if (tokens.valid[t] != 0) total += math::exp(logits(t, s) - top);
    total = team.sum(total);
    for (index_t t = first + team.lane(); t < last; t += Team::lanes) {
      dispatch(t, s) = tokens.valid[t] != 0 ? math::exp(logits(t, s) - top) / total : R(0);
      stored(t, s) = S(dispatch(t, s));
    }
  }
};
/// Row t: combine = softmax of the logits over all slots; padding gets 0.
template <class S, class R>
struct CombineSoftRow {
  Matrix<const R> logits;
  const std::uint8_t* valid;
  Matrix<R> combine;
  Matrix<S> stored;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    R* out = combine.row(t).data;
    for (index_t s = team.lane(); s < combine.cols; s += Team::lanes) out[s] = logits(t, s);
    softmax_in_place(team, out, combine.cols);
    for (index_t s = team.lane(); s < combine.cols; s += Team::lanes) {
      if (valid[t] == 0) out[s] = R(0);
      stored(t, s) = S(out[s]);
    }
  }
};
/// column(sentence, slot) = sum over tokens of dispatch ddispatch.
template <class S, class R>
struct DispatchDot {
  Matrix<const R> dispatch;
  Matrix<const S> ddispatch;
  index_t length;
  R* column;  // (sentences, slots)
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t s = i % dispatch.cols, first = i / dispatch.cols * length;
    R sum = 0;
    for (index_t t = first; t < first + length; ++t) sum += dispatch(t, s) * R(ddispatch(t, s));
    column[i] = sum;
  }
};
/// dlogits(t) through both softmaxes.
template <class S, class R>
struct LogitGradientRow {
  Matrix<const R> dispatch, combine;
  Matrix<const S> ddispatch, dcombine;
  const R* column;
  index_t length;
  Matrix<R> dlogits;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    const R* of_column = column + t / length * dlogits.cols;
    R dot = 0;
    for (index_t s = team.lane(); s < dlogits.cols; s += Team::lanes) dot += combine(t, s) * R(dcombine(t, s));
    dot = team.sum(dot);
    for (index_t s = team.lane(); s < dlogits.cols; s += Team::lanes)
      dlogits(t, s) = dispatch(t, s) * (R(ddispatch(t, s)) - of_column[s]) + combine(t, s) * (R(dcombine(t, s)) - dot);
  }
};
/// Rows by sentence, expert, slot <-> rows by expert, sentence, slot.
template <class S>
struct SlotOrderRow {
  Matrix<const S> from;
  index_t experts, sentences, slots;
  bool to_experts;
  Matrix<S> to;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const index_t outer = to_experts ? sentences : experts, inner = to_experts ? experts : sentences;
    const index_t s = r % slots, i = r / slots / outer, o = r / slots % outer;  // row (i, o, s) of `to`
    const S* in = from.row((o * inner + i) * slots + s).data;
    for (index_t j = team.lane(); j < to.cols; j += Team::lanes) to(r, j) = in[j];
  }
};
struct SlotExperts {
  index_t rows;  // of an expert
  index_t experts;
  std::int32_t *expert, *offsets;
  SPARSEMOE_HD void operator()(index_t r) const {
    if (r <= experts) offsets[r] = static_cast<std::int32_t>(r * rows);
    if (r < experts * rows) expert[r] = static_cast<std::int32_t>(r / rows);
  }
};

}  // namespace soft

template <class Spec>
concept SoftSpec = requires {
  Spec::Router::slots;
};

template <class Spec>
requires SoftSpec<Spec>
class MoE<Spec> {
 public:
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using Router = typename Spec::Router;
  using Collective = typename Spec::Collective;
  using Act = typename Spec::Activation;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Context = typename B::Context;
  using ExpertLayer = Experts<P, B, Act>;

  MoE() = default;
  /// Throws Error for what makes no sense here: capacity, jitter, free and shared experts.
  explicit MoE(const MoeConfig& config, Router = {}) : config_(config) {
    config.check();
    require(config.capacity_factor <= 0 && config.eval_capacity_factor <= 0 && config.jitter <= 0 &&
                config.output_masking <= 0 && config.free.count() == 0 && config.shared_hidden == 0 &&
                !config.gate_bias,
            "soft moe: every expert computes its slots; there is no capacity, jitter, masking, gate bias, free or "
            "shared expert");
    experts_ = {config.experts,        config.width,      config.hidden,     config.bias,
                config.expert_dropout, config.init_scale, config.expert_form};
  }

  template <class T>
  struct Params {
    Tensor<T> slots, scale;  // (E slots, D), (1), in the router's precision
    typename ExpertLayer::template Params<T> experts;
    Init init;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "router.slots", slots, Leaf{init, Role::gate});
      f(prefix + "router.scale", scale, Leaf{Init::one().in_router_precision(), Role::gate});
      experts.visit(prefix + "experts.", f);
    }
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    p.slots = matrix_of<T>(slots(), config_.width);
    p.scale = matrix_of<T>(1, 1);
    p.experts = experts_.template params<T>();
    p.init =
        Init::normal(1 / std::sqrt(static_cast<double>(std::max<index_t>(config_.width, 1)))).in_router_precision();
    return p;
  }
  struct Cache {
    Matrix<R> tokens, slots, dispatch, combine;  // (T, D) and (slots, D) normalised; (T, slots)
    R *token_inverse = nullptr, *slot_inverse = nullptr;
    Matrix<S> dispatch_stored, combine_stored;
    Matrix<S> inputs, outputs, mixed;  // (E B slots, D) by expert; (B E slots, D) by sentence
    std::int32_t *expert = nullptr, *offsets = nullptr;
    typename ExpertLayer::Cache experts;
    index_t counted = 0, sentences = 0;
  };

  const MoeConfig& config() const { return config_; }
  Router router() const { return {}; }
  void set_router(const Router&) {}
  index_t slots() const { return config_.experts * Router::slots; }

  /// x (T, D) -> y (T, D); padding gives 0 and is in no mean. Throws Error if a shape does not fit.
  void forward(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Matrix<S> y, Cache& c,
               Collective&, Matrix<const R> = {}) const {
    auto& arena = ctx.arena;
    const index_t T = tokens.count(), D = config_.width, n = slots(), rows = tokens.sentences * n;
    require(x.rows == T && x.cols == D && y.rows == T && y.cols == D, "soft moe: x is ", x.rows, " x ", x.cols,
            " and y ", y.rows, " x ", y.cols, ", expected ", T, " x ", D);
    require(T == 0 || tokens.valid != nullptr, "soft moe: give the validity mask of the tokens");
    c.counted = T, c.sentences = tokens.sentences;
    c.tokens = arena.template matrix<R>(T, D), c.slots = arena.template matrix<R>(n, D);
    c.token_inverse = arena.template take<R>(T), c.slot_inverse = arena.template take<R>(n);
    c.dispatch = arena.template matrix<R>(T, n), c.combine = arena.template matrix<R>(T, n);
    c.dispatch_stored = arena.template matrix<S>(T, n), c.combine_stored = arena.template matrix<S>(T, n);
    c.inputs = arena.template matrix<S>(rows, D), c.outputs = arena.template matrix<S>(rows, D);
    c.mixed = arena.template matrix<S>(rows, D);
    c.expert = arena.template take<std::int32_t>(rows);
    c.offsets = arena.template take<std::int32_t>(config_.experts + 1);
    B::for_each_row(ctx, T, soft::NormaliseRow<S, R>{x, nullptr, c.tokens, c.token_inverse}, D * 2);
    B::for_each_row(ctx, n,
                    soft::NormaliseRow<R, R>{
                        {wide_data<R>(w.slots.data), n, D}, wide_data<R>(w.scale.data), c.slots, c.slot_inverse},
                    D * 2);
    {
      typename Arena<typename B::Memory>::Scope scope(arena);
      const Matrix<R> logits = arena.template matrix<R>(T, n);
      B::gemm(ctx, Op::none, Op::transpose, 1, c.tokens.as_const(), c.slots.as_const(), false, logits);
      B::for_each_row(ctx, tokens.sentences * n,
                      soft::DispatchColumn<S, R>{logits, tokens, c.dispatch, c.dispatch_stored}, tokens.length * 32);
      B::for_each_row(ctx, T, soft::CombineSoftRow<S, R>{logits, tokens.valid, c.combine, c.combine_stored}, n * 16);
    }
    each_sentence(ctx, tokens.sentences, Op::transpose, n, D, tokens.length, weights(c.dispatch_stored, tokens.length),
                  rows_of(x.data, tokens.length), rows_of(c.mixed.data, n));
    reorder(ctx, c.mixed, true, c.inputs, c);
    B::for_each_index(ctx, std::max(rows, config_.experts + 1),
                      soft::SlotExperts{tokens.sentences * Router::slots, config_.experts, c.expert, c.offsets});
    experts_.forward(ctx, w.experts, c.inputs.as_const(), expert_rows(c), c.outputs, c.experts);
    reorder(ctx, c.outputs, false, c.mixed, c);
    each_sentence(ctx, tokens.sentences, Op::none, tokens.length, D, n, weights(c.combine_stored, tokens.length),
                  rows_of(as_const(c.mixed.data), n), rows_of(y.data, tokens.length));
  }
  /// dw +=, dx =.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens, Matrix<const S> x,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c, double = 1, Matrix<R> = {},
                Matrix<const R> = {}) const {
    auto& arena = ctx.arena;
    typename Arena<typename B::Memory>::Scope scope(arena);
    const index_t T = tokens.count(), D = config_.width, n = slots(), rows = tokens.sentences * n, L = tokens.length;
    const Matrix<S> dmixed = arena.template matrix<S>(rows, D), by_expert = arena.template matrix<S>(rows, D);
    const Matrix<S> dinputs = arena.template matrix<S>(rows, D);
    const Matrix<S> dcombine = arena.template matrix<S>(T, n), ddispatch = arena.template matrix<S>(T, n);
    // y = C mixed
    each_sentence(ctx, tokens.sentences, Op::none, L, n, D, rows_of(dy.data, L), rows_of(as_const(c.mixed.data), n),
                  BatchOf<S>{dcombine.data, n, L * n, 0}, Op::transpose);
    each_sentence(ctx, tokens.sentences, Op::transpose, n, D, L, weights(c.combine_stored, L), rows_of(dy.data, L),
                  rows_of(dmixed.data, n));
    reorder(ctx, dmixed, true, by_expert, c);
    experts_.backward(ctx, w.experts, dw.experts, c.inputs.as_const(), expert_rows(c), by_expert.as_const(), dinputs,
                      c.experts);
    reorder(ctx, dinputs, false, dmixed, c);
    // inputs = D^T x
    each_sentence(ctx, tokens.sentences, Op::none, L, n, D, rows_of(x.data, L), rows_of(as_const(dmixed.data), n),
                  BatchOf<S>{ddispatch.data, n, L * n, 0}, Op::transpose);
    each_sentence(ctx, tokens.sentences, Op::none, L, D, n, weights(c.dispatch_stored, L),
                  rows_of(as_const(dmixed.data), n), rows_of(dx.data, L));
    // the two softmaxes of one matrix of logits
    R* column = arena.template take<R>(tokens.sentences * n);
    const Matrix<R> dlogits = arena.template matrix<R>(T, n);
    B::for_each_index(ctx, tokens.sentences * n, soft::DispatchDot<S, R>{c.dispatch, ddispatch, L, column});
    B::for_each_row(
        ctx, T, soft::LogitGradientRow<S, R>{c.dispatch, c.combine, ddispatch, dcombine, column, L, dlogits}, n * 4);
    const Matrix<R> dtokens = arena.template matrix<R>(T, D), dslots = arena.template matrix<R>(n, D);
    B::gemm(ctx, Op::none, Op::none, 1, dlogits.as_const(), c.slots.as_const(), false, dtokens);
    B::gemm(ctx, Op::transpose, Op::none, 1, dlogits.as_const(), c.tokens.as_const(), false, dslots);
    B::for_each_row(ctx, T, soft::NormaliseBackwardRow<R, S>{c.tokens, dtokens, nullptr, c.token_inverse, dx, nullptr},
                    D * 4);
    R* dscale = arena.template take<R>(n);
    B::for_each_row(ctx, n,
                    soft::NormaliseBackwardRow<R, A>{c.slots, dslots, wide_data<R>(w.scale.data), c.slot_inverse,
                                                     dw.slots.matrix(), dscale},
                    D * 4);
    add_column_sums<B>(ctx, n, 1, VectorTerm<R>{dscale}, dw.scale.data);
  }

  void fetch(Context&, const Params<const S>&, const Tokens&, Cache&) const {}
  /// Every expert computes its slots of every sentence.
  RoutingStatistics statistics(Context&, const Cache& c) const {
    RoutingStatistics s;
    s.tasks = config_.tasks, s.experts = config_.experts;
    s.tokens = static_cast<double>(c.counted);
    s.load.assign(static_cast<std::size_t>(config_.experts), c.sentences * Router::slots);
    s.usage.assign(static_cast<std::size_t>(config_.tasks * config_.experts), 0);
    s.choices = static_cast<double>(c.sentences * slots());
    return s;
  }
  double weighted_loss(const RoutingStatistics&) const { return 0; }

 private:
  template <class T>
  static const T* as_const(T* p) {
    return p;
  }
  ExpertRows expert_rows(const Cache& c) const { return {c.offsets, c.expert, nullptr}; }
  /// Of a matrix (B rows, D), and of one (B length, slots): sentence by sentence.
  template <class T>
  BatchOf<T> rows_of(T* p, index_t rows) const {
    return {p, config_.width, rows * config_.width, 0};
  }
  BatchOf<const S> weights(Matrix<S> m, index_t length) const { return {m.data, m.cols, length * m.cols, 0}; }
  /// c = op(a) op_b(b), (m, n) with k summed, for every sentence.
  void each_sentence(Context& ctx, index_t sentences, Op op, index_t m, index_t n, index_t k, BatchOf<const S> a,
                     BatchOf<const S> b, BatchOf<S> c, Op op_b = Op::none) const {
    B::batched_gemm(ctx, op, op_b, 1, sentences, 1, m, n, k, a, b, c);
  }
  void reorder(Context& ctx, Matrix<S> from, bool to_experts, Matrix<S> to, const Cache& c) const {
    B::for_each_row(ctx, to.rows,
                    soft::SlotOrderRow<S>{from, config_.experts, c.sentences, Router::slots, to_experts, to}, to.cols);
  }

  MoeConfig config_;
  ExpertLayer experts_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

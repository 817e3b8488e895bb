// SPDX-License-Identifier: Apache-2.0
// nn/moe.hpp -- the sparse layer, the heart of the library: route (nn/routing.hpp) -> gather -> experts -> combine, and
// the gradient of each. Work and memory grow with the tokens routed. Read next: nn/routing.hpp, nn/experts.hpp;
// nn/shared_expert.hpp and nn/free_experts.hpp beside them; nn/soft_moe.hpp for the layer that sends no token anywhere.
#pragma once

#include <vector>

#include "sparsemoe/nn/experts.hpp"
#include "sparsemoe/nn/free_experts.hpp"
#include "sparsemoe/nn/routing.hpp"
#include "sparsemoe/nn/shared_expert.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class Spec>
class MoE {
 public:
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using Router = typename Spec::Router;
  using Collective = typename Spec::Collective;
  using Traits = RouterTraits<Router>;
  using Act = typename Spec::Activation;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Context = typename B::Context;
  using Gating = Routing<Spec>;
  using ExpertLayer = Experts<P, B, Act>;
  using Shared = SharedExpert<P, B, Act>;
  using Free = FreeExpertLayer<P, B>;

  MoE() = default;
  explicit MoE(const MoeConfig& config, Router router = {}) : routing_(config, router) {
    experts_ = {config.experts,        config.width,      config.hidden,     config.bias,
                config.expert_dropout, config.init_scale, config.expert_form};
    free_ = {config.experts, config.width, config.free};
    shared_ = {config.width, config.shared_hidden, config.bias, config.expert_dropout, config.init_scale};
  }

  template <class T>
  struct Params : Gating::template Params<T> {
    typename ExpertLayer::template Params<T> experts;
    typename Free::template Params<T> free;
    typename Shared::template Params<T> shared;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      Gating::template Params<T>::visit(prefix, f);
      experts.visit(prefix + "experts.", f);
      free.visit(prefix + "constants.", f);
      shared.visit(prefix + "shared.", f);
    }
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    p.experts = experts_.template params<T>();
    p.free = free_.template params<T>();
    p.shared = shared_.template params<T>();
    routing_.add_params(p);
    return p;
  }

  struct Cache : Gating::Cache {
    Matrix<S> inputs, outputs;  // (rows, D) sorted by expert
    typename ExpertLayer::Cache experts;
    typename Free::Cache free;
    typename Shared::Cache shared;
    std::uint8_t* every = nullptr;      // (T) ones, with route_padding
    Matrix<S> jittered;                 // (T, D) x with jitter, with jitter_experts
    std::vector<std::uint8_t> fetched;  // (E) experts that fetch() asked for since position 0
  };

  const MoeConfig& config() const { return routing_.config(); }
  const Router& router() const { return routing_.router(); }
  void set_router(const Router& router) { routing_.set_router(router); }
  void set_activation(const Act& activation) { experts_.activation = activation; }
  index_t top_k() const { return routing_.top_k(); }
  GateColumns<Router> columns() const { return routing_.columns(); }

  /// x (T, D) -> y (T, D). Padding gives 0, takes no slot and is in no loss, unless config.route_padding. `pool`: what
  /// the gate scores when config.external_pool, (sentences, D) at sentence level and (T, D) at token level; `comm`
  /// makes the balance loss that of the global batch. Throws Error if a shape does not fit or the validity mask is
  /// missing.
  void forward(Context& ctx, const Params<const S>& w, const Tokens& all, Matrix<const S> x, Matrix<S> y, Cache& c,
               Collective& comm, Matrix<const R> pool = {}) const {
    const index_t T = all.count(), K = top_k(), D = config().width;
    require(y.rows == x.rows && y.cols == x.cols, "moe: x is ", x.rows, " x ", x.cols, " and y ", y.rows, " x ", y.cols,
            ", expected ", T, " x ", D);
    if (config().route_padding) {
      c.every = ctx.arena.template take<std::uint8_t>(T);
      B::for_each_index(ctx, T, EveryToken{c.every});
    }
    const Tokens tokens = routed(all, c);
    if (jitters(ctx)) {
      c.jittered = ctx.arena.template matrix<S>(T, D);
      B::for_each_row(ctx, T, JitterRow<S, R>{x, c.jittered, R(config().jitter), ctx.random}, D * 4);
      x = c.jittered;
    }
    routing_.forward(ctx, w, tokens, x, c, comm, pool);
    c.inputs = ctx.arena.template matrix<S>(c.rows, D);
    c.outputs = ctx.arena.template matrix<S>(c.rows, D);
    B::for_each_row(ctx, c.rows, GatherRow<S>{x, c.source, c.offsets + config().experts, T, c.inputs}, D);
    experts_.forward(ctx, w.experts, c.inputs.as_const(), rows(c), c.outputs, c.experts);
    free_.forward(ctx, w.free, x, rows(c), c.outputs, c.free);
    B::for_each_row(ctx, T, CombineRow<P>{c.outputs, c.slot, c.combine, K, y}, D * K);
    if constexpr (Traits::passes_dropped) B::for_each_row(ctx, T, dropped(tokens, c, x, y), D * K);
    shared_.forward(ctx, w.shared, tokens.valid, x, y, c.shared);
  }

  /// Experts that stay in a file: asks the system to read those that these tokens will need, before the stack runs, if
  /// the choice does not depend on its states (by task, or by nothing learned). Others are read when they are used.
  void fetch(Context& ctx, const Params<const S>& w, const Tokens& tokens, Cache& c) const {
    if constexpr (!Gating::scored && B::host_memory) {
      if (config().expert_form != WeightForm::file) return;
      if (tokens.position == 0) c.fetched.assign(static_cast<std::size_t>(config().experts), 0);
      typename Arena<typename B::Memory>::Scope scope(ctx.arena);
      Cache now;
      routing_.foresee(ctx, w, tokens, now);
      for (index_t i = 0; i < now.units * top_k(); ++i) {
        const std::int32_t e = now.chosen[i];
        if (e < 0 || e >= config().experts || c.fetched[static_cast<std::size_t>(e)] != 0) continue;
        c.fetched[static_cast<std::size_t>(e)] = 1;
        experts_.fetch(w.experts, e);
      }
    }
  }

  /// dw +=, dx =, dpool += (if given). loss_scale multiplies the gradient of the routing losses: 1, or what the caller
  /// scales the whole loss by. dcombine (T, K): the gradient of a loss on the combine weights themselves, if there is
  /// one.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& all, Matrix<const S> x,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c, double loss_scale = 1, Matrix<R> dpool = {},
                Matrix<const R> dcombine = {}) const {
    auto& arena = ctx.arena;
    typename Arena<typename B::Memory>::Scope scope(arena);
    const index_t T = all.count(), E = config().dispatched(), K = top_k(), D = config().width;
    const Tokens tokens = routed(all, c);
    if (jitters(ctx)) x = c.jittered;
    const Matrix<S> doutputs = arena.template matrix<S>(c.rows, D);
    const Matrix<S> dinputs = arena.template matrix<S>(c.rows, D);
    R* dweight = arena.template take<R>(T * K);
    B::for_each_index(ctx, T * K, KeptWeightGradient<R>{dcombine, c.slot, dweight, T, K, Traits::passes_dropped});
    B::for_each_row(ctx, c.rows,
                    CombineBackwardRow<P>{dy, c.outputs, c.source, c.offsets + E, c.combine, K, T, doutputs, dweight},
                    D * 3);
    experts_.backward(ctx, w.experts, dw.experts, c.inputs.as_const(), rows(c), doutputs.as_const(), dinputs,
                      c.experts);
    free_.backward(ctx, w.free, dw.free, x, rows(c), doutputs.as_const(), dinputs, c.free);
    B::for_each_row(ctx, T, GatherBackwardRow<P>{dinputs, c.slot, K, dx}, D * K);
    if constexpr (Traits::passes_dropped)
      B::for_each_row(ctx, T, PassDroppedBackwardRow<P>{dropped(tokens, c, x, {}), dy, dweight, dx}, D * K * 2);
    shared_.backward(ctx, w.shared, dw.shared, tokens.valid, x, dy, dx, c.shared);
    routing_.backward(ctx, w, dw, tokens, x, dweight, dx, c, loss_scale, dpool);
    if (jitters(ctx)) B::for_each_row(ctx, T, JitterRow<S, R>{dx, dx, R(config().jitter), ctx.random}, D * 4);
  }

  /// Reads back what the last forward pass did.
  RoutingStatistics statistics(Context& ctx, const Cache& c) const { return routing_.statistics(ctx, c); }
  /// The routing losses of the last forward pass with their coefficients, as they enter the total loss.
  double weighted_loss(const RoutingStatistics& s) const { return routing_.weighted_loss(s); }
  /// The choices of the last forward pass, token by token.
  Choices choices(const Tokens& tokens, const Cache& c) const { return routing_.choices(routed(tokens, c), c); }

 private:
  /// The tokens with the mask of those that are routed as their mask.
  Tokens routed(Tokens tokens, const Cache& c) const {
    if (config().route_padding) tokens.valid = c.every;
    return tokens;
  }
  bool jitters(const Context& ctx) const { return ctx.training && config().jitter_experts && config().jitter > 0; }
  PassDroppedRow<P> dropped(const Tokens& tokens, const Cache& c, Matrix<const S> x, Matrix<S> y) const {
    Choices choices = routing_.choices(tokens, c);
    choices.last = static_cast<std::int32_t>(config().dispatched());  // a null is not dropped
    return {choices, c.slot, c.combine, x, y};
  }
  static ExpertRows rows(const Cache& c) { return {c.offsets, c.expert, c.source}; }

  Gating routing_;
  ExpertLayer experts_;
  Free free_;
  Shared shared_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

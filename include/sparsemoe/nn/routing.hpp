// SPDX-License-Identifier: Apache-2.0
// nn/routing.hpp -- the gate of a sparse layer: score -> choose or assign -> capacity -> stable dispatch -> combine
// weights -> losses, and the gradient of each. A router only chooses; it is known here through its traits alone, never
// by name. Read next: nn/moe_config.hpp, nn/check_choices.hpp, nn/dispatch.hpp and nn/routing_losses.hpp, its parts;
// kernels/routing.hpp for each step; nn/moe.hpp, which sends tokens through the experts.
#pragma once

#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/kernels/routing.hpp"
#include "sparsemoe/nn/check_choices.hpp"
#include "sparsemoe/nn/routing_losses.hpp"
#include "sparsemoe/params.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class Spec>
class Routing {
 public:
  using P = typename Spec::Precision;
  using B = typename Spec::Backend;
  using Router = typename Spec::Router;
  using Collective = typename Spec::Collective;
  using Traits = RouterTraits<Router>;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Context = typename B::Context;
  static constexpr bool pooled = Traits::level == Level::sentence;
  static constexpr bool scored = Traits::level == Level::token || pooled;  // scores come from a product with the gate
  using Losses = RoutingLosses<Spec>;
  static constexpr bool importance = Losses::importance, levels = Losses::levels, stack_loss = Losses::stack_loss;
  /// Weights are kept before any is dropped: importance is made of them, and a leaf's weight is a product.
  static constexpr bool normalised_gates = importance || (Traits::two_level && Traits::gate == Gate::normalised);
  static_assert(check_router<Router>() && check_precision<P>());
  static_assert((Traits::gate != Gate::normalised_after_drop && Traits::gate != Gate::own) ||
                    Traits::level == Level::token,
                "router: use Gate::normalised_after_drop and Gate::own at token level only; other levels drop nothing");
  static_assert(!normalised_gates || (Traits::gate == Gate::normalised && Traits::score == Score::softmax),
                "router: use Gate::normalised of a softmax with Balance::importance");

  static constexpr bool checked = detail::check_choices_of<Spec>;
  static constexpr bool own_capacity = requires(const Router r) { r.capacity(index_t(1), true); };

  Routing() = default;
  Routing(const MoeConfig& config, Router router) : config_(config), router_(router) {
    config.check();
    if constexpr (top_k_at_run_time<Router>)
      require(router.experts_per_token() >= 1 && router.experts_per_token() <= Traits::top_k,
              "moe: this router gives a token 1 to ", Traits::top_k, " experts, not ", router.experts_per_token());
    constexpr bool fewer = requires { requires Router::up_to_top_k; };
    require(fewer || top_k() <= config.choices(), "moe: a top-", top_k(),
            " router needs at least that many experts; got ", config.choices());
    require(Traits::can_drop_tokens || (config.capacity_factor <= 0 && config.eval_capacity_factor <= 0),
            pooled || Traits::level == Level::task
                ? "moe: sentence and task routing are dropless, so that a sentence is treated as one; set the capacity "
                  "factors to 0"
            : own_capacity ? "moe: this router has capacities of its own; set the capacity factors to 0"
                           : "moe: this router drops no token; set the capacity factors to 0");
    require(Traits::score == Score::softmax || config.z_coefficient == 0,
            "moe: the z-loss is that of a softmax; a router with sigmoid scores has none");
    require((Traits::level == Level::token && !Traits::two_level) || config.priority == Priority::position ||
                config.priority == Priority::random,
            "moe: slots by score are for routers that score tokens on one level; use position or random");
    require(scored || !config.gate_bias, "moe: this router's gate has no product, and so no bias");
    require(config.balance_scope == LossScope::global || Losses::scoped,
            "moe: the balance loss of groups or sequences is for routers that score tokens and have a balance loss");
    if constexpr (Traits::two_level) {
      require(config.free.count() == 0, "moe: copies, constants and nulls are for routers of one level");
      const GateColumns<Router> c = columns();
      const index_t second_k = std::max<index_t>(c.second_k, Router::second_k);
      require(c.branches >= c.first_k && config.experts % c.branches == 0 && c.per_branch() >= second_k,
              "moe: ", config.experts, " experts do not make ", c.branches, " branches of equal size, at least ",
              c.first_k, " of them with at least ", second_k, " experts each");
    }
  }

  template <class T>
  struct Params {
    Tensor<T> gate;  // (D, E) token and sentence level; (tasks, E) logits at task level; kept in the router's precision
    Tensor<T> noise;      // (D, E) of a router with learned noise
    Tensor<T> bias;       // (1, E) with MoeConfig::gate_bias
    Tensor<T> threshold;  // (1, E) of a router with learned thresholds
    Init init;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      if (gate.rank != 0) f(prefix + "router.weight", gate, Leaf{init, Role::gate});
      if (bias.rank != 0) f(prefix + "router.bias", bias, Leaf{Init::zero().in_router_precision(), Role::gate});
      if (noise.rank != 0) f(prefix + "router.noise", noise, Leaf{Init::zero().in_router_precision(), Role::gate});
      if (threshold.rank != 0)
        f(prefix + "router.threshold", threshold, Leaf{Init::zero().in_router_precision(), Role::gate});
    }
  };
  template <class T>
  void add_params(Params<T>& p) const {
    if constexpr (scored) {
      p.gate = matrix_of<T>(config_.width, columns().count());
      // Noisy routers start from zero: routing is pure noise at first, hence balanced (Shazeer 2017, appendix A).
      p.init = (Traits::noisy ? Init::zero() : Init::normal(config_.gate_deviation)).in_router_precision();
      if (config_.gate_bias) p.bias = matrix_of<T>(1, columns().count());
      if constexpr (Traits::noisy) p.noise = matrix_of<T>(config_.width, columns().count());
      if constexpr (Traits::thresholds) p.threshold = matrix_of<T>(1, config_.choices());
    } else if constexpr (Traits::level == Level::task) {
      p.gate = matrix_of<T>(config_.tasks, config_.choices());
      p.init = Init::normal(config_.task_deviation).in_router_precision();
    }
  }

  using Cache = RoutingCache<R>;

  const MoeConfig& config() const { return config_; }
  const Router& router() const { return router_; }
  void set_router(const Router& router) { router_ = router; }
  /// K: how many experts a token can get.
  index_t top_k() const { return Traits::any_number_of_experts ? config_.choices() : experts_per_token(router_); }
  GateColumns<Router> columns() const { return gate_columns(router_, config_.choices()); }

  /// The choices of the last forward pass, token by token.
  Choices choices(const Tokens& tokens, const Cache& c) const {
    return {units_of(tokens), c.chosen, tokens.valid, top_k()};
  }

  /// Fills the cache: who goes where with which weight, and the losses. Throws Error if a shape does not fit.
  void forward(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Cache& c,
               Collective& comm, Matrix<const R> pool) const {
    const index_t T = tokens.count(), E = config_.choices(), K = top_k();
    require(x.rows == T && x.cols == config_.width, "moe: x is ", x.rows, " x ", x.cols, ", expected ", T, " x ",
            config_.width);
    require(tokens.valid != nullptr, "moe: give the validity mask of the tokens; padding must not be routed");
    require(Traits::level != Level::task || tokens.task != nullptr,
            "moe: task routing needs the task of every sentence");
    require(!config_.external_pool || !scored || pool.rows == (pooled ? tokens.sentences : T),
            "moe: a decoder's sentence router needs the mean that it scores, of every ", pooled ? "sentence" : "token");
    auto& arena = ctx.arena;
    route(ctx, w, tokens, x, c, pool);
    c.slot = arena.template take<std::int32_t>(K * T);
    c.source = arena.template take<std::int32_t>(K * T);
    c.expert = arena.template take<std::int32_t>(K * T);
    c.offsets = arena.template take<std::int32_t>(E + 1);
    c.combine = arena.template take<R>(T * K);
    c.used = arena.template matrix<std::int32_t>(config_.tasks, E);
    c.sums = arena.template take<R>(2 * E + 3);
    c.scope = config_.balance_scope == LossScope::sequence ? std::max<index_t>(tokens.length, 1)
              : config_.balance_scope == LossScope::group  ? group_of(tokens)
                                                           : 0;
    c.coefficient = arena.template take<R>(levels ? columns().count() : E * Losses::scopes(c, T));
    c.balance = arena.template take<R>(1);
    c.rows = most_rows(tokens, ctx.training);
    c.dcombine = {};

    dispatch(ctx, tokens, c);
    combine_weights(ctx, tokens, c);
    if constexpr (checked) check_dispatch(ctx, tokens, c);
    c.unmasked = c.combine;
    if (stack_loss && config_.output_masking > 0) {
      c.unmasked = arena.template take<R>(T * K);
      B::copy(ctx, c.unmasked, c.combine, T * K);
    }
    mask_outputs(ctx, T * K, c.combine);
    const R* thresholds = nullptr;
    if constexpr (Traits::thresholds) thresholds = wide_data<R>(w.threshold.data);
    losses().forward(ctx, choices(tokens, c), tokens, thresholds, c, comm);
  }

  /// The experts that these tokens will be sent to, c.chosen (c.units, K), known before their states are: of a router
  /// whose gate scores tasks or nothing.
  void foresee(Context& ctx, const Params<const S>& w, const Tokens& tokens, Cache& c) const {
    static_assert(!scored, "moe: a gate that scores states knows no choice before it has seen them");
    route(ctx, w, tokens, {}, c, {});
  }

  /// dweight (T, K) is the gradient of the combine weights, 0 for what was dropped; it is consumed. dw +=, dx +=,
  /// dpool += (if given).
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens, Matrix<const S> x,
                R* dweight, Matrix<S> dx, const Cache& c, double loss_scale, Matrix<R> dpool) const {
    if constexpr (Traits::learned) {
      auto& arena = ctx.arena;
      const index_t T = tokens.count(), E = config_.choices(), K = top_k();
      mask_outputs(ctx, T * K, dweight);
      if (!c.dcombine.empty()) B::for_each_index(ctx, T * K, AddScaled<R>{c.dcombine.data, R(loss_scale), dweight});
      const Matrix<R> dscores = arena.template matrix<R>(c.units, columns().count());
      R* dunit = dweight;
      if constexpr (Traits::level != Level::token) {
        dunit = arena.template take<R>(c.units * K);
        B::for_each_index(ctx, c.units * K, UnitWeightGradient<R>{units_of(tokens), tokens, K, dweight, dunit});
      }
      if constexpr (importance)
        B::for_each_index(ctx, c.units * K,
                          AddImportanceGradient<R>{c.importance_slope, R(config_.importance_coefficient * loss_scale),
                                                   c.chosen, c.weight, K, dunit});
      const R z = R(config_.z_coefficient * loss_scale);
      if constexpr (levels) {
        B::for_each_row(ctx, c.units,
                        LevelsBackwardRow<Router, R>{router_, columns(), c.scores, c.chosen, c.weight, c.slot, dunit,
                                                     c.coefficient, R(config_.balance_coefficient * loss_scale), z,
                                                     c.lse, c.sums + 2 * E + 2, dscores},
                        dscores.cols * 4);
      } else if constexpr (Traits::two_level) {
        B::for_each_row(ctx, c.units,
                        TwoLevelBackwardRow<Router, R>{columns(), c.scores, c.chosen, c.weight, dunit, z, c.lse,
                                                       c.sums + 2 * E + 2, dscores},
                        dscores.cols * 4);
      } else {
        constexpr bool balanced = Traits::balance != Balance::none && !importance;
        const R balance = R(config_.balance_coefficient * loss_scale);
        B::for_each_row(ctx, c.units,
                        GateBackwardRow<Router, R>{c.scores, c.chosen, c.weight, c.slot, T, K, dunit,
                                                   balanced ? c.coefficient : nullptr, balance, z, c.lse,
                                                   c.sums + 2 * E + 2, dscores, weight_scale(), c.disagreement,
                                                   R(config_.threshold_coefficient * loss_scale), c.scope, router_},
                        E * 8);
      }
      if constexpr (Traits::noisy)
        if (ctx.training) noise_backward(ctx, w, dw, tokens, x, dx, c, dscores, loss_scale, dpool);
      if constexpr (Traits::thresholds)
        if (!c.disagreement.empty())
          add_column_sums<B>(ctx, c.units, E,
                             ThresholdGradientTerm<R>{c.disagreement, R(config_.threshold_coefficient * loss_scale),
                                                      c.sums + 2 * E + 2},
                             dw.threshold.data);
      gate_backward(ctx, w, dw, tokens, x, dx, c, dscores, dpool);
    }
  }

  RoutingStatistics statistics(Context& ctx, const Cache& c) const { return losses().statistics(ctx, c); }
  double weighted_loss(const RoutingStatistics& s) const { return losses().weighted(s); }

 private:
  /// Scores and choices.
  void route(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Cache& c,
             Matrix<const R> pool) const {
    auto& arena = ctx.arena;
    c.units = pooled ? tokens.sentences : Traits::level == Level::task ? config_.tasks : tokens.count();
    c.weight = arena.template take<std::int32_t>(c.units);
    c.chosen = arena.template take<std::int32_t>(c.units * top_k());
    c.lse = Traits::learned ? arena.template take<R>(c.units) : nullptr;
    c.entropy = Traits::learned ? arena.template take<R>(c.units) : nullptr;
    B::for_each_index(ctx, c.units, UnitWeights{units_of(tokens), tokens, c.weight});
    score(ctx, w, tokens, x, c, pool);
    choose(ctx, w, tokens, c);
    if constexpr (checked) {
      std::vector<std::int32_t> chosen, weight;
      detail::check_choices<Router>(detail::on_host<B>(ctx, c.chosen, c.units * top_k(), chosen),
                                    detail::on_host<B>(ctx, c.weight, c.units, weight), c.units, top_k(),
                                    config_.choices());
    }
  }
  /// Of what was kept: there is room for it, and its weights are numbers.
  void check_dispatch(Context& ctx, const Tokens& tokens, const Cache& c) const {
    std::vector<std::int32_t> last;
    const index_t kept = *detail::on_host<B>(ctx, c.offsets + config_.dispatched(), 1, last);
    if (kept > c.rows)
      throw RouterError(join("router: ", kept, " choices were kept, but most_choices() said at most ", c.rows));
    if constexpr (B::host_memory)
      detail::check_weights<Router>(c.combine, c.scores.as_const(), choices(tokens, c), tokens.count());
  }
  static Units units_of(const Tokens& tokens) { return {Traits::level, tokens.length, tokens.task}; }
  /// Slots of an expert for a group of `tokens`; 0: no limit. A router may say it in place of the configuration.
  std::int32_t capacity(index_t tokens, bool training) const {
    if constexpr (own_capacity)
      return router_.capacity(tokens, training);
    else
      return config_.capacity(tokens, training);
  }
  R weight_scale() const {
    if constexpr (requires { router_.weight_scale; })
      return R(router_.weight_scale);
    else
      return R(1);
  }
  /// Tokens routed together. A router may say that without other orders these are the tokens of one sentence.
  index_t group_of(const Tokens& tokens) const {
    const index_t T = std::max<index_t>(tokens.count(), 1);
    if (config_.group > 0) return std::min(config_.group, T);
    if constexpr (requires { requires Router::sentence_groups; }) return std::max<index_t>(tokens.length, 1);
    return T;
  }
  index_t most_rows(const Tokens& tokens, bool training) const {
    const index_t T = tokens.count();
    if constexpr (requires { router_.most_choices(index_t(1), index_t(1), true); }) {
      const index_t group = group_of(tokens), groups = (T + group - 1) / group;
      return std::min(T * top_k(), groups * router_.most_choices(group, config_.choices(), training));
    }
    return T * top_k();
  }
  Losses losses() const { return {config_, router_, columns(), top_k()}; }
  /// True where the gate reads x itself: same type, no jitter.
  bool reads_x(const Context& ctx) const {
    return std::is_same_v<S, R> && !pooled && !config_.external_pool && !(jitter(ctx) > 0);
  }
  /// Of the gate's input alone; with jitter_experts x comes with it.
  double jitter(const Context& ctx) const { return ctx.training && !config_.jitter_experts ? config_.jitter : 0; }
  RouterInputRow<S, R> router_copy(const Context& ctx, Matrix<const S> x, Matrix<R> y) const {
    return {x, y, R(jitter(ctx)), ctx.random};
  }
  void score(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Cache& c,
             Matrix<const R> pool) const {
    const index_t n = columns().count();
    if constexpr (Traits::learned) c.scores = ctx.arena.template matrix<R>(c.units, n);
    if constexpr (Traits::level == Level::task) {
      B::copy(ctx, c.scores.data, wide_data<R>(w.gate.data), c.units * n);
    } else if constexpr (scored) {
      router_input(ctx, tokens, x, c, pool);
      const bool noise = Traits::noisy && ctx.training;
      if (noise) c.clean = ctx.arena.template matrix<R>(c.units, n);
      const Matrix<R> logits = noise ? c.clean : c.scores;
      product(ctx, w.gate, x, c, logits);
      if (config_.gate_bias) B::for_each_index(ctx, logits.size(), AddGateBias<R>{wide_data<R>(w.bias.data), logits});
      if constexpr (Traits::noisy) add_noise(ctx, w, x, c);
    }
  }
  /// The noisy logits become the scores; outside of training there are none.
  void add_noise(Context& ctx, const Params<const S>& w, Matrix<const S> x, Cache& c) const {
    const index_t n = columns().count();
    c.threshold = {};
    if (!ctx.training) return;
    c.raw = ctx.arena.template matrix<R>(c.units, n);
    c.noisy = ctx.arena.template matrix<R>(c.units, n);
    c.threshold = ctx.arena.template matrix<std::int32_t>(c.units, 2 * columns().parts());
    product(ctx, w.noise, x, c, c.raw);
    B::for_each_row(
        ctx, c.units,
        NoisyLogitsRow<Router, R>{{router_, c.clean, c.raw, c.noisy, ctx.random}, columns(), c.scores, c.threshold},
        n * 32);
  }
  /// What the gate reads, where it is not x itself.
  void router_input(Context& ctx, const Tokens& tokens, Matrix<const S> x, Cache& c, Matrix<const R> pool) const {
    c.router_input = {};
    if (reads_x(ctx)) return;
    c.router_input = ctx.arena.template matrix<R>(c.units, config_.width);
    if (config_.external_pool) {
      B::copy(ctx, c.router_input.data, pool.data, pool.size());
    } else if constexpr (pooled) {
      B::for_each_row(ctx, c.units, SentenceMeanRow<S, R>{x, tokens, c.router_input}, tokens.length * config_.width);
    } else {
      B::for_each_row(ctx, c.units, router_copy(ctx, x, c.router_input), config_.width);
    }
  }
  /// out = (router input) weight
  void product(Context& ctx, const Tensor<const S>& weight, Matrix<const S> x, const Cache& c, Matrix<R> out) const {
    const Matrix<const R> gate(wide_data<R>(weight.data), config_.width, out.cols);
    if constexpr (std::is_same_v<S, R> && !pooled)
      if (reads_x(ctx)) return B::gemm(ctx, Op::none, Op::none, 1, x, gate, false, out);
    B::gemm(ctx, Op::none, Op::none, 1, c.router_input.as_const(), gate, false, out);
  }
  void choose(Context& ctx, [[maybe_unused]] const Params<const S>& w, const Tokens& tokens, Cache& c) const {
    const index_t E = config_.choices();
    if constexpr (Traits::assigns && Traits::score == Score::sigmoid) {
      c.logits = ctx.arena.template matrix<R>(c.units, E);
      B::copy(ctx, c.logits.data, c.scores.data, c.scores.size());
    }
    B::for_each_row(
        ctx, c.units,
        RouteRow<Router, R>{router_, c.scores.empty() ? Matrix<R>(nullptr, c.units, E) : c.scores, units_of(tokens),
                            tokens, c.weight, ctx.training, ctx.random, c.chosen, c.lse, c.entropy},
        columns().count() * 16);
    if constexpr (Traits::assigns) {
      typename Arena<typename B::Memory>::Scope scope(ctx.arena);
      const index_t T = tokens.count(), group = group_of(tokens), groups = (T + group - 1) / group;
      std::int32_t* order = ctx.arena.template take<std::int32_t>(T * E);
      R* values = ctx.arena.template take<R>(groups * 2 * (group + E));
      const R* thresholds = nullptr;
      if constexpr (Traits::thresholds) thresholds = wide_data<R>(w.threshold.data);
      const Matrix<std::int32_t> chosen(c.chosen, T, top_k());
      const std::int32_t slots = capacity(group, ctx.training);
      B::for_each_row(ctx, groups,
                      AssignGroupRow<Router, R>{router_, c.scores, c.logits, thresholds, tokens.valid, chosen, group,
                                                slots, ctx.training, ctx.random, order, values},
                      group * E * 64);
    }
  }
  void combine_weights(Context& ctx, const Tokens& tokens, Cache& c) const {
    const index_t T = tokens.count(), K = top_k();
    if constexpr (normalised_gates) {
      c.gates = ctx.arena.template take<R>(c.units * K);
      B::for_each_index(ctx, c.units, GateWeights<Router, R>{columns(), c.scores, c.chosen, c.weight, c.gates});
      B::for_each_index(ctx, T * K, KeptGates<R>{c.gates, c.slot, T, K, c.combine});
    } else {
      B::for_each_index(
          ctx, T,
          CombineWeights<Router, R>{choices(tokens, c), c.scores, c.slot, T, c.combine, weight_scale(), router_});
    }
  }
  void mask_outputs(Context& ctx, index_t n, R* weight) const {
    if (config_.output_masking > 0)
      B::for_each_index(ctx, n, MaskOutputs<R>{R(config_.output_masking), ctx.training, ctx.random, weight});
  }
  /// dscores becomes the gradient of the clean logits; that of the noise's product goes to dw.noise and dx.
  void noise_backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens,
                      Matrix<const S> x, Matrix<S> dx, const Cache& c, Matrix<R> dscores, double loss_scale,
                      Matrix<R> dpool) const {
    const Matrix<R> draw = ctx.arena.template matrix<R>(c.units, dscores.cols);
    R* load = nullptr;
    if constexpr (importance) {
      load = ctx.arena.template take<R>(dscores.cols);
      B::for_each_index(
          ctx, dscores.cols,
          ScaleSlope<R>{c.importance_slope + config_.choices(), R(config_.load_coefficient * loss_scale), load});
    }
    B::for_each_row(ctx, c.units, NoiseBackwardRow<Router, R>{losses().load_term(ctx, c), load, dscores, draw},
                    dscores.cols * 64);
    product_backward(ctx, w.noise, dw.noise, tokens, x, dx, c, draw, dpool);
  }
  void gate_backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens,
                     Matrix<const S> x, Matrix<S> dx, const Cache& c, Matrix<R> dscores, Matrix<R> dpool) const {
    if constexpr (Traits::level == Level::task) {
      B::for_each_index(ctx, dscores.size(), AddTo<R, A, R>{dscores.data, dw.gate.data});
    } else if constexpr (scored) {
      if (config_.gate_bias) add_column_sums<B>(ctx, c.units, dscores.cols, ElementTerm<R, A>{dscores}, dw.bias.data);
      product_backward(ctx, w.gate, dw.gate, tokens, x, dx, c, dscores, dpool);
    }
  }
  /// d(weight) += (router input)^T d, and d weight^T to what the gate read: dpool, the sentence's tokens, or x.
  void product_backward(Context& ctx, const Tensor<const S>& weight, const Tensor<A>& dweight, const Tokens& tokens,
                        Matrix<const S> x, Matrix<S> dx, const Cache& c, Matrix<const R> d, Matrix<R> dpool) const {
    const Matrix<const R> gate(wide_data<R>(weight.data), config_.width, d.cols);
    if constexpr (std::is_same_v<S, R> && !pooled) {
      if (reads_x(ctx)) {
        B::gemm(ctx, Op::transpose, Op::none, 1, x, d, true, dweight.matrix());
        B::gemm(ctx, Op::none, Op::transpose, 1, d, gate, true, dx);
        return;
      }
    }
    B::gemm(ctx, Op::transpose, Op::none, 1, c.router_input.as_const(), d, true, dweight.matrix());
    const Matrix<R> dinput = ctx.arena.template matrix<R>(c.units, config_.width);
    B::gemm(ctx, Op::none, Op::transpose, 1, d, gate, false, dinput);
    if (config_.external_pool) {
      if (!dpool.empty()) B::for_each_index(ctx, dinput.size(), AddTo<R, R, R>{dinput.data, dpool.data});
    } else if constexpr (pooled) {
      B::for_each_row(ctx, tokens.count(), SentenceMeanBackwardRow<S, R>{dinput, tokens, c.weight, dx}, config_.width);
    } else {
      B::for_each_row(ctx, c.units, RouterInputBackwardRow<S, R>{router_copy(ctx, x, {}), dinput, dx}, config_.width);
    }
  }
  void dispatch(Context& ctx, const Tokens& tokens, Cache& c) const {
    const index_t group = group_of(tokens);
    c.capacity = capacity(group, ctx.training);
    Choices dispatched = choices(tokens, c);
    dispatched.last = static_cast<std::int32_t>(config_.dispatched());
    assign_slots<B, R>(ctx, dispatched, {tokens.count(), top_k(), group},
                       {c.capacity, Traits::rejected_consumes_slot, config_.priority, config_.experts},
                       config_.dispatched(), c.scores, columns().branches, {c.slot, c.source, c.offsets, c.expert});
  }

  MoeConfig config_;
  Router router_{};
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

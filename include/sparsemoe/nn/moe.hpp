// nn/moe.hpp -- the sparse layer, the heart of the library:
//   score -> choose -> weight -> capacity or dropless -> stable dispatch -> experts -> gather combine -> losses,
// and the gradient of each. A router only chooses; it is known here through its traits alone, never by name.
// Work and memory grow with the tokens routed. Read next: kernels/routing.hpp for each step, routers/ for the policies.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sparsemoe/kernels/dispatch.hpp"
#include "sparsemoe/kernels/gate.hpp"
#include "sparsemoe/kernels/routing.hpp"
#include "sparsemoe/nn/experts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

enum class CapacityRounding { floor, round, ceil };

struct MoeConfig {
  index_t experts = 8, width = 0, hidden = 0;
  index_t tasks = 1;
  bool bias = false;                // of the experts
  double capacity_factor = 0;       // training: slots = factor * top_k-free share S / E; 0: dropless
  double eval_capacity_factor = 0;  // evaluation is dropless unless asked otherwise
  index_t min_capacity = 4;
  CapacityRounding rounding = CapacityRounding::floor;
  index_t group = 0;                  // tokens routed together (GShard's S); 0: the whole batch
  double balance_coefficient = 1e-2;  // alpha of E sum f P
  double z_coefficient = 0;           // ST-MoE router z-loss
  double jitter = 0;                  // the router's input times U(1 - jitter, 1 + jitter), training only
  double expert_dropout = 0;
  double init_scale = 1;  // s of sqrt(s / fan_in); Switch recommends 0.1
  double gate_deviation = 0.02;
  double task_deviation = 0.1;                 // of a task router's table of logits
  WeightForm expert_form = WeightForm::plain;  // of the experts' matrices in memory; any other only to infer
  bool external_pool = false;  // the gate scores rows given by the caller, not x: a decoder's sentence routers

  /// Throws Error for what cannot work.
  void check() const {
    require(experts >= 1 && width >= 1 && hidden >= 1, "moe: experts, width and hidden must be at least 1; got ",
            experts, ", ", width, " and ", hidden);
    require(tasks >= 1, "moe: tasks must be at least 1; got ", tasks);
    require(capacity_factor >= 0 && eval_capacity_factor >= 0,
            "moe: a capacity factor must not be negative (0 is dropless); got ", capacity_factor, " and ",
            eval_capacity_factor);
    require(jitter >= 0 && jitter < 1, "moe: jitter must be in [0, 1); got ", jitter);
    require(expert_dropout >= 0 && expert_dropout < 1, "moe: expert dropout must be in [0, 1); got ", expert_dropout);
  }
  /// Slots of an expert for a group of `tokens` (semantics: C = clamp(round(cf S / E), min, S)); 0 is no limit.
  std::int32_t capacity(index_t tokens, bool training) const {
    const double factor = training ? capacity_factor : eval_capacity_factor;
    if (factor <= 0) return 0;
    const double share = factor * static_cast<double>(tokens) / static_cast<double>(experts);
    const double whole = rounding == CapacityRounding::floor  ? std::floor(share)
                         : rounding == CapacityRounding::ceil ? std::ceil(share)
                                                              : std::nearbyint(share);
    return static_cast<std::int32_t>(
        std::clamp<double>(whole, static_cast<double>(std::min(min_capacity, tokens)), static_cast<double>(tokens)));
  }
};

/// What a forward pass of a sparse layer did, on the host.
struct RoutingStatistics {
  double balance = 0, z = 0, entropy = 0;  // losses without coefficients; mean entropy of the gate in nats
  double tokens = 0;                       // valid tokens (of all ranks)
  double choices = 0, dropped = 0;         // of this rank
  std::vector<std::int64_t> load;          // (E) choices before dropping
  std::vector<std::int32_t> usage;         // (tasks, E)
  index_t tasks = 0, experts = 0;
};

/// An index functor whose index is a long piece of work, run as a row by one lane.
template <class F>
struct OneLaneRow {
  F f;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    if (team.lane() == 0) f(i);
  }
};

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
  using ExpertLayer = Experts<P, B, Act>;
  static constexpr int K = Router::top_k;
  static constexpr bool pooled = Traits::level == Level::sentence;
  static constexpr bool scored = Traits::level == Level::token || pooled;  // scores come from a product with the gate
  static_assert(check_router<Router>() && check_precision<P>());
  static_assert(Traits::gate != Gate::normalised_after_drop || Traits::level == Level::token,
                "router: use Gate::normalised_after_drop at token level only; other levels drop nothing");

  MoE() = default;
  explicit MoE(const MoeConfig& config, Router router = {}) : config_(config), router_(router) {
    config.check();
    require(Traits::top_k <= config.experts, "moe: a top-", Traits::top_k,
            " router needs at least that many experts; got ", config.experts);
    require(Traits::can_drop_tokens || (config.capacity_factor <= 0 && config.eval_capacity_factor <= 0),
            "moe: sentence and task routing are dropless, so that a sentence is treated as one; set the capacity "
            "factors to 0");
    experts_ = {config.experts,        config.width,      config.hidden,     config.bias,
                config.expert_dropout, config.init_scale, config.expert_form};
  }

  template <class T>
  struct Params {
    Tensor<T> gate;  // (D, E) token and sentence level; (tasks, E) logits at task level; kept in the router's precision
    typename ExpertLayer::template Params<T> experts;
    Init init;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      if (gate.rank != 0) f(prefix + "router.weight", gate, init);
      experts.visit(prefix + "experts.", f);
    }
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    p.experts = experts_.template params<T>();
    if constexpr (scored) {
      p.gate = matrix_of<T>(config_.width, config_.experts);
      p.init = Init::normal(config_.gate_deviation).in_router_precision();
    } else if constexpr (Traits::level == Level::task) {
      p.gate = matrix_of<T>(config_.tasks, config_.experts);
      p.init = Init::normal(config_.task_deviation).in_router_precision();
    }
    return p;
  }

  struct Cache {
    index_t units = 0;
    Matrix<R> router_input;                             // (U, D) where it differs from x
    Matrix<R> scores;                                   // (U, E) probabilities
    std::int32_t *chosen = nullptr, *weight = nullptr;  // (U, K), (U) valid tokens of a unit
    R *lse = nullptr, *entropy = nullptr;               // (U)
    std::int32_t *slot = nullptr, *source = nullptr, *offsets = nullptr, *expert = nullptr;
    R* combine = nullptr;       // (T, K)
    Matrix<std::int32_t> used;  // (tasks, E)
    R *sums = nullptr, *coefficient = nullptr, *balance = nullptr;
    Matrix<S> inputs, outputs;  // (T K, D) sorted by expert
    typename ExpertLayer::Cache experts;
    std::int32_t capacity = 0;
    std::vector<std::uint8_t> fetched;  // (E) experts that fetch() asked for since position 0
  };

  const MoeConfig& config() const { return config_; }
  const Router& router() const { return router_; }
  void set_router(const Router& router) { router_ = router; }

  /// x (T, D) -> y (T, D). Padding gives 0, takes no slot and is in no loss. `pool`: what the gate scores when
  /// config.external_pool, (sentences, D) at sentence level and (T, D) at token level; `comm` makes the balance loss
  /// that of the global batch. Throws Error if a shape does not fit or the validity mask is missing.
  void forward(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Matrix<S> y, Cache& c,
               Collective& comm, Matrix<const R> pool = {}) const {
    const index_t T = tokens.count(), E = config_.experts;
    require(x.rows == T && y.rows == T && x.cols == config_.width && y.cols == config_.width, "moe: x is ", x.rows,
            " x ", x.cols, " and y ", y.rows, " x ", y.cols, ", expected ", T, " x ", config_.width);
    require(tokens.valid != nullptr, "moe: give the validity mask of the tokens; padding must not be routed");
    require(Traits::level != Level::task || tokens.task != nullptr,
            "moe: task routing needs the task of every sentence");
    require(!config_.external_pool || !scored || pool.rows == (pooled ? tokens.sentences : T),
            "moe: a decoder's sentence router needs the mean that it scores, of every ", pooled ? "sentence" : "token");
    auto& arena = ctx.arena;
    c.slot = arena.template take<std::int32_t>(K * T);
    c.source = arena.template take<std::int32_t>(K * T);
    c.expert = arena.template take<std::int32_t>(K * T);
    c.offsets = arena.template take<std::int32_t>(E + 1);
    c.combine = arena.template take<R>(T * K);
    c.used = arena.template matrix<std::int32_t>(config_.tasks, E);
    c.sums = arena.template take<R>(2 * E + 3);
    c.coefficient = arena.template take<R>(E);
    c.balance = arena.template take<R>(1);
    c.inputs = arena.template matrix<S>(T * K, config_.width);
    c.outputs = arena.template matrix<S>(T * K, config_.width);

    choose(ctx, w, tokens, x, c, pool);
    dispatch(ctx, tokens, c);
    B::for_each_index(ctx, T, CombineWeights<Router, R>{choices(tokens, c), c.scores, c.slot, T, c.combine});
    losses(ctx, tokens, c, comm);

    B::for_each_row(ctx, T * K, GatherRow<S>{x, c.source, c.offsets + E, T, c.inputs}, config_.width);
    experts_.forward(ctx, w.experts, c.inputs.as_const(), {c.offsets, c.expert, c.source}, c.outputs, c.experts);
    B::for_each_row(ctx, T, CombineRow<P>{c.outputs, c.slot, c.combine, K, y}, config_.width * K);
  }

  /// Experts that stay in a file: asks the system to read those that these tokens will need, before the stack runs, if
  /// the choice does not depend on its states (by task, or by nothing learned). Others are read when they are used.
  void fetch(Context& ctx, const Params<const S>& w, const Tokens& tokens, Cache& c) const {
    if constexpr (!scored && B::host_memory) {
      if (config_.expert_form != WeightForm::file) return;
      if (tokens.position == 0) c.fetched.assign(static_cast<std::size_t>(config_.experts), 0);
      typename Arena<typename B::Memory>::Scope scope(ctx.arena);
      Cache now;
      choose(ctx, w, tokens, {}, now, {});
      for (index_t i = 0; i < now.units * K; ++i) {
        const std::int32_t e = now.chosen[i];
        if (e < 0 || c.fetched[static_cast<std::size_t>(e)] != 0) continue;
        c.fetched[static_cast<std::size_t>(e)] = 1;
        experts_.fetch(w.experts, e);
      }
    }
  }
  /// dw +=, dx =, dpool += (if given). loss_scale multiplies the gradient of the routing losses: 1, or what the caller
  /// scales the whole loss by. dcombine (T, K): the gradient of a loss on the combine weights themselves, if there is
  /// one.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens, Matrix<const S> x,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c, double loss_scale = 1, Matrix<R> dpool = {},
                Matrix<const R> dcombine = {}) const {
    auto& arena = ctx.arena;
    typename Arena<typename B::Memory>::Scope scope(arena);
    const index_t T = tokens.count(), E = config_.experts;
    const Matrix<S> doutputs = arena.template matrix<S>(T * K, config_.width);
    const Matrix<S> dinputs = arena.template matrix<S>(T * K, config_.width);
    R* dweight = arena.template take<R>(T * K);
    B::for_each_index(ctx, T * K, KeptWeightGradient<R>{dcombine, c.slot, dweight, T, K});
    B::for_each_row(ctx, T * K,
                    CombineBackwardRow<P>{dy, c.outputs, c.source, c.offsets + E, c.combine, K, T, doutputs, dweight},
                    config_.width * 3);
    experts_.backward(ctx, w.experts, dw.experts, c.inputs.as_const(), {c.offsets, c.expert, c.source},
                      doutputs.as_const(), dinputs, c.experts);
    B::for_each_row(ctx, T, GatherBackwardRow<P>{dinputs, c.slot, K, dx}, config_.width * K);
    if constexpr (Traits::learned) {
      const Matrix<R> dscores = arena.template matrix<R>(c.units, E);
      const R* dunit = dweight;
      if constexpr (Traits::level != Level::token) {
        R* sums = arena.template take<R>(c.units * K);
        B::for_each_index(ctx, c.units * K, UnitWeightGradient<R>{units_of(tokens), tokens, K, dweight, sums});
        dunit = sums;
      }
      constexpr bool balanced = Traits::balance != Balance::none;
      B::for_each_row(
          ctx, c.units,
          GateBackwardRow<Router, R>{c.scores, c.chosen, c.weight, c.slot, T, dunit, balanced ? c.coefficient : nullptr,
                                     R(config_.balance_coefficient * loss_scale), R(config_.z_coefficient * loss_scale),
                                     c.lse, c.sums + 2 * E + 2, dscores},
          E * 8);
      gate_backward(ctx, w, dw, tokens, x, dx, c, dscores, dpool);
    }
  }

  /// Reads back what the last forward pass did.
  RoutingStatistics statistics(Context& ctx, const Cache& c) const {
    const index_t E = config_.experts;
    RoutingStatistics s;
    std::vector<R> sums(static_cast<std::size_t>(2 * E + 3));
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(E + 1));
    R balance = 0;
    s.tasks = config_.tasks;
    s.experts = E;
    s.usage.resize(static_cast<std::size_t>(config_.tasks * E));
    B::copy_to_host(ctx, s.usage.data(), c.used.data, config_.tasks * E);
    B::copy_to_host(ctx, sums.data(), c.sums, 2 * E + 3);
    B::copy_to_host(ctx, offsets.data(), c.offsets, E + 1);
    B::copy_to_host(ctx, &balance, c.balance, 1);
    s.tokens = static_cast<double>(sums[static_cast<std::size_t>(2 * E + 2)]);
    s.balance = static_cast<double>(balance);
    if (s.tokens > 0) {
      s.z = static_cast<double>(sums[static_cast<std::size_t>(2 * E)]) / s.tokens;
      s.entropy = static_cast<double>(sums[static_cast<std::size_t>(2 * E + 1)]) / s.tokens;
    }
    s.load.assign(static_cast<std::size_t>(E), 0);
    for (index_t t = 0; t < config_.tasks; ++t)
      for (index_t e = 0; e < E; ++e)
        s.load[static_cast<std::size_t>(e)] += s.usage[static_cast<std::size_t>(t * E + e)];
    for (const auto n : s.load) s.choices += static_cast<double>(n);
    s.dropped = s.choices - static_cast<double>(offsets.back());
    return s;
  }
  /// The routing losses of the last forward pass with their coefficients, as they enter the total loss.
  double weighted_loss(const RoutingStatistics& s) const {
    return (Traits::balance != Balance::none ? config_.balance_coefficient * s.balance : 0) +
           config_.z_coefficient * s.z;
  }

 private:
  static Units units_of(const Tokens& tokens) { return {Traits::level, tokens.length, tokens.task}; }
  static Choices choices(const Tokens& tokens, const Cache& c) { return {units_of(tokens), c.chosen, tokens.valid, K}; }
  /// True where the gate reads x itself: same type, no jitter.
  bool reads_x(const Context& ctx) const {
    return std::is_same_v<S, R> && !pooled && !config_.external_pool && !(ctx.training && config_.jitter > 0);
  }
  RouterInputRow<S, R> router_copy(const Context& ctx, Matrix<const S> x, Matrix<R> y) const {
    return {x, y, ctx.training ? R(config_.jitter) : R(0), ctx.random};
  }
  /// The router's choices of every unit, and what their gradient needs.
  void choose(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Cache& c,
              Matrix<const R> pool) const {
    auto& arena = ctx.arena;
    const Units units = units_of(tokens);
    c.units = Traits::level == Level::sentence ? tokens.sentences
              : Traits::level == Level::task   ? config_.tasks
                                               : tokens.count();
    c.weight = arena.template take<std::int32_t>(c.units);
    c.chosen = arena.template take<std::int32_t>(c.units * K);
    c.lse = Traits::learned ? arena.template take<R>(c.units) : nullptr;
    c.entropy = Traits::learned ? arena.template take<R>(c.units) : nullptr;
    B::for_each_index(ctx, c.units, UnitWeights{units, tokens, c.weight});
    score(ctx, w, tokens, x, c, pool);
    B::for_each_row(
        ctx, c.units,
        RouteRow<Router, R>{router_, c.scores.empty() ? Matrix<R>(nullptr, c.units, config_.experts) : c.scores, units,
                            tokens, c.weight, ctx.training, ctx.random, c.chosen, c.lse, c.entropy},
        config_.experts * 16);
  }
  void score(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<const S> x, Cache& c,
             Matrix<const R> pool) const {
    const index_t E = config_.experts;
    if constexpr (Traits::learned) c.scores = ctx.arena.template matrix<R>(c.units, E);
    if constexpr (Traits::level == Level::task) {
      B::copy(ctx, c.scores.data, wide_data<R>(w.gate.data), c.units * E);
    } else if constexpr (scored) {
      const Matrix<const R> gate(wide_data<R>(w.gate.data), config_.width, E);
      if constexpr (std::is_same_v<S, R> && !pooled) {
        if (reads_x(ctx)) return B::gemm(ctx, Op::none, Op::none, 1, x, gate, false, c.scores);
      }
      c.router_input = ctx.arena.template matrix<R>(c.units, config_.width);
      if (config_.external_pool) {
        B::copy(ctx, c.router_input.data, pool.data, pool.size());
      } else if constexpr (pooled) {
        B::for_each_row(ctx, c.units, SentenceMeanRow<S, R>{x, tokens, c.router_input}, tokens.length * config_.width);
      } else {
        B::for_each_row(ctx, c.units, router_copy(ctx, x, c.router_input), config_.width);
      }
      B::gemm(ctx, Op::none, Op::none, 1, c.router_input.as_const(), gate, false, c.scores);
    }
  }
  void gate_backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, const Tokens& tokens,
                     Matrix<const S> x, Matrix<S> dx, const Cache& c, Matrix<R> dscores, Matrix<R> dpool) const {
    if constexpr (Traits::level == Level::task) {
      B::for_each_index(ctx, dscores.size(), AddTo<R, A, R>{dscores.data, dw.gate.data});
    } else if constexpr (scored) {
      const index_t E = config_.experts;
      const Matrix<const R> gate(wide_data<R>(w.gate.data), config_.width, E);
      const Matrix<const R> d = dscores;
      if constexpr (std::is_same_v<S, R> && !pooled) {
        if (reads_x(ctx)) {
          B::gemm(ctx, Op::transpose, Op::none, 1, x, d, true, dw.gate.matrix());
          B::gemm(ctx, Op::none, Op::transpose, 1, d, gate, true, dx);
          return;
        }
      }
      B::gemm(ctx, Op::transpose, Op::none, 1, c.router_input.as_const(), d, true, dw.gate.matrix());
      const Matrix<R> dinput = ctx.arena.template matrix<R>(c.units, config_.width);
      B::gemm(ctx, Op::none, Op::transpose, 1, d, gate, false, dinput);
      if (config_.external_pool) {
        if (!dpool.empty()) B::for_each_index(ctx, dinput.size(), AddTo<R, R, R>{dinput.data, dpool.data});
      } else if constexpr (pooled) {
        B::for_each_row(ctx, tokens.count(), SentenceMeanBackwardRow<S, R>{dinput, tokens, c.weight, dx},
                        config_.width);
      } else {
        B::for_each_row(ctx, c.units, RouterInputBackwardRow<S, R>{router_copy(ctx, x, {}), dinput, dx}, config_.width);
      }
    }
  }
  void dispatch(Context& ctx, const Tokens& tokens, Cache& c) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t T = tokens.count(), E = config_.experts;
    const index_t group =
        config_.group > 0 ? std::min(config_.group, std::max<index_t>(T, 1)) : std::max<index_t>(T, 1);
    const SlotOrder order{T, K, group};
    const index_t chunks = order.chunks();
    c.capacity = config_.capacity(group, ctx.training);
    constexpr bool consumes = Traits::rejected_consumes_slot;
    auto matrix = [&] {
      return Matrix<std::int32_t>(ctx.arena.template take<std::int32_t>(E * chunks + 1), E, chunks);
    };
    const Matrix<std::int32_t> kept = matrix(), next = matrix();
    Matrix<std::int32_t> position, first;
    if (c.capacity > 0) {
      const Matrix<std::int32_t> count = matrix();
      position = matrix();
      first = matrix();
      B::for_each_row(ctx, chunks, OneLaneRow<CountChoices>{{choices(tokens, c), order, consumes, count}},
                      SlotOrder::run);
      B::exclusive_scan(ctx, count.data, position.data, E * chunks);
      B::copy(ctx, first.data, position.data, E * chunks);
    }
    B::for_each_row(
        ctx, chunks,
        OneLaneRow<KeepChoices>{{choices(tokens, c), order, consumes, c.capacity, position, first, kept, c.slot}},
        SlotOrder::run);
    B::zero(ctx, kept.data + E * chunks, 1);
    B::exclusive_scan(ctx, kept.data, next.data, E * chunks + 1);
    B::for_each_index(ctx, E + 1, SlotOffsets{next.data, chunks, c.offsets});
    B::for_each_row(ctx, chunks, OneLaneRow<AssignSlots>{{choices(tokens, c), order, next, c.slot, c.source}},
                    SlotOrder::run);
    B::for_each_row(ctx, E, OneLaneRow<SlotExpert>{{c.offsets, c.expert}}, T * K / E + 1);
  }
  void losses(Context& ctx, const Tokens& tokens, Cache& c, Collective& comm) const {
    const index_t E = config_.experts;
    const index_t counted = Traits::balance == Balance::first_choice ? 1 : K;
    B::zero(ctx, c.sums, 2 * E + 3);
    if constexpr (Traits::balance == Balance::first_choice) {
      B::for_each_row(ctx, config_.tasks, OneLaneRow<CountUsage>{{choices(tokens, c), tokens, counted, c.used}},
                      tokens.count());
      B::for_each_index(ctx, E, ChoiceCounts<R>{c.used, c.sums});
    }
    B::for_each_row(ctx, config_.tasks, OneLaneRow<CountUsage>{{choices(tokens, c), tokens, K, c.used}},
                    tokens.count() * K / config_.tasks);
    if constexpr (Traits::balance != Balance::first_choice) B::for_each_index(ctx, E, ChoiceCounts<R>{c.used, c.sums});
    if constexpr (Traits::learned)
      add_column_sums<B>(ctx, c.units, E, ProbabilityTerm<R>{c.scores, c.weight}, c.sums + E);
    add_column_sums<B>(ctx, c.units, 3, UnitStatisticsTerm<R>{c.lse, c.entropy, c.weight}, c.sums + 2 * E);
    if (comm.size() > 1) comm.all_reduce_sum(c.sums, static_cast<std::size_t>(2 * E + 3));
    B::for_each_index(ctx, 1, BalanceLoss<R>{c.sums, E, counted, c.coefficient, c.balance});
  }

  MoeConfig config_;
  Router router_{};
  ExpertLayer experts_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// nn/routing_losses.hpp -- the losses of a gate: load balance over all tokens, a group or a sequence, of each level of
// two; importance and load; learned thresholds; and what a pass tells of them. Their gradients are in nn/routing.hpp's
// backward pass. Read next: kernels/gate.hpp, kernels/importance.hpp, kernels/thresholds.hpp; nn/stack_loss.hpp for
// losses of all layers at once.
#pragma once

#include "sparsemoe/kernels/gate.hpp"
#include "sparsemoe/kernels/importance.hpp"
#include "sparsemoe/kernels/rows.hpp"
#include "sparsemoe/kernels/thresholds.hpp"
#include "sparsemoe/kernels/two_level.hpp"
#include "sparsemoe/nn/dispatch.hpp"
#include "sparsemoe/nn/moe_config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What a pass through the gate leaves for its backward pass and its statistics; all in the context's arena.
template <class R>
struct RoutingCache {
  index_t units = 0;
  Matrix<R> router_input;                             // (U, D) where it differs from x
  Matrix<R> scores;                                   // (U, columns) probabilities
  std::int32_t *chosen = nullptr, *weight = nullptr;  // (U, K), (U) valid tokens of a unit
  R *lse = nullptr, *entropy = nullptr;               // (U)
  std::int32_t *slot = nullptr, *source = nullptr, *offsets = nullptr, *expert = nullptr;
  R* combine = nullptr;       // (T, K)
  Matrix<std::int32_t> used;  // (tasks, E)
  R *sums = nullptr, *coefficient = nullptr, *balance = nullptr;
  std::int32_t capacity = 0;
  index_t scope = 0;  // tokens that share a row of coefficient; 0: all
  index_t rows = 0;   // of the experts: the most choices that can be kept
  // Of a router with learned noise, and of the losses on importance and load:
  Matrix<R> clean, raw, noisy;                                // (U, columns)
  Matrix<std::int32_t> threshold;                             // (U, 2 parts)
  R* gates = nullptr;                                         // (U, K) weights before any is dropped
  R *importance_sums = nullptr, *importance_slope = nullptr;  // (E + columns): importance, then load
  R *expected = nullptr, *importance_loss = nullptr;          // (E), (2)
  R* level_mass = nullptr;      // (columns) probabilities that a balance loss of two levels sums
  Matrix<R> logits;             // (U, E) of a router that assigns by more than its sigmoid scores
  Matrix<R> disagreement;       // (U, E) of learned thresholds, in training
  R* threshold_loss = nullptr;  // (E)
  // Of a stack's joint loss:
  Matrix<R> dcombine;     // (T, K) its gradient of the combine weights, or empty
  R* unmasked = nullptr;  // (T, K) combine weights before output masking
};

template <class Spec>
class RoutingLosses {
 public:
  using B = typename Spec::Backend;
  using Router = typename Spec::Router;
  using Collective = typename Spec::Collective;
  using Traits = RouterTraits<Router>;
  using R = typename Spec::Precision::router;
  using Context = typename B::Context;
  using Cache = RoutingCache<R>;
  static constexpr bool importance = Traits::balance == Balance::importance;
  static constexpr bool levels = Traits::two_level && !importance;  // a balance loss of branches and one of leaves
  static constexpr bool scoped =
      Traits::level == Level::token && !importance && !levels && Traits::balance != Balance::none;
  static constexpr bool stack_loss = requires { typename Router::StackLoss; };  // joint_losses() of model/stack.hpp

  const MoeConfig& config;
  const Router& router;
  GateColumns<Router> columns;
  index_t top_k;

  RoutingStatistics statistics(Context& ctx, const Cache& c) const {
    const index_t E = config.choices();
    RoutingStatistics s;
    std::vector<R> sums(static_cast<std::size_t>(2 * E + 3));
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(E + 1));
    R balance = 0;
    s.tasks = config.tasks;
    s.experts = E;
    s.usage.resize(static_cast<std::size_t>(config.tasks * E));
    B::copy_to_host(ctx, s.usage.data(), c.used.data, config.tasks * E);
    B::copy_to_host(ctx, sums.data(), c.sums, 2 * E + 3);
    B::copy_to_host(ctx, offsets.data(), c.offsets, config.dispatched() + 1);
    B::copy_to_host(ctx, &balance, c.balance, 1);
    s.tokens = static_cast<double>(sums[static_cast<std::size_t>(2 * E + 2)]);
    s.balance = static_cast<double>(balance);
    if (s.tokens > 0) {
      s.z = static_cast<double>(sums[static_cast<std::size_t>(2 * E)]) / s.tokens;
      s.entropy = static_cast<double>(sums[static_cast<std::size_t>(2 * E + 1)]) / s.tokens;
    }
    if constexpr (importance) {
      R loss[2] = {};
      B::copy_to_host(ctx, loss, c.importance_loss, 2);
      s.importance = static_cast<double>(loss[0]);
      s.expected_load = static_cast<double>(loss[1]);
    }
    if constexpr (Traits::thresholds) {
      std::vector<R> loss(static_cast<std::size_t>(E));
      B::copy_to_host(ctx, loss.data(), c.threshold_loss, E);
      for (const R l : loss) s.threshold += s.tokens > 0 ? static_cast<double>(l) / s.tokens : 0;
    }
    s.load.assign(static_cast<std::size_t>(E), 0);
    for (index_t t = 0; t < config.tasks; ++t)
      for (index_t e = 0; e < E; ++e)
        s.load[static_cast<std::size_t>(e)] += s.usage[static_cast<std::size_t>(t * E + e)];
    for (const auto n : s.load) s.choices += static_cast<double>(n);
    s.dropped = s.choices - static_cast<double>(offsets[static_cast<std::size_t>(config.dispatched())]);
    for (index_t e = config.dispatched(); e < E; ++e)
      s.dropped -= static_cast<double>(s.load[static_cast<std::size_t>(e)]);
    return s;
  }
  double weighted(const RoutingStatistics& s) const {
    if constexpr (importance)
      return config.importance_coefficient * s.importance + config.load_coefficient * s.expected_load +
             config.z_coefficient * s.z;
    return (Traits::balance != Balance::none || stack_loss ? config.balance_coefficient * s.balance : 0) +
           config.z_coefficient * s.z + config.threshold_coefficient * s.threshold;
  }
  /// Rows of c.coefficient for `tokens` tokens.
  static index_t scopes(const Cache& c, index_t tokens) { return c.scope > 0 ? (tokens + c.scope - 1) / c.scope : 1; }
  LoadTerm<Router, R> load_term(const Context& ctx, const Cache& c) const {
    return {{router, c.clean, c.raw, c.noisy, ctx.random}, columns, c.threshold, c.chosen, c.weight};
  }
  /// Counts who was used, and fills the losses of the cache and their slopes. `thresholds` (E) of a router that learns
  /// them.
  void forward(Context& ctx, const Choices& choices, const Tokens& tokens, [[maybe_unused]] const R* thresholds,
               Cache& c, Collective& comm) const {
    const index_t E = config.choices(), K = top_k;
    const index_t counted = Traits::balance == Balance::first_choice ? 1 : K;
    B::zero(ctx, c.sums, 2 * E + 3);
    if constexpr (Traits::balance == Balance::first_choice) {
      B::for_each_row(ctx, config.tasks, OneLaneRow<CountUsage>{{choices, tokens, counted, c.used}}, tokens.count());
      B::for_each_index(ctx, E, ChoiceCounts<R>{c.used, c.sums});
    }
    B::for_each_row(ctx, config.tasks, OneLaneRow<CountUsage>{{choices, tokens, K, c.used}},
                    tokens.count() * K / config.tasks);
    if constexpr (Traits::balance != Balance::first_choice) B::for_each_index(ctx, E, ChoiceCounts<R>{c.used, c.sums});
    constexpr bool sigmoid = Traits::score == Score::sigmoid;
    if constexpr (Traits::learned && !importance && !levels)
      add_column_sums<B>(ctx, c.units, E, ProbabilityTerm<R>{c.scores, c.weight, sigmoid ? c.lse : nullptr},
                         c.sums + E);
    add_column_sums<B>(ctx, c.units, 3, UnitStatisticsTerm<R>{sigmoid ? nullptr : c.lse, c.entropy, c.weight},
                       c.sums + 2 * E);
    if (comm.size() > 1) comm.all_reduce_sum(c.sums, static_cast<std::size_t>(2 * E + 3));
    if constexpr (importance)
      importance_losses(ctx, c, comm);
    else if constexpr (levels)
      level_losses(ctx, c, comm);
    else if constexpr (stack_loss && Traits::balance == Balance::none)
      B::zero(ctx, c.balance, 1);  // the stack's is the only one
    else if (c.scope > 0)
      scoped_loss(ctx, choices, c, counted, comm);
    else
      B::for_each_index(ctx, 1, BalanceLoss<R>{c.sums, E, counted, balance_factors(), c.coefficient, c.balance});
    if constexpr (Traits::thresholds) threshold_loss(ctx, thresholds, c, comm);
  }

 private:
  BalanceFactors<R> balance_factors() const { return {config.experts, config.free.count(), R(config.free.balance)}; }
  void scoped_loss(Context& ctx, const Choices& choices, Cache& c, index_t counted, Collective& comm) const {
    if constexpr (scoped) {
      typename Arena<typename B::Memory>::Scope scope(ctx.arena);
      const index_t T = c.units, E = config.choices(), groups = scopes(c, T);
      R* loss = ctx.arena.template take<R>(groups);
      const R* sum = Traits::score == Score::sigmoid ? c.lse : nullptr;
      B::for_each_row(ctx, groups,
                      GroupBalanceRow<R>{choices, c.scores, sum, c.scope, counted, balance_factors(),
                                         c.sums + 2 * E + 2, Matrix<R>(c.coefficient, groups, E), loss},
                      c.scope * E * 4);
      B::zero(ctx, c.balance, 1);
      add_column_sums<B>(ctx, groups, 1, VectorTerm<R>{loss}, c.balance);
      if (comm.size() > 1) comm.all_reduce_sum(c.balance, 1);
    }
  }
  /// In evaluation the thresholds are the mask, and there is no loss.
  void threshold_loss(Context& ctx, const R* thresholds, Cache& c, Collective& comm) const {
    const index_t E = config.choices();
    c.threshold_loss = ctx.arena.template take<R>(E);
    c.disagreement = {};
    B::zero(ctx, c.threshold_loss, E);
    if (!ctx.training) return;
    c.disagreement = ctx.arena.template matrix<R>(c.units, E);
    B::for_each_index(ctx, c.units * E,
                      ThresholdDisagreement<R>{c.scores, thresholds, c.chosen, c.weight, c.disagreement});
    add_column_sums<B>(ctx, c.units, E, ThresholdTerm<R>{c.scores, c.disagreement, thresholds}, c.threshold_loss);
    if (comm.size() > 1) comm.all_reduce_sum(c.threshold_loss, static_cast<std::size_t>(E));
  }
  void importance_losses(Context& ctx, Cache& c, Collective& comm) const {
    const index_t E = config.choices(), n = columns.count();
    c.importance_sums = ctx.arena.template take<R>(E + n);
    c.importance_slope = ctx.arena.template take<R>(E + n);
    c.expected = ctx.arena.template take<R>(E);
    c.importance_loss = ctx.arena.template take<R>(2);
    B::zero(ctx, c.importance_sums, E + n);
    B::zero(ctx, c.balance, 1);
    add_column_sums<B>(ctx, c.units, E, ImportanceTerm<R>{c.gates, c.chosen, c.weight, top_k}, c.importance_sums);
    add_column_sums<B>(ctx, c.units, n, load_term(ctx, c), c.importance_sums + E);
    if (comm.size() > 1) comm.all_reduce_sum(c.importance_sums, static_cast<std::size_t>(E + n));
    B::for_each_index(
        ctx, 1,
        ImportanceLoss<Router, R>{columns, c.importance_sums, c.importance_sums + E, c.sums, c.importance_slope,
                                  c.importance_slope + E, c.expected, c.importance_loss});
  }
  void level_losses(Context& ctx, Cache& c, Collective& comm) const {
    const index_t n = columns.count();
    c.level_mass = ctx.arena.template take<R>(n);
    B::zero(ctx, c.level_mass, n);
    add_column_sums<B>(ctx, c.units, n, LevelMassTerm<Router, R>{columns, c.scores, c.chosen, c.weight}, c.level_mass);
    if (comm.size() > 1) comm.all_reduce_sum(c.level_mass, static_cast<std::size_t>(n));
    B::for_each_index(ctx, 1, LevelBalanceLoss<Router, R>{columns, c.sums, c.level_mass, c.coefficient, c.balance});
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

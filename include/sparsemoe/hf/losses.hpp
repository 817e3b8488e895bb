// SPDX-License-Identifier: Apache-2.0
// hf/losses.hpp -- the balance losses of transformers' MoE models, which are taken over all sparse layers of a stack at
// once: f and P are averaged over layers before they are multiplied. StackLoss policies of the routers in this folder.
// Read next: hf/switch_router.hpp, hf/nllb_router.hpp.
#pragma once

#include <vector>

#include "sparsemoe/model/stack.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// One layer's part of the sums of group g: tokens(g) +=, count(g, e) += choices, mass(g, e) += probabilities.
template <class R>
struct AddGroupSums {
  Choices choices;
  Matrix<const R> scores;    // (T, E)
  const std::int32_t* slot;  // (K T), or null: a choice counts whether it was kept or not
  index_t group, counted;
  R* tokens;              // (G)
  Matrix<R> count, mass;  // (G, E)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t g) const {
    const index_t first = g * group, last = math::min(first + group, scores.rows);
    for (index_t e = team.lane(); e < scores.cols; e += Team::lanes) {
      R n = 0, sum = 0;
      for (index_t t = first; t < last; ++t) {
        if (choices.valid[t] == 0) continue;
        sum += scores(t, e);
        for (index_t k = 0; k < counted; ++k) {
          const std::int32_t v = choices.at(t, k);
          // The argmax of a mask that is all 0 where the token was dropped.
          const index_t chosen = slot != nullptr && slot[k * scores.rows + t] < 0 ? 0 : v;
          n += chosen == e ? R(1) : R(0);
        }
      }
      count(g, e) += n;
      mass(g, e) += sum;
    }
    if (team.lane() == 0)
      for (index_t t = first; t < last; ++t) tokens[g] += choices.valid[t] != 0 ? R(1) : R(0);
  }
};
/// coefficient(g, e) = d loss / d p(t, e) of every token of the group, loss(g) = sum_e coefficient mass: E sum_e f P of
/// the group, weighed by its part of all tokens.
template <class R>
struct GroupSlopesRow {
  const R *tokens, *all;  // (G), (1)
  Matrix<const R> count, mass;
  Matrix<R> coefficient;
  R* loss;  // (G)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t g) const {
    R total = 0;
    for (index_t e = team.lane(); e < count.cols; e += Team::lanes) {
      coefficient(g, e) = tokens[g] > R(0) ? R(count.cols) * count(g, e) / tokens[g] / *all : R(0);
      total += coefficient(g, e) * mass(g, e);
    }
    total = team.sum(total);
    if (team.lane() == 0) loss[g] = total;
  }
};

/// load_balancing_loss_func: E sum_e f_e P_e of the tokens of all sparse layers together. Of Switch Transformers in
/// each sequence, then the mean over sequences, a dropped token counting as one of expert 0; of Mixtral over the batch
/// and summed over the k choices.
template <bool OfSequences, bool DroppedAreFirst>
struct JointBalance {
  template <class Spec>
  static void apply(typename Spec::Backend::Context& ctx, const Tokens& tokens,
                    const std::vector<SparseLayer<Spec>>& layers, typename Spec::Collective& comm) {
    using B = typename Spec::Backend;
    using R = typename Spec::Precision::router;
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t T = tokens.count(), E = layers[0].moe->config().choices(), K = layers[0].moe->top_k();
    const index_t group = OfSequences ? tokens.length : T, groups = T > 0 ? T / group : 0;
    R* sums = ctx.arena.template take<R>(groups * (2 * E + 2) + 1);  // tokens, count, mass, loss; all
    R *loss = sums + groups * (2 * E + 1), *all = sums + groups * (2 * E + 2);
    const Matrix<R> count(sums + groups, groups, E), mass(count.data + groups * E, groups, E);
    const Matrix<R> coefficient = ctx.arena.template matrix<R>(groups, E);
    B::zero(ctx, sums, groups * (2 * E + 2) + 1);
    for (const auto& [moe, c] : layers)
      B::for_each_row(ctx, groups,
                      AddGroupSums<R>{moe->choices(tokens, *c), c->scores, DroppedAreFirst ? c->slot : nullptr, group,
                                      K, sums, count, mass},
                      group * E * 4);
    if (!OfSequences && comm.size() > 1) comm.all_reduce_sum(sums, static_cast<std::size_t>(2 * E + 1));
    add_column_sums<B>(ctx, groups, 1, VectorTerm<R>{sums}, all);
    if (OfSequences && comm.size() > 1) comm.all_reduce_sum(all, 1);
    B::for_each_row(ctx, groups, GroupSlopesRow<R>{sums, all, count, mass, coefficient, loss}, E * 4);
    for (const auto& [moe, c] : layers) {
      require(c->scope == (OfSequences ? group : 0), "hf: set balance_scope of the sparse layers to ",
              OfSequences ? "sequence" : "global");
      B::copy(ctx, c->coefficient, coefficient.data, coefficient.size());
      B::zero(ctx, c->balance, 1);
    }
    add_column_sums<B>(ctx, groups, 1, VectorTerm<R>{loss}, layers[0].cache->balance);
    if (OfSequences && comm.size() > 1) comm.all_reduce_sum(layers[0].cache->balance, 1);
  }
};

/// count(e) += tokens of one layer whose first choice, kept, is e; those without one count as expert 0. count(E) +=
/// tokens.
template <class R>
struct CountFirst {
  Choices choices;
  const std::int32_t* slot;
  index_t tokens;
  index_t experts;
  R* count;  // (E + 1)
  SPARSEMOE_HD void operator()(index_t e) const {
    R n = e == experts ? R(tokens) : R(0);
    for (index_t t = 0; t < tokens; ++t) n += (slot[t] >= 0 ? index_t(choices.at(t, 0)) : 0) == e ? R(1) : R(0);
    count[e] += n;
  }
};
/// dcombine(t, k) = coefficient times the slope of the loss where the choice was kept, and part(t) = the sum of its
/// weights times the slopes.
template <class R>
struct WeightSlopes {
  Choices choices;
  const std::int32_t* slot;
  const R *count, *weight;  // (E + 1), (T, K)
  index_t layers, experts, tokens;
  R coefficient;
  Matrix<R> dcombine;
  R* part;  // (T)
  SPARSEMOE_HD void operator()(index_t t) const {
    const R all = count[experts];                                   // tokens of all layers
    const R scale = R(layers * experts) / all * (R(layers) / all);  // of a mean over layers, then one over tokens
    R total = 0;
    for (index_t k = 0; k < dcombine.cols; ++k) {
      const R slope = slot[k * tokens + t] >= 0 ? scale * count[choices.at(t, k)] : R(0);
      dcombine(t, k) = coefficient * slope;
      total += slope * weight[t * dcombine.cols + k];
    }
    part[t] = total;
  }
};
/// NLLB-MoE's: of the combine weights after capacity, L E sum_e fbar_e mean_t w(t, e) of the first of L sparse layers
/// alone; fbar is the share of first choices over all layers. (transformers concatenates the layers' weights to L E
/// columns, but the indices stay below E.)
struct CombineBalance {
  template <class Spec>
  static void apply(typename Spec::Backend::Context& ctx, const Tokens& tokens,
                    const std::vector<SparseLayer<Spec>>& layers, typename Spec::Collective& comm) {
    using B = typename Spec::Backend;
    using R = typename Spec::Precision::router;
    const index_t T = tokens.count(), K = layers[0].moe->top_k(), E = layers[0].moe->config().choices();
    auto& first = *layers[0].cache;
    first.dcombine = ctx.arena.template matrix<R>(T, K);  // lives as long as the cache
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    R *count = ctx.arena.template take<R>(E + 1), *part = ctx.arena.template take<R>(T);
    B::zero(ctx, count, E + 1);
    for (const auto& [moe, c] : layers) {
      B::for_each_index(ctx, E + 1, CountFirst<R>{moe->choices(tokens, *c), c->slot, T, E, count});
      B::zero(ctx, c->balance, 1);
    }
    if (comm.size() > 1) comm.all_reduce_sum(count, static_cast<std::size_t>(E + 1));
    B::for_each_index(ctx, T,
                      WeightSlopes<R>{layers[0].moe->choices(tokens, first), first.slot, count, first.unmasked,
                                      static_cast<index_t>(layers.size()), E, T,
                                      R(layers[0].moe->config().balance_coefficient), first.dcombine, part});
    add_column_sums<B>(ctx, T, 1, VectorTerm<R>{part}, first.balance);
    if (comm.size() > 1) comm.all_reduce_sum(first.balance, 1);
  }
};

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

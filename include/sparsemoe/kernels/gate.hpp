// SPDX-License-Identifier: Apache-2.0
// kernels/gate.hpp -- the routing losses and the gradient of the gate: load balance (Switch, equations 4-6), z-loss
// (ST-MoE), and how both and the combine weights move the logits. Read next: nn/moe.hpp.
#pragma once

#include "sparsemoe/kernels/tokens.hpp"
#include "sparsemoe/math.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Sums the balance loss needs: probability mass of an expert over tokens, a term of add_column_sums. Sigmoid scores
/// count over their sum.
template <class R>
struct ProbabilityTerm {
  Matrix<const R> scores;
  const std::int32_t* weight;
  const R* sum = nullptr;  // (U) of sigmoid scores, or null
  SPARSEMOE_HD R operator()(index_t u, index_t e) const {
    return sum != nullptr ? scores(u, e) / sum[u] * R(weight[u]) : scores(u, e) * R(weight[u]);
  }
};
/// Column 0: sum of weight * lse^2; column 1: of weight * entropy; column 2: of weight.
template <class R>
struct UnitStatisticsTerm {
  const R *lse, *entropy;
  const std::int32_t* weight;
  SPARSEMOE_HD R operator()(index_t u, index_t j) const {
    const R n = R(weight[u]);
    if (j == 2) return n;
    if (entropy == nullptr || weight[u] == 0) return R(0);
    if (j == 1) return n * entropy[u];
    return lse != nullptr ? n * lse[u] * lse[u] : R(0);
  }
};
/// What an expert's part f P of the balance loss is times: 1; with free experts, the factor of theirs or 1, over the
/// mean of all, so that uniform routing still gives 1.
template <class R>
struct BalanceFactors {
  index_t experts = 0, free = 0;
  R factor = R(1);
  SPARSEMOE_HD R of(index_t e) const {
    if (free == 0) return R(1);
    const R mean = (R(experts) + R(free) * factor) / R(experts + free);
    return (e < experts ? R(1) : factor) / mean;
  }
};
/// Load-balance loss E sum_e f_e P_e (Switch, equations 4-6; f over all k choices, so that uniform routing gives 1) and
/// the coefficient d loss / d p(t, e) = E f_e / tokens. sums = [choices counted (E) | probability (E) | z, entropy, n].
template <class R>
struct BalanceLoss {
  const R* sums;
  index_t experts, counted_choices;
  BalanceFactors<R> factors;
  R* coefficient;  // (E)
  R* loss;         // (1)
  SPARSEMOE_HD void operator()(index_t) const {
    const R n = sums[2 * experts + 2];
    R total = 0;
    for (index_t e = 0; e < experts; ++e) {
      const R f = n > R(0) ? sums[e] / (n * R(counted_choices)) : R(0);
      coefficient[e] = n > R(0) ? R(experts) * f / n * factors.of(e) : R(0);
      total += coefficient[e] * sums[experts + e];
    }
    loss[0] = total;
  }
};
/// The balance loss of each group of tokens: E sum f P over the group, weighed by its part of all tokens, so that
/// groups of equal size give the mean over groups, and cutting a batch between groups (in micro-batches, in ranks)
/// changes nothing. coefficient(g, e) = d loss / d p(t, e) of its tokens.
template <class R>
struct GroupBalanceRow {
  Choices choices;
  Matrix<const R> scores;  // (T, E)
  const R* sum;            // (T) of sigmoid scores, or null
  index_t group, counted_choices;
  BalanceFactors<R> factors;
  const R* total_tokens;  // (1)
  Matrix<R> coefficient;  // (G, E)
  R* loss;                // (G)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t g) const {
    const index_t first = g * group, last = math::min(first + group, scores.rows), E = scores.cols;
    index_t n = 0;
    for (index_t t = first; t < last; ++t) n += choices.valid[t] != 0 ? 1 : 0;
    R total = 0;
    for (index_t e = team.lane(); e < E; e += Team::lanes) {
      index_t count = 0;
      R mass = 0;
      for (index_t t = first; t < last; ++t) {
        if (choices.valid[t] == 0) continue;
        mass += sum != nullptr ? scores(t, e) / sum[t] : scores(t, e);
        for (index_t k = 0; k < counted_choices; ++k) {
          const std::int32_t v = choices.at(t, k);
          count += v != -1 && Choice<1>::expert_of(v) == e ? 1 : 0;
        }
      }
      coefficient(g, e) = n > 0 ? R(E) * R(count) / R(n * counted_choices) / *total_tokens * factors.of(e) : R(0);
      total += coefficient(g, e) * mass;
    }
    total = team.sum(total);
    if (team.lane() == 0) loss[g] = total;
  }
};
/// to(i) += scale * from(i)
template <class R>
struct AddScaled {
  const R* from;
  R scale;
  R* to;
  SPARSEMOE_HD void operator()(index_t i) const { to[i] += scale * from[i]; }
};
/// A vector as a column of add_column_sums.
template <class R>
struct VectorTerm {
  const R* v;
  SPARSEMOE_HD R operator()(index_t i, index_t) const { return v[i]; }
};
/// Usage over tasks, added into the counted-choices row of the sums.
template <class R>
struct ChoiceCounts {
  Matrix<const std::int32_t> used;
  R* count;
  SPARSEMOE_HD void operator()(index_t e) const {
    std::int64_t n = 0;
    for (index_t t = 0; t < used.rows; ++t) n += used(t, e);
    count[e] = R(n);
  }
};

/// dweight(u, k) summed over the tokens that share a row.
template <class R>
struct UnitWeightGradient {
  Units units;
  Tokens tokens;
  index_t top_k;
  const R* dweight;  // (T, K)
  R* out;            // (U, K)
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t u = i / top_k, k = i % top_k;
    R total = 0;
    for (index_t s = 0; s < tokens.sentences; ++s) {
      if (units.level == Level::sentence ? s != u : tokens.task[s] != u) continue;
      for (index_t t = s * tokens.length; t < (s + 1) * tokens.length; ++t) total += dweight[t * top_k + k];
    }
    out[i] = total;
  }
};
/// Row u: the gradient of its logits, from combine weights, balance loss and z-loss.
template <class Router, class R>
struct GateBackwardRow {
  Matrix<const R> scores;      // (U, E) probabilities
  const std::int32_t* chosen;  // (U, K)
  const std::int32_t* weight;  // (U) valid tokens
  const std::int32_t* slot;    // (K T), read by normalised_after_drop alone (token level)
  index_t tokens, top_k;
  const R* dweight;            // (U, K)
  const R* slopes;             // (E), or (groups, E) for groups of `scope` tokens, of the balance loss; or null
  R balance, z;                // loss coefficients, already scaled
  const R* lse;                // (U) of sigmoid scores: their sum
  const R* total_tokens;       // (1)
  Matrix<R> dscores;           // (U, E)
  R scale = R(1);              // of the combine weights
  Matrix<const R> extra = {};  // (U, E) another loss's gradient of the scores, or empty: times
  R extra_scale = R(0);        // extra_scale, over the number of tokens
  index_t scope = 0;
  Router router = {};  // read with Gate::own
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    const index_t n = scores.cols;
    const R count = R(weight[u]);
    R* d = dscores.row(u).data;
    for (index_t e = team.lane(); e < n; e += Team::lanes) d[e] = R(0);
    if (weight[u] == 0) return;
    const R* p = scores.row(u).data;
    constexpr bool sigmoid = RouterTraits<Router>::score == Score::sigmoid;
    // d loss / d p of the balance loss; that of a sigmoid passes through the division by the sum.
    const R* coefficient = slopes != nullptr && scope > 0 ? slopes + u / scope * n : slopes;
    const R from_balance = coefficient != nullptr ? balance * count : R(0);
    R shift = 0;
    if constexpr (sigmoid) {
      if (coefficient != nullptr)
        for (index_t e = team.lane(); e < n; e += Team::lanes) shift += coefficient[e] * p[e] / lse[u];
      shift = team.sum(shift);
    }
    if (coefficient != nullptr)
      for (index_t e = team.lane(); e < n; e += Team::lanes)
        d[e] = from_balance * (sigmoid ? (coefficient[e] - shift) / lse[u] : coefficient[e]);
    if (!extra.empty())
      for (index_t e = team.lane(); e < n; e += Team::lanes) d[e] += extra_scale * extra(u, e) / *total_tokens;
    (void)team.sum(R(0));
    if (team.lane() == 0) add_slopes(u, p, d);
    const R mean_of = team.sum(R(0));  // one lane's slopes are there for all
    if constexpr (sigmoid) {
      for (index_t e = team.lane(); e < n; e += Team::lanes) d[e] *= p[e] * (R(1) - p[e]);
      return;
    }
    R mean = mean_of;
    for (index_t e = team.lane(); e < n; e += Team::lanes) mean += p[e] * d[e];
    mean = team.sum(mean);
    const R zslope = z * R(2) * lse[u] * (count / *total_tokens);
    for (index_t e = team.lane(); e < n; e += Team::lanes) d[e] = p[e] * (d[e] - mean) + zslope * p[e];
  }

 private:
  /// d(e) += d loss / d p(e) of the combine weights.
  SPARSEMOE_HD void add_slopes(index_t u, const R* p, R* d) const {
    const std::int32_t* c = chosen + u * top_k;
    const R* dw = dweight + u * top_k;
    if constexpr (Router::gate == Gate::probability) {
      for (index_t k = 0; k < top_k; ++k)
        if (c[k] >= 0) d[c[k]] += scale * dw[k];
    } else if constexpr (Router::gate == Gate::own) {
      bool kept[Router::top_k];
      for (index_t k = 0; k < top_k; ++k) kept[k] = slot[k * tokens + u] >= 0;
      router.weigh_backward(Row<const R>{p, scores.cols}, c, kept, dw, d);
    } else if constexpr (Router::gate == Gate::normalised || Router::gate == Gate::normalised_after_drop) {
      const auto counts = [&](index_t k) {
        return Router::gate == Gate::normalised ? c[k] != -1 : slot[k * tokens + u] >= 0;
      };
      R sum = 0, dot = 0;
      for (index_t k = 0; k < top_k; ++k)
        if (counts(k)) sum += p[Choice<1>::expert_of(c[k])];
      for (index_t k = 0; k < top_k; ++k)
        if (c[k] >= 0) dot += dw[k] * p[c[k]] / sum;
      for (index_t k = 0; k < top_k; ++k)
        if (counts(k)) d[Choice<1>::expert_of(c[k])] += scale * (dw[k] - dot) / sum;
    }
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

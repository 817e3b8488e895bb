// SPDX-License-Identifier: Apache-2.0
// kernels/two_level.hpp -- the weights of a two-level gate and their gradient: a leaf's weight is that of its branch,
// over the branches chosen, times its own, over those chosen in the branch (Shazeer et al. 2017, equation 12).
// Read next: routers/hierarchical.hpp, nn/routing.hpp.
#pragma once

#include "sparsemoe/kernels/noise.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The chosen of one row: first_k branches, in each second_k leaves; choice k is leaf k % second_k of branch k /
/// second_k.
template <class Router, class R>
struct TwoLevelRow {
  static constexpr int most = Router::top_k;
  index_t first_k, second_k;
  index_t branch[most], leaf[most];  // columns of the gate: of each branch, of each choice
  R outer[most], inner[most];        // normalised weights, likewise
  R outer_sum = 0, inner_sum[most];

  SPARSEMOE_HD TwoLevelRow(const GateColumns<Router>& columns, const R* p, const std::int32_t* chosen)
      : first_k(columns.first_k), second_k(columns.second_k) {
    for (index_t i = 0; i < first_k; ++i) {
      branch[i] = chosen[i * second_k] / columns.per_branch();
      outer_sum += p[branch[i]];
      inner_sum[i] = R(0);
      for (index_t k = i * second_k; k < (i + 1) * second_k; ++k) {
        leaf[k] = columns.branches + chosen[k];
        inner_sum[i] += p[leaf[k]];
      }
    }
    for (index_t i = 0; i < first_k; ++i) {
      outer[i] = p[branch[i]] / outer_sum;
      for (index_t k = i * second_k; k < (i + 1) * second_k; ++k) inner[k] = p[leaf[k]] / inner_sum[i];
    }
  }
};

/// Row u: the gradient of the logits of both levels. A softmax over the chosen alone: the others' logits get none. The
/// z-loss is that of the branches.
template <class Router, class R>
struct TwoLevelBackwardRow {
  GateColumns<Router> columns;
  Matrix<const R> scores;               // (U, columns)
  const std::int32_t *chosen, *weight;  // (U, K), (U)
  const R* dgate;                       // (U, K)
  R z;
  const R *lse, *total_tokens;
  Matrix<R> dscores;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    const R* p = scores.row(u).data;
    R* d = dscores.row(u).data;
    const R zslope = weight[u] != 0 ? z * R(2) * lse[u] * R(weight[u]) / *total_tokens : R(0);
    for (index_t c = team.lane(); c < dscores.cols; c += Team::lanes)
      d[c] = c < columns.branches ? zslope * p[c] : R(0);
    (void)team.sum(R(0));
    if (weight[u] == 0 || team.lane() != 0) return;
    using Weights = TwoLevelRow<Router, R>;
    const index_t K = columns.choices();
    const Weights w(columns, p, chosen + u * K);
    const R* dw = dgate + u * K;
    R douter[Weights::most], mean = 0;
    for (index_t i = 0; i < w.first_k; ++i) {
      douter[i] = R(0);
      for (index_t k = i * w.second_k; k < (i + 1) * w.second_k; ++k) douter[i] += dw[k] * w.inner[k];
      mean += douter[i] * w.outer[i];
    }
    for (index_t i = 0; i < w.first_k; ++i) {
      d[w.branch[i]] += w.outer[i] * (douter[i] - mean);
      // d inner(k) = outer dw(k), whose mean under the inner weights is outer douter.
      for (index_t k = i * w.second_k; k < (i + 1) * w.second_k; ++k)
        d[w.leaf[k]] = w.inner[k] * w.outer[i] * (dw[k] - douter[i]);
    }
  }
};

/// Sums that the balance losses of two levels need: the probability of each branch over all tokens, and that of each
/// leaf over the tokens whose first choice is in its branch.
template <class Router, class R>
struct LevelMassTerm {
  GateColumns<Router> columns;
  Matrix<const R> scores;               // (U, columns)
  const std::int32_t *chosen, *weight;  // (U, K), (U)
  SPARSEMOE_HD R operator()(index_t u, index_t c) const {
    if (weight[u] == 0) return R(0);
    if (c < columns.branches) return scores(u, c);
    const index_t branch = Choice<1>::expert_of(chosen[u * Router::top_k]) / columns.per_branch();
    return (c - columns.branches) / columns.per_branch() == branch ? scores(u, c) : R(0);
  }
};
/// One index: a sum_i f_i P_i over a branches, and for each branch b sum_j f_ij P_ij over its b leaves and the tokens
/// whose first choice is in it, weighed by their share of all tokens. Both are 1 where routing is uniform; they add
/// (Mesh TensorFlow's transformer_moe_layer_v2, whose inner means divide by the buffer's size instead). f counts first
/// choices before any is dropped. coefficient(c) = d loss / d p(t, c) for the tokens that c's mass sums.
template <class Router, class R>
struct LevelBalanceLoss {
  GateColumns<Router> columns;
  const R *sums, *mass;  // [first choices (E) | unused (E) | z, entropy, n], (columns)
  R *coefficient, *loss;
  SPARSEMOE_HD void operator()(index_t) const {
    const index_t a = columns.branches, b = columns.per_branch();
    const R n = sums[2 * columns.experts + 2];
    R total = 0;
    for (index_t i = 0; i < a; ++i) {
      R members = 0;
      for (index_t e = i * b; e < (i + 1) * b; ++e) members += sums[e];
      coefficient[i] = n > R(0) ? R(a) * members / (n * n) : R(0);
      total += coefficient[i] * mass[i];
      for (index_t e = i * b; e < (i + 1) * b; ++e) {
        coefficient[a + e] = members > R(0) ? R(b) * sums[e] / (n * members) : R(0);
        total += coefficient[a + e] * mass[a + e];
      }
    }
    loss[0] = total;
  }
};
/// Row u: the gradient of the logits of both levels, of a router that weighs its choices itself (Gate::own) and has the
/// balance loss of each level. The z-loss is that of the branches.
template <class Router, class R>
struct LevelsBackwardRow {
  Router router;
  GateColumns<Router> columns;
  Matrix<const R> scores;                      // (U, columns)
  const std::int32_t *chosen, *weight, *slot;  // (U, K), (U), (K U)
  const R *dweight, *coefficient;              // (U, K), (columns)
  R balance, z;
  const R *lse, *total_tokens;
  Matrix<R> dscores;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    constexpr int K = Router::top_k;
    const std::int32_t* c = chosen + u * K;
    const R* p = scores.row(u).data;
    R* d = dscores.row(u).data;
    const bool routed = weight[u] != 0;
    const index_t first =
        routed ? columns.branches + Choice<1>::expert_of(c[0]) / columns.per_branch() * columns.per_branch() : 0;
    for (index_t j = team.lane(); j < dscores.cols; j += Team::lanes) {
      const bool counts = j < columns.branches || (j >= first && j < first + columns.per_branch());
      d[j] = routed && counts ? balance * coefficient[j] : R(0);
    }
    (void)team.sum(R(0));
    if (!routed) return;
    if (team.lane() == 0) {
      bool kept[K];
      for (int k = 0; k < K; ++k) kept[k] = slot[k * scores.rows + u] >= 0;
      router.weigh_backward(Row<const R>{p, scores.cols}, c, kept, dweight + u * K, d);
    }
    (void)team.sum(R(0));
    const R zslope = z * R(2) * lse[u] * R(weight[u]) / *total_tokens;
    softmax_backward(team, p, d, columns.branches, zslope);
    for (index_t part = 1; part < columns.parts(); ++part)  // a branch without a choice has a gradient of 0 already
      softmax_backward(team, p + columns.begin(part), d + columns.begin(part), columns.size(part), R(0));
  }

 private:
  template <class Team>
  SPARSEMOE_HD static void softmax_backward(Team team, const R* p, R* d, index_t n, R zslope) {
    R mean = 0;
    for (index_t j = team.lane(); j < n; j += Team::lanes) mean += p[j] * d[j];
    mean = team.sum(mean);
    for (index_t j = team.lane(); j < n; j += Team::lanes) d[j] = p[j] * (d[j] - mean + zslope);
  }
};

/// gates(u, k): the weights of a row's choices before any is dropped; for losses made of them.
template <class Router, class R>
struct GateWeights {
  GateColumns<Router> columns;
  Matrix<const R> scores;
  const std::int32_t *chosen, *weight;
  R* gates;  // (U, K)
  SPARSEMOE_HD void operator()(index_t u) const {
    const index_t K = columns.choices();
    R* out = gates + u * K;
    const std::int32_t* c = chosen + u * K;
    if (weight[u] == 0) {
      for (index_t k = 0; k < K; ++k) out[k] = R(0);
      return;
    }
    const R* p = scores.row(u).data;
    if constexpr (RouterTraits<Router>::two_level) {
      const TwoLevelRow<Router, R> row(columns, p, c);
      for (index_t k = 0; k < K; ++k) out[k] = row.outer[k / row.second_k] * row.inner[k];
    } else {
      R sum = 0;
      for (index_t k = 0; k < K; ++k) sum += p[c[k]];
      for (index_t k = 0; k < K; ++k) out[k] = p[c[k]] / sum;
    }
  }
};
/// weight(t, k) = gates(t, k) of what is kept, else 0.
template <class R>
struct KeptGates {
  const R* gates;            // (T, K)
  const std::int32_t* slot;  // (K T)
  index_t tokens, top_k;
  R* weight;
  SPARSEMOE_HD void operator()(index_t i) const {
    weight[i] = slot[i % top_k * tokens + i / top_k] >= 0 ? gates[i] : R(0);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

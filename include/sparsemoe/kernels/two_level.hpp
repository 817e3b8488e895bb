// kernels/two_level.hpp -- the weights of a two-level gate and their gradient: a leaf's weight is that of its branch,
// over the branches chosen, times its own, over those chosen in the branch (Shazeer et al. 2017, equation 12).
// Read next: routers/hierarchical.hpp, nn/routing.hpp.
#pragma once

#include "sparsemoe/kernels/noise.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The chosen of one row: first_k branches, in each second_k leaves; leaf k is leaf k % second_k of branch k /
/// second_k.
template <class Router, class R>
struct TwoLevelRow {
  static constexpr int first_k = GateColumns<Router>::first_k, second_k = GateColumns<Router>::second_k;
  index_t branch[first_k], leaf[first_k][second_k];  // columns of the gate
  R outer[first_k], inner[first_k][second_k];        // normalised weights
  R outer_sum = 0, inner_sum[first_k];

  SPARSEMOE_HD TwoLevelRow(const GateColumns<Router>& columns, const R* p, const std::int32_t* chosen) {
    for (int i = 0; i < first_k; ++i) {
      branch[i] = chosen[i * second_k] / columns.per_branch();
      outer_sum += p[branch[i]];
      inner_sum[i] = R(0);
      for (int j = 0; j < second_k; ++j) {
        leaf[i][j] = columns.branches + chosen[i * second_k + j];
        inner_sum[i] += p[leaf[i][j]];
      }
    }
    for (int i = 0; i < first_k; ++i) {
      outer[i] = p[branch[i]] / outer_sum;
      for (int j = 0; j < second_k; ++j) inner[i][j] = p[leaf[i][j]] / inner_sum[i];
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
    const Weights w(columns, p, chosen + u * Router::top_k);
    const R* dw = dgate + u * Router::top_k;
    R douter[Weights::first_k], mean = 0;
    for (int i = 0; i < Weights::first_k; ++i) {
      douter[i] = R(0);
      for (int j = 0; j < Weights::second_k; ++j) douter[i] += dw[i * Weights::second_k + j] * w.inner[i][j];
      mean += douter[i] * w.outer[i];
    }
    for (int i = 0; i < Weights::first_k; ++i) {
      d[w.branch[i]] += w.outer[i] * (douter[i] - mean);
      // d inner(j) = outer dw(j), whose mean under the inner weights is outer douter.
      for (int j = 0; j < Weights::second_k; ++j)
        d[w.leaf[i][j]] = w.inner[i][j] * w.outer[i] * (dw[i * Weights::second_k + j] - douter[i]);
    }
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
    constexpr int K = Router::top_k;
    R* out = gates + u * K;
    const std::int32_t* c = chosen + u * K;
    if (weight[u] == 0) {
      for (int k = 0; k < K; ++k) out[k] = R(0);
      return;
    }
    const R* p = scores.row(u).data;
    if constexpr (RouterTraits<Router>::two_level) {
      const TwoLevelRow<Router, R> row(columns, p, c);
      for (int k = 0; k < K; ++k) out[k] = row.outer[k / row.second_k] * row.inner[k / row.second_k][k % row.second_k];
    } else {
      R sum = 0;
      for (int k = 0; k < K; ++k) sum += p[c[k]];
      for (int k = 0; k < K; ++k) out[k] = p[c[k]] / sum;
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

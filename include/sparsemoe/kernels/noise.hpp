// SPDX-License-Identifier: Apache-2.0
// kernels/noise.hpp -- learned noise on the logits of a gate, and what it makes differentiable: the probability that an
// expert is chosen, whose sum over a batch is its smooth load (Shazeer et al. 2017, section 2.1 and appendix A).
// Read next: kernels/importance.hpp for the losses made of it, routers/noisy.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"
#include "sparsemoe/kernels/columns.hpp"
#include "sparsemoe/math.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The parts of a noisy gate, one row a token: H = clean + noise * sigma, sigma = softplus(raw) + epsilon, where raw is
/// x W_noise (equation 4).
template <class Router, class R>
struct NoisyLogits {
  Router router;
  Matrix<const R> clean, raw;  // (U, columns)
  Matrix<R> noisy;             // (U, columns) H, kept
  Random random;
  SPARSEMOE_HD R noise(index_t u, index_t c) const {
    return R(router.noise(random, static_cast<std::uint64_t>(u * clean.cols + c)));
  }
  SPARSEMOE_HD R sigma(index_t u, index_t c) const { return math::log1p_exp(raw(u, c)) + R(router.noise_epsilon); }
};
/// Row u of H, and the logits the gate goes on with; threshold(u, part) = the columns of the k-th and (k+1)-th largest
/// of a part, or -1 where there are not more than k.
template <class Router, class R>
struct NoisyLogitsRow {
  NoisyLogits<Router, R> logits;
  GateColumns<Router> columns;
  Matrix<R> scores;                // (U, columns)
  Matrix<std::int32_t> threshold;  // (U, 2 parts)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    for (index_t c = team.lane(); c < scores.cols; c += Team::lanes)
      scores(u, c) = logits.noisy(u, c) = logits.clean(u, c) + logits.noise(u, c) * logits.sigma(u, c);
    (void)team.sum(R(0));  // every lane's part is written before one lane reads it
    if (team.lane() != 0) return;
    for (index_t part = 0; part < columns.parts(); ++part) {
      if (part == 0)
        find<GateColumns<Router>::most_first_k>(u, part, columns.first_k);
      else
        find<GateColumns<Router>::most_second_k>(u, part, columns.second_k);
    }
  }

 private:
  template <index_t Most>
  SPARSEMOE_HD void find(index_t u, index_t part, index_t k) const {
    constexpr int N = static_cast<int>(Most) + 1;
    const index_t first = columns.begin(part);
    const Choice<N> top = best<N>(Row<const R>{scores.row(u).data + first, columns.size(part)});
    const bool enough = top.expert[k] >= 0;
    threshold(u, 2 * part) = enough ? top.expert[k - 1] + static_cast<std::int32_t>(first) : -1;
    threshold(u, 2 * part + 1) = enough ? top.expert[k] + static_cast<std::int32_t>(first) : -1;
  }
};

/// P(x, i) of equation 9: the probability that i is among the k best when its own noise alone is drawn again; 0 in the
/// branches that were not chosen. Without noise, or with no more than k to choose from, 1 for what was chosen.
template <class Router, class R>
struct LoadTerm {
  NoisyLogits<Router, R> logits;  // read if threshold is there
  GateColumns<Router> columns;
  Matrix<const std::int32_t> threshold;  // empty: no noise
  const std::int32_t *chosen, *weight;   // (U, K), (U)

  struct Distance {
    R z, sigma;
    std::int32_t from;  // the column that gave the threshold; -1: there is none
  };
  /// z = (clean - tau) / sigma (equation 9), tau the k-th largest of the others (kth_excluding).
  SPARSEMOE_HD Distance distance(index_t u, index_t c) const {
    const index_t part = columns.part_of(c);
    if (threshold.empty() || threshold(u, 2 * part) < 0) return {R(0), R(1), -1};
    const std::int32_t last = threshold(u, 2 * part), next = threshold(u, 2 * part + 1);
    const R next_value = logits.noisy(u, next);
    const bool inside = logits.noisy(u, c) > next_value;
    const R tau = inside ? next_value : logits.noisy(u, last);
    const R sigma = logits.sigma(u, c);
    return {(logits.clean(u, c) - tau) / sigma, sigma, inside ? next : last};
  }
  SPARSEMOE_HD const std::int32_t* row(index_t u) const { return chosen + u * columns.choices(); }
  SPARSEMOE_HD bool reachable(index_t u, index_t c) const {
    const index_t part = columns.part_of(c);
    return weight[u] != 0 && (part == 0 || columns.holds(part - 1, row(u)));
  }
  SPARSEMOE_HD R probability(index_t u, index_t c) const {
    if (!reachable(u, c)) return R(0);
    const Distance d = distance(u, c);
    if (d.from < 0) return columns.holds(c, row(u)) ? R(1) : R(0);
    return R(0.5) * std::erfc(-d.z * R(0.70710678118654752));
  }
  SPARSEMOE_HD R operator()(index_t u, index_t c) const { return R(weight[u]) * probability(u, c); }
};

/// The way back of a noisy gate: dlogits comes in as the gradient of H and leaves as that of the clean logits; draw is
/// that of raw. `load` (columns) is the gradient of the loss of each column's load, or null.
template <class Router, class R>
struct NoiseBackwardRow {
  LoadTerm<Router, R> term;
  const R* load;
  Matrix<R> dlogits, draw;  // (U, columns)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    const auto& logits = term.logits;
    const index_t n = dlogits.cols;
    for (index_t c = team.lane(); c < n; c += Team::lanes) draw(u, c) = R(0);
    (void)team.sum(R(0));
    // The load's own gradients go to H of the thresholds first (by one lane: two columns may share one), then all of H
    // goes to the clean logits and to sigma.
    if (load != nullptr && term.weight[u] != 0 && team.lane() == 0)
      for (index_t c = 0; c < n; ++c) {
        const Slope s = slope(u, c);
        if (s.from >= 0) dlogits(u, s.from) -= s.clean;
      }
    (void)team.sum(R(0));
    for (index_t c = team.lane(); c < n; c += Team::lanes) {
      R dsigma = dlogits(u, c) * logits.noise(u, c);
      if (load != nullptr && term.weight[u] != 0) {
        const Slope s = slope(u, c);
        dlogits(u, c) += s.clean;
        dsigma += s.sigma;
      }
      draw(u, c) = dsigma * math::sigmoid(logits.raw(u, c));
    }
  }

 private:
  struct Slope {
    R clean, sigma;  // d loss / d clean logit (and minus that of tau), d loss / d sigma
    std::int32_t from;
  };
  SPARSEMOE_HD Slope slope(index_t u, index_t c) const {
    if (!term.reachable(u, c)) return {R(0), R(0), -1};
    const auto d = term.distance(u, c);
    if (d.from < 0) return {R(0), R(0), -1};
    const R density = R(0.39894228040143268) * math::exp(R(-0.5) * d.z * d.z);
    const R clean = load[c] * R(term.weight[u]) * density / d.sigma;
    return {clean, -clean * d.z, d.from};
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// kernels/routing.hpp -- from scores to choices and combine weights: the first functors of a sparse layer.
// A row is a token, a sentence or a task, by the router's level. Read next: kernels/tokens.hpp and kernels/columns.hpp
// for what a row is; kernels/dispatch.hpp for what is done with the choices, kernels/gate.hpp for the way back.
#pragma once

#include "sparsemoe/kernels/columns.hpp"
#include "sparsemoe/kernels/tokens.hpp"
#include "sparsemoe/math.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The router's own copy of its input, in its precision; with jitter eps > 0 each element times U(1 - eps, 1 + eps).
template <class S, class R>
struct RouterInputRow {
  Matrix<const S> x;
  Matrix<R> y;
  R jitter;
  Random random;
  SPARSEMOE_HD R factor(index_t i) const {
    return R(1) + jitter * (R(2) * R(random.uniform(Purpose::jitter, static_cast<std::uint64_t>(i))) - R(1));
  }
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* in = x.row(r).data;
    R* out = y.row(r).data;
    if (jitter <= R(0))
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = R(in[j]);
    else
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = R(in[j]) * factor(r * y.cols + j);
  }
};
/// y = x times the same factors, for a layer whose experts see them too; also its own way back.
template <class S, class R>
struct JitterRow {
  Matrix<const S> x;
  Matrix<S> y;
  R jitter;
  Random random;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const RouterInputRow<S, R> draws{{}, {}, jitter, random};
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(r, j) = S(R(x(r, j)) * draws.factor(r * y.cols + j));
  }
};
/// The way back: dx += d(router input) * factor.
template <class S, class R>
struct RouterInputBackwardRow {
  RouterInputRow<S, R> forward;
  Matrix<const R> dy;
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const R* in = dy.row(r).data;
    S* out = dx.row(r).data;
    if (forward.jitter <= R(0))
      for (index_t j = team.lane(); j < dy.cols; j += Team::lanes) out[j] = S(R(out[j]) + in[j]);
    else
      for (index_t j = team.lane(); j < dy.cols; j += Team::lanes)
        out[j] = S(R(out[j]) + in[j] * forward.factor(r * dy.cols + j));
  }
};

/// y(s) = mean over the valid tokens of sentence s, in the router's precision. A sentence without tokens gives 0.
template <class S, class R>
struct SentenceMeanRow {
  Matrix<const S> x;
  Tokens tokens;
  Matrix<R> y;  // (sentences, D)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    index_t n = 0;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(s, j) = R(0);
    for (index_t i = s * tokens.length; i < (s + 1) * tokens.length; ++i) {
      if (tokens.valid[i] == 0) continue;
      ++n;
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(s, j) += R(x(i, j));
    }
    const R scale = n > 0 ? R(1) / R(n) : R(0);
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(s, j) *= scale;
  }
};
/// dx(t) += dy(sentence of t) / (number of valid tokens)
template <class S, class R>
struct SentenceMeanBackwardRow {
  Matrix<const R> dy;
  Tokens tokens;
  const std::int32_t* weight;  // (sentences)
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    if (tokens.valid[t] == 0) return;
    const index_t s = t / tokens.length;
    const R scale = R(1) / R(weight[s]);
    for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) dx(t, j) = S(R(dx(t, j)) + dy(s, j) * scale);
  }
};

/// y(t) = mean of the valid tokens of its sentence up to and including t, in the router's precision; padding gives 0.
template <class S, class R>
struct PrefixMeanRow {
  Matrix<const S> x;
  Tokens tokens;
  Matrix<R> y;  // (T, D)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    const index_t first = s * tokens.length, last = first + tokens.length;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      R sum = 0;
      index_t n = 0;
      for (index_t t = first; t < last; ++t) {
        if (tokens.valid[t] == 0) {
          y(t, j) = R(0);
          continue;
        }
        sum += R(x(t, j));
        y(t, j) = sum * (R(1) / R(++n));
      }
    }
  }
};
/// y(r) = sum of the valid tokens of sentence r / group, in the order and with the bits of PrefixMeanRow.
template <class S, class R>
struct PrefixSumRow {
  Matrix<const S> x;
  Tokens tokens;
  index_t group;
  Matrix<R> y;  // (rows, D)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const index_t first = r / group * tokens.length;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      R sum = 0;
      for (index_t t = first; t < first + tokens.length; ++t)
        if (tokens.valid[t] != 0) sum += R(x(t, j));
      y(r, j) = sum;
    }
  }
};
/// One token a row, number n = its position + 1 of its sentence: sum += x, y = sum / n. The same bits as PrefixMeanRow.
template <class S, class R>
struct PrefixMeanStepRow {
  Matrix<const S> x;
  Matrix<R> sum, y;
  Tokens tokens;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const index_t n = tokens.place(r) + 1;
    const R scale = R(1) / R(n);
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      sum(r, j) = n > 1 ? sum(r, j) + R(x(r, j)) : R(x(r, j));
      y(r, j) = sum(r, j) * scale;
    }
  }
};
/// dx(t) += sum over the tokens i >= t of its sentence of dy(i) / (number of tokens up to i)
template <class S, class R>
struct PrefixMeanBackwardRow {
  Matrix<const R> dy;  // (T, D)
  Tokens tokens;
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    const index_t first = s * tokens.length, last = first + tokens.length;
    index_t all = 0;
    for (index_t t = first; t < last; ++t) all += tokens.valid[t] != 0 ? 1 : 0;
    for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) {
      R sum = 0;
      index_t n = all;
      for (index_t t = last; t-- > first;) {
        if (tokens.valid[t] == 0) continue;
        sum += dy(t, j) * (R(1) / R(n--));
        dx(t, j) = S(R(dx(t, j)) + sum);
      }
    }
  }
};

/// Row u of the logits += bias.
template <class R>
struct AddGateBias {
  const R* bias;  // (columns)
  Matrix<R> logits;
  SPARSEMOE_HD void operator()(index_t i) const { logits.data[i] += bias[i % logits.cols]; }
};

/// n logits become probabilities in place; lse and entropy are returned to every lane.
template <class R>
struct SoftmaxSums {
  R lse, entropy;
};
template <class R, class Team>
SPARSEMOE_HD SoftmaxSums<R> softmax_in_place(Team team, R* h, index_t n) {
  R top = h[0];
  for (index_t e = team.lane(); e < n; e += Team::lanes) top = h[e] > top ? h[e] : top;
  top = team.max(top);
  R total = 0, mean = 0;
  SPARSEMOE_PRAGMA(omp simd reduction(+ : total, mean))
  for (index_t e = team.lane(); e < n; e += Team::lanes) {
    const R v = math::exp(h[e] - top);
    total += v;
    mean += v * (h[e] - top);
    h[e] = v;
  }
  total = team.sum(total);
  mean = team.sum(mean) / total;
  const R scale = R(1) / total;
  for (index_t e = team.lane(); e < n; e += Team::lanes) h[e] *= scale;
  return {top + std::log(total), std::log(total) - mean};
}
/// n logits become sigmoids in place; lse is their sum, entropy that of the shares of the sum.
template <class R, class Team>
SPARSEMOE_HD SoftmaxSums<R> sigmoid_in_place(Team team, R* h, index_t n) {
  R total = 0, mean = 0;
  for (index_t e = team.lane(); e < n; e += Team::lanes) {
    h[e] = math::sigmoid(h[e]);
    total += h[e];
    mean += h[e] > R(0) ? h[e] * std::log(h[e]) : R(0);
  }
  total = team.sum(total) + R(1e-20);
  mean = team.sum(mean) / total;
  return {total, std::log(total) - mean};
}

/// Row u: logits become scores in place; lse and entropy are kept (of a two-level gate: those of its branches); the
/// router chooses, unless it assigns whole groups later.
template <class Router, class R>
struct RouteRow {
  Router router;
  Matrix<R> scores;  // (U, columns) logits, becomes probabilities; null data for Level::none
  Units units;
  Tokens tokens;
  const std::int32_t* weight;  // (U)
  bool training;
  Random random;
  std::int32_t* chosen;  // (U, K)
  R *lse, *entropy;      // (U)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    using Traits = RouterTraits<Router>;
    if constexpr (Router::level != Level::none) {
      R* h = scores.row(u).data;
      SoftmaxSums<R> sums;
      if constexpr (Traits::two_level) {
        const auto columns = gate_columns(router, scores.cols - router.branches);
        sums = softmax_in_place(team, h, columns.size(0));
        for (index_t part = 1; part < columns.parts(); ++part)
          softmax_in_place(team, h + columns.begin(part), columns.size(part));
      } else if constexpr (Traits::score == Score::sigmoid) {
        sums = sigmoid_in_place(team, h, scores.cols);
      } else {
        sums = softmax_in_place(team, h, scores.cols);
      }
      if (team.lane() == 0) lse[u] = sums.lse, entropy[u] = sums.entropy;
    }
    if constexpr (!Traits::assigns) {
      (void)team.sum(R(0));  // every lane's part of the row is written before one lane reads it all
      if (team.lane() == 0) choose(u);
    }
  }

 private:
  SPARSEMOE_HD void choose(index_t u) const {
    constexpr int most = Router::top_k;
    const index_t K = experts_per_token(router);
    std::int32_t* out = chosen + u * K;
    if (weight[u] == 0) {
      for (index_t k = 0; k < K; ++k) out[k] = Choice<most>::none;
      return;
    }
    TokenInfo info;
    if (units.level == Level::token || units.level == Level::none) {
      info = token_info(tokens, u, training, random);
    } else {
      info.unit = u;
      info.training = training;
      info.random = random;
      if (units.level == Level::task) info.task = static_cast<std::int32_t>(u);
      if (units.level == Level::sentence) {
        info.sentence = static_cast<std::int32_t>(u);
        info.task = tokens.task != nullptr ? tokens.task[u] : 0;
      }
    }
    const Choice<most> c =
        router.choose(Row<const R>{scores.data != nullptr ? scores.row(u).data : nullptr, scores.cols}, info);
    for (index_t k = 0; k < K; ++k) out[k] = c.expert[k];
  }
};

/// Group g of a router that assigns whole groups: nothing is chosen, then the router says.
template <class Router, class R>
struct AssignGroupRow {
  Router router;
  Matrix<const R> scores, logits;  // (T, E); logits may be empty
  const R* thresholds;             // (E) or null
  const std::uint8_t* valid;
  Matrix<std::int32_t> chosen;  // (T, K)
  index_t group;
  std::int32_t capacity;
  bool training;
  Random random;
  std::int32_t* order;  // (T E) scratch
  R* values;            // (groups, 2 (group + E)) scratch
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t g) const {
    const index_t first = g * group, n = math::min(group, scores.rows - first), E = scores.cols;
    const Matrix<std::int32_t> mine = chosen.slice_rows(first, n);
    for (index_t i = team.lane(); i < mine.size(); i += Team::lanes) mine.data[i] = Choice<1>::none;
    (void)team.sum(R(0));
    const Matrix<const R> own_logits = logits.empty() ? logits : logits.slice_rows(first, n);
    const Matrix<std::int32_t> scratch(order + first * E, E, n);
    router.assign(team, Assignment<R>{scores.slice_rows(first, n), own_logits, thresholds, valid + first, mine,
                                      capacity, first, training, random, scratch, values + g * 2 * (group + E)});
  }
};

/// Expert output masking (NLLB): of the weights, and of their gradients. In training each is 0 with probability p; in
/// evaluation all are times 1 - p, so that the expectation is the same.
template <class R>
struct MaskOutputs {
  R p;
  bool training;
  Random random;
  R* weight;  // (T K)
  SPARSEMOE_HD void operator()(index_t i) const {
    if (!training)
      weight[i] *= R(1) - p;
    else if (R(random.uniform(Purpose::output_mask, static_cast<std::uint64_t>(i))) < p)
      weight[i] = R(0);
  }
};

/// Combine weights of token t: w(t, k), 0 for what is not kept.
template <class Router, class R>
struct CombineWeights {
  Choices choices;
  Matrix<const R> scores;    // (U, E)
  const std::int32_t* slot;  // (K T)
  index_t tokens;
  R* weight;           // (T, K)
  R scale = R(1);      // of all weights
  Router router = {};  // read with Gate::own
  SPARSEMOE_HD void operator()(index_t t) const {
    const index_t K = choices.top_k;
    const index_t u = choices.units.of(t);
    R chosen = 0;
    if constexpr (Router::gate == Gate::normalised || Router::gate == Gate::normalised_after_drop)
      for (index_t k = 0; k < K; ++k) {
        const std::int32_t v = choices.at(t, k);
        const bool counts = Router::gate == Gate::normalised ? v != -1 : slot[k * tokens + t] >= 0;
        if (counts) chosen += scores(u, Choice<1>::expert_of(v));
      }
    [[maybe_unused]] R own[Router::top_k > 0 ? Router::top_k : 1];
    if constexpr (Router::gate == Gate::own) {
      bool kept[Router::top_k];
      for (index_t k = 0; k < K; ++k) kept[k] = slot[k * tokens + t] >= 0;
      if (choices.valid[t] != 0)
        router.weigh(Row<const R>{scores.row(u).data, scores.cols}, choices.chosen + u * K, kept, own);
    }
    for (index_t k = 0; k < K; ++k) {
      R w = 0;
      const std::int32_t e = choices.at(t, k);
      if (slot[k * tokens + t] >= 0 || (RouterTraits<Router>::passes_dropped && e >= 0)) {
        if constexpr (Router::gate == Gate::own)
          w = own[k];
        else if constexpr (Router::gate == Gate::constant)
          w = R(1) / R(K);
        else if constexpr (Router::gate == Gate::probability)
          w = scores(u, e);
        else
          w = scores(u, e) / chosen;
      }
      weight[t * K + k] = w * scale;
    }
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// infer/candidates.hpp -- from logits to the continuations a search looks at: the normaliser of a row, ids that may not
// come next, and the best few of a row. Row functors for both devices; a row's results do not depend on other rows.
// Read next: infer/beam.hpp, which chooses among the candidates of all beams.
#pragma once

#include <cmath>

#include "sparsemoe/math.hpp"
#include "sparsemoe/team.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// lse(r) = log(sum over j of e^x(r, j)): log p(j) = x(r, j) - lse(r).
template <class S, class C>
struct LogSumRow {
  Matrix<const S> logits;  // (rows, V)
  C* lse;                  // (rows)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* x = logits.row(r).data;
    C top = C(-3e38);
    SPARSEMOE_SIMD_MAX(top)
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes) top = C(x[j]) > top ? C(x[j]) : top;
    top = team.max(top);
    C total = 0;
    SPARSEMOE_SIMD_SUM(total)
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes) total += math::exp(C(x[j]) - top);
    total = team.sum(total);
    if (team.lane() == 0) lse[r] = top + std::log(total);
  }
};

/// What EditScores does to a score x: x + its bias, x by or over a factor so that a factor above 1 makes it less
/// likely, minus infinity, x + |x| times a factor. Minus infinity stays.
enum class ScoreChange { add, penalise, exclude, grow };

/// Changes the scores that pairs name; scores are logits less `shift` of their row. No pair stands there twice, except
/// to be excluded.
template <class S, class C>
struct EditScores {
  Matrix<S> logits;
  const std::int32_t* pairs;  // (n, 2): row, id
  const C* shift;             // (rows), or null for 0
  const float* biases;        // (n), of `add`
  ScoreChange change;
  C by;
  SPARSEMOE_HD void operator()(index_t i) const {
    const std::int32_t row = pairs[2 * i];
    S& at = logits(row, pairs[2 * i + 1]);
    if (change == ScoreChange::exclude) {
      at = S(-INFINITY);
      return;
    }
    const C base = shift != nullptr ? shift[row] : C(0), x = C(at) - base;
    if (!(x > C(-3e38))) return;
    C y = x;
    switch (change) {
      case ScoreChange::add: y = x + C(biases[i]); break;
      case ScoreChange::penalise: y = x < C(0) ? x * by : x / by; break;
      case ScoreChange::grow: y = x + (x < C(0) ? -x : x) * by; break;
      case ScoreChange::exclude: break;
    }
    at = S(y + base);
  }
};

/// Scores of a row that are NaN become 0, infinity the largest number. `shifted` scores are logits less lse, as by
/// log_softmax: one NaN makes all of them NaN, and beside an infinity nothing else is possible.
template <class S, class C>
struct RemoveInvalidRow {
  Matrix<S> logits;  // (rows, V)
  C* lse;            // (rows)
  bool shifted;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const bool finite = lse[r] - lse[r] == C(0);
    C nan = 0;
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes)
      nan = C(logits(r, j)) != C(logits(r, j)) ? C(1) : nan;
    nan = team.max(nan);
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes) {
      const C x = C(logits(r, j));
      const bool infinite = x > C(3e38);
      if (shifted && !finite)
        logits(r, j) = nan > C(0) || infinite ? S(C(0)) : S(-INFINITY);
      else if (x != x)
        logits(r, j) = S(C(0));
      else if (infinite)
        logits(r, j) = S(C(3e38));
    }
    if (!finite && team.lane() == 0) lse[r] = C(0);
  }
};

/// The `count` largest logits of a row, largest first, ties to the lower id, as (id, logit); id -1 where there are
/// fewer. Banned ids, minus infinity and NaN are never among them. Every lane keeps the best of what it reads; then the
/// heads of the lanes' lists are taken one by one.
template <class S, class C>
struct BestRow {
  static constexpr int most = 128;
  Matrix<const S> logits;      // (rows, V)
  const std::uint8_t* banned;  // (V) or null
  int count;                   // at most `most`
  std::int32_t* ids;           // (rows, count)
  C* values;                   // (rows, count)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* x = logits.row(r).data;
    const C low = C(-3e38);
    C value[most];
    std::int32_t id[most];
    int held = 0;
    C worst = low;  // what an entry must beat
    constexpr index_t run = 64;
    for (index_t base = team.lane(); base < logits.cols; base += run * Team::lanes) {
      const index_t end = math::min(base + run * Team::lanes, logits.cols);
      C top = low;
      SPARSEMOE_SIMD_MAX(top)
      for (index_t j = base; j < end; j += Team::lanes) top = C(x[j]) > top ? C(x[j]) : top;
      if (!(top > worst)) continue;  // most runs end here
      for (index_t j = base; j < end; j += Team::lanes) {
        const C v = C(x[j]);
        if (!(v > worst) || (banned != nullptr && banned[j] != 0)) continue;
        int at = held < count ? held++ : count - 1;
        for (; at > 0 && v > value[at - 1]; --at) value[at] = value[at - 1], id[at] = id[at - 1];
        value[at] = v, id[at] = static_cast<std::int32_t>(j);
        if (held == count) worst = value[count - 1];
      }
    }
    int next = 0;
    for (int k = 0; k < count; ++k) {
      const C mine = next < held ? value[next] : low, best = team.max(mine);
      // The lowest id that has it, as a maximum of negated ids: exact in C up to 2^24 ids.
      const C first = team.max(next < held && mine == best ? -C(id[next]) : low);
      const bool none = !(best > low);
      if (!none && next < held && mine == best && -C(id[next]) == first) ++next;
      if (team.lane() != 0) continue;
      ids[r * count + k] = none ? -1 : static_cast<std::int32_t>(-first);
      values[r * count + k] = best;
    }
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// kernels/routing.hpp -- the functors of a sparse layer: score to choice, slots under capacity, gather, combine, and the
// gradients. Positions are integers, slots are given by a stable counting sort (choice-major, then token order), combine
// is a gather in fixed order: no atomics, no tokens x experts x capacity tensor, the same bits every time.
// Read next: nn/moe.hpp, which calls them in this order.
#pragma once

#include "sparsemoe/backend/team.hpp"
#include "sparsemoe/concepts.hpp"
#include "sparsemoe/math.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The tokens of a batch as a stack sees them: `sentences` rows of `length`, token t = sentence * length + column.
/// Pointers are in the backend's memory.
struct Tokens {
  index_t sentences = 0, length = 0;
  const std::int32_t* ids = nullptr;       // (T) ids fed into the stack
  const std::uint8_t* valid = nullptr;     // (T) 1, or 0 for padding
  const std::int32_t* task = nullptr;      // (sentences)
  index_t position = 0;                    // of column 0: more than 0 in step-by-step decoding
  const std::int32_t* previous = nullptr;  // (T) ids before these, for a decoding step; null: the column to the left
  index_t count() const { return sentences * length; }
};

/// Which scored row a token belongs to.
struct Units {
  Level level;
  index_t length;
  const std::int32_t* task;
  SPARSEMOE_HD index_t of(index_t t) const {
    if (level == Level::sentence) return t / length;
    if (level == Level::task) return task[t / length];
    return t;
  }
};

/// chosen(unit, k) seen token by token; padding has no choice.
struct Choices {
  Units units;
  const std::int32_t* chosen;  // (U, K)
  const std::uint8_t* valid;   // (T)
  index_t top_k;
  SPARSEMOE_HD std::int32_t at(index_t t, index_t k) const {
    return valid[t] != 0 ? chosen[units.of(t) * top_k + k] : std::int32_t(-1);
  }
};

SPARSEMOE_HD inline TokenInfo token_info(const Tokens& tokens, index_t t, bool training, const Random& random) {
  TokenInfo info;
  const index_t column = t % tokens.length;
  info.id = tokens.ids != nullptr ? tokens.ids[t] : 0;
  if (tokens.previous != nullptr)
    info.previous = tokens.previous[t];
  else
    info.previous = column > 0 && tokens.ids != nullptr ? tokens.ids[t - 1] : -1;
  info.position = static_cast<std::int32_t>(tokens.position + column);
  info.sentence = static_cast<std::int32_t>(t / tokens.length);
  info.task = tokens.task != nullptr ? tokens.task[t / tokens.length] : 0;
  info.unit = t;
  info.training = training;
  info.random = random;
  return info;
}

/// weight(u) = number of valid tokens that share row u.
struct UnitWeights {
  Units units;
  Tokens tokens;
  std::int32_t* weight;
  SPARSEMOE_HD void operator()(index_t u) const {
    if (units.level == Level::token || units.level == Level::none) {
      weight[u] = tokens.valid[u] != 0 ? 1 : 0;
      return;
    }
    std::int32_t n = 0;
    for (index_t s = 0; s < tokens.sentences; ++s) {
      if (units.level == Level::sentence ? s != u : tokens.task[s] != u) continue;
      for (index_t i = 0; i < tokens.length; ++i) n += tokens.valid[s * tokens.length + i] != 0 ? 1 : 0;
    }
    weight[u] = n;
  }
};

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

/// Row u: logits become probabilities in place; lse and entropy are kept; the router chooses.
template <class Router, class R>
struct RouteRow {
  Router router;
  Matrix<R> scores;  // (U, E) logits, becomes probabilities; null data for Level::none
  Units units;
  Tokens tokens;
  const std::int32_t* weight;  // (U)
  bool training;
  Random random;
  std::int32_t* chosen;  // (U, K)
  R *lse, *entropy;      // (U)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    constexpr int K = Router::top_k;
    if constexpr (Router::level != Level::none) {
      R* h = scores.row(u).data;
      R top = h[0];
      for (index_t e = team.lane(); e < scores.cols; e += Team::lanes) top = h[e] > top ? h[e] : top;
      top = team.max(top);
      R total = 0, mean = 0;
      SPARSEMOE_PRAGMA(omp simd reduction(+ : total, mean))
      for (index_t e = team.lane(); e < scores.cols; e += Team::lanes) {
        const R v = math::exp(h[e] - top);
        total += v;
        mean += v * (h[e] - top);
        h[e] = v;
      }
      total = team.sum(total);
      mean = team.sum(mean) / total;
      const R scale = R(1) / total;
      for (index_t e = team.lane(); e < scores.cols; e += Team::lanes) h[e] *= scale;
      if (team.lane() == 0) {
        lse[u] = top + std::log(total);
        entropy[u] = std::log(total) - mean;
      }
    }
    (void)team.sum(R(0));  // every lane's part of the row is written before one lane reads it all
    if (team.lane() != 0) return;
    std::int32_t* out = chosen + u * K;
    if (weight[u] == 0) {
      for (int k = 0; k < K; ++k) out[k] = Choice<K>::none;
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
    const Choice<K> c = router.choose(Row<const R>{scores.data != nullptr ? scores.row(u).data : nullptr, scores.cols}, info);
    for (int k = 0; k < K; ++k) out[k] = c.expert[k];
  }
};

// --------------------------------------------------------------------------------------------------- dispatch
/// The order in which choices take slots: groups of `group` tokens, in a group choice-major then token order. Cut into
/// chunks that never cross a group, so that chunks count in parallel and a scan joins them.
struct SlotOrder {
  static constexpr index_t run = 256;
  index_t tokens, top_k, group;
  SPARSEMOE_HD index_t groups() const { return (tokens + group - 1) / group; }
  SPARSEMOE_HD index_t chunks_per_group() const { return (group * top_k + run - 1) / run; }
  SPARSEMOE_HD index_t chunks() const { return groups() * chunks_per_group(); }
  SPARSEMOE_HD index_t group_size(index_t g) const { return math::min(group, tokens - g * group); }
  struct Place {
    index_t t, k;
  };
  SPARSEMOE_HD index_t begin(index_t chunk) const { return chunk % chunks_per_group() * run; }
  SPARSEMOE_HD index_t end(index_t chunk) const {
    return math::min(begin(chunk) + run, group_size(chunk / chunks_per_group()) * top_k);
  }
  SPARSEMOE_HD Place place(index_t chunk, index_t q) const {
    const index_t g = chunk / chunks_per_group(), n = group_size(g);
    return {g * group + q % n, q / n};
  }
};

/// count(e, chunk) = choices of expert e in the chunk that take a slot.
struct CountChoices {
  Choices choices;
  SlotOrder order;
  bool rejected_count;
  Matrix<std::int32_t> count;  // (E, chunks)
  SPARSEMOE_HD void operator()(index_t chunk) const {
    for (index_t e = 0; e < count.rows; ++e) count(e, chunk) = 0;
    for (index_t q = order.begin(chunk); q < order.end(chunk); ++q) {
      const auto p = order.place(chunk, q);
      const std::int32_t v = choices.at(p.t, p.k);
      if (v == -1 || (v < -1 && !rejected_count)) continue;
      ++count(Choice<1>::expert_of(v), chunk);
    }
  }
};
/// slot(k T + t) = 0 where the choice is kept (position in its group and expert below the capacity), -1 elsewhere;
/// kept(e, chunk) counts. `position` is the scanned count; it is consumed.
struct KeepChoices {
  Choices choices;
  SlotOrder order;
  bool rejected_count;
  std::int32_t capacity;           // 0: no limit, and position is not read
  Matrix<std::int32_t> position;   // (E, chunks)
  Matrix<const std::int32_t> first;  // the scan again, not consumed: position of a group's first chunk
  Matrix<std::int32_t> kept;       // (E, chunks)
  std::int32_t* slot;              // (K T)
  SPARSEMOE_HD void operator()(index_t chunk) const {
    const index_t group_start = chunk / order.chunks_per_group() * order.chunks_per_group();
    for (index_t e = 0; e < kept.rows; ++e) kept(e, chunk) = 0;
    for (index_t q = order.begin(chunk); q < order.end(chunk); ++q) {
      const auto p = order.place(chunk, q);
      const std::int32_t v = choices.at(p.t, p.k);
      bool keep = v >= 0;
      if (capacity > 0 && v != -1 && (v >= 0 || rejected_count)) {
        const std::int32_t e = Choice<1>::expert_of(v);
        const std::int32_t place = position(e, chunk)++ - first(e, group_start);
        keep = keep && place < capacity;
      }
      slot[p.k * order.tokens + p.t] = keep ? 0 : -1;
      if (keep) ++kept(v, chunk);
    }
  }
};
/// Kept choices get their slot: experts one after another, within one in slot order. `next` is the scanned kept count.
struct AssignSlots {
  Choices choices;
  SlotOrder order;
  Matrix<std::int32_t> next;  // (E, chunks)
  std::int32_t* slot;         // (K T)
  std::int32_t* source;       // (slots) k T + t
  SPARSEMOE_HD void operator()(index_t chunk) const {
    for (index_t q = order.begin(chunk); q < order.end(chunk); ++q) {
      const auto p = order.place(chunk, q);
      const index_t c = p.k * order.tokens + p.t;
      if (slot[c] < 0) continue;
      const std::int32_t s = next(choices.at(p.t, p.k), chunk)++;
      slot[c] = s;
      source[s] = static_cast<std::int32_t>(c);
    }
  }
};
/// offsets(e) = first slot of expert e; offsets(E) = number of slots in use.
struct SlotOffsets {
  const std::int32_t* scanned;  // (E chunks + 1)
  index_t chunks;
  std::int32_t* offsets;
  SPARSEMOE_HD void operator()(index_t e) const { offsets[e] = scanned[e * chunks]; }
};
/// expert(slot), for the epilogues of the expert products.
struct SlotExpert {
  const std::int32_t* offsets;
  std::int32_t* expert;
  SPARSEMOE_HD void operator()(index_t e) const {
    for (std::int32_t s = offsets[e]; s < offsets[e + 1]; ++s) expert[s] = static_cast<std::int32_t>(e);
  }
};

/// used(task, e) = choices of expert e made by tokens of the task, the first `top` choices, before any is dropped.
struct CountUsage {
  Choices choices;
  Tokens tokens;
  index_t top;
  Matrix<std::int32_t> used;  // (tasks, E)
  SPARSEMOE_HD void operator()(index_t task) const {
    for (index_t e = 0; e < used.cols; ++e) used(task, e) = 0;
    for (index_t s = 0; s < tokens.sentences; ++s) {
      if ((tokens.task != nullptr ? tokens.task[s] : 0) != task) continue;
      for (index_t t = s * tokens.length; t < (s + 1) * tokens.length; ++t)
        for (index_t k = 0; k < top; ++k) {
          const std::int32_t v = choices.at(t, k);
          if (v != -1) ++used(task, Choice<1>::expert_of(v));
        }
    }
  }
};

/// Combine weights of token t: w(t, k), 0 for what is not kept.
template <class Router, class R>
struct CombineWeights {
  Choices choices;
  Matrix<const R> scores;    // (U, E)
  const std::int32_t* slot;  // (K T)
  index_t tokens;
  R* weight;  // (T, K)
  SPARSEMOE_HD void operator()(index_t t) const {
    constexpr int K = Router::top_k;
    const index_t u = choices.units.of(t);
    R chosen = 0;
    if constexpr (Router::gate == Gate::normalised || Router::gate == Gate::normalised_after_drop)
      for (int k = 0; k < K; ++k) {
        const std::int32_t v = choices.at(t, k);
        const bool counts = Router::gate == Gate::normalised ? v != -1 : slot[k * tokens + t] >= 0;
        if (counts) chosen += scores(u, Choice<1>::expert_of(v));
      }
    for (int k = 0; k < K; ++k) {
      R w = 0;
      if (slot[k * tokens + t] >= 0) {
        const std::int32_t e = choices.at(t, k);
        if constexpr (Router::gate == Gate::constant)
          w = R(1) / R(K);
        else if constexpr (Router::gate == Gate::probability)
          w = scores(u, e);
        else
          w = scores(u, e) / chosen;
      }
      weight[t * K + k] = w;
    }
  }
};

/// x(slot) = tokens(source), for slots in use.
template <class S>
struct GatherRow {
  Matrix<const S> x;            // (T, D)
  const std::int32_t* source;   // (slots) k T + t
  const std::int32_t* in_use;   // offsets + E
  index_t tokens;
  Matrix<S> y;  // (slots, D)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    if (s >= *in_use) return;
    const S* in = x.row(source[s] % tokens).data;
    S* out = y.row(s).data;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) out[j] = in[j];
  }
};
/// y(t) = sum over k, in order, of w(t, k) * outputs(slot(t, k)).
template <class P>
struct CombineRow {
  using S = typename P::storage;
  using C = typename P::compute;
  using R = typename P::router;
  Matrix<const S> outputs;   // (slots, D)
  const std::int32_t* slot;  // (K T)
  const R* weight;           // (T, K)
  index_t top_k;
  Matrix<S> y;  // (T, D)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    S* out = y.row(t).data;
    const std::int32_t s0 = slot[t], s1 = top_k > 1 ? slot[y.rows + t] : -1;
    const C w0 = C(weight[t * top_k]), w1 = top_k > 1 ? C(weight[t * top_k + 1]) : C(0);
    if (top_k <= 2) {
      const S* a = s0 >= 0 ? outputs.row(s0).data : nullptr;
      const S* b = s1 >= 0 ? outputs.row(s1).data : nullptr;
      if (a != nullptr && b != nullptr)
        for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = S(w0 * C(a[j]) + w1 * C(b[j]));
      else if (a != nullptr)
        for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = S(w0 * C(a[j]));
      else if (b != nullptr)
        for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = S(w1 * C(b[j]));
      else
        for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = S(C(0));
      return;
    }
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      C total = 0;
      for (index_t k = 0; k < top_k; ++k) {
        const std::int32_t s = slot[k * y.rows + t];
        if (s >= 0) total += C(weight[t * top_k + k]) * C(outputs(s, j));
      }
      out[j] = S(total);
    }
  }
};
/// dweight(t, k) = what the caller's own losses want of a kept combine weight; that of a dropped one is a constant 0.
template <class R>
struct KeptWeightGradient {
  Matrix<const R> dcombine;  // (T, K), or empty
  const std::int32_t* slot;
  R* dweight;
  index_t tokens, top_k;
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t t = i / top_k, k = i % top_k;
    dweight[i] = !dcombine.empty() && slot[k * tokens + t] >= 0 ? dcombine(t, k) : R(0);
  }
};
/// Slot s of (t, k): doutput(s) = w dy(t), dweight(t, k) += <dy(t), output(s)>.
template <class P>
struct CombineBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  using R = typename P::router;
  Matrix<const S> dy, outputs;
  const std::int32_t *source, *in_use;
  const R* weight;
  index_t top_k, tokens;
  Matrix<S> doutputs;
  R* dweight;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t s) const {
    if (s >= *in_use) return;
    const index_t t = source[s] % tokens, k = source[s] / tokens;
    const C w = C(weight[t * top_k + k]);
    const S *g = dy.row(t).data, *y = outputs.row(s).data;
    S* d = doutputs.row(s).data;
    C dot = 0;
    SPARSEMOE_SIMD_SUM(dot)
    for (index_t j = team.lane(); j < dy.cols; j += Team::lanes) dot += C(g[j]) * C(y[j]);
    for (index_t j = team.lane(); j < dy.cols; j += Team::lanes) d[j] = S(w * C(g[j]));
    dot = team.sum(dot);
    if (team.lane() == 0) dweight[t * top_k + k] += R(dot);
  }
};
/// dx(t) = sum over k, in order, of dinputs(slot(t, k)).
template <class P>
struct GatherBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> dinputs;
  const std::int32_t* slot;
  index_t top_k;
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    S* out = dx.row(t).data;
    const std::int32_t s0 = slot[t], s1 = top_k > 1 ? slot[dx.rows + t] : -1;
    if (top_k <= 2) {
      const S* a = s0 >= 0 ? dinputs.row(s0).data : s1 >= 0 ? dinputs.row(s1).data : nullptr;
      const S* b = s0 >= 0 && s1 >= 0 ? dinputs.row(s1).data : nullptr;
      if (b != nullptr)
        for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) out[j] = S(C(a[j]) + C(b[j]));
      else if (a != nullptr)
        for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) out[j] = a[j];
      else
        for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) out[j] = S(C(0));
      return;
    }
    for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) {
      C total = 0;
      for (index_t k = 0; k < top_k; ++k) {
        const std::int32_t s = slot[k * dx.rows + t];
        if (s >= 0) total += C(dinputs(s, j));
      }
      out[j] = S(total);
    }
  }
};

// ----------------------------------------------------------------------------------------- losses and the gate
/// Sums the balance loss needs: probability mass of an expert over tokens, a term of add_column_sums.
template <class R>
struct ProbabilityTerm {
  Matrix<const R> scores;
  const std::int32_t* weight;
  SPARSEMOE_HD R operator()(index_t u, index_t e) const { return scores(u, e) * R(weight[u]); }
};
/// Column 0: sum of weight * lse^2; column 1: of weight * entropy; column 2: of weight.
template <class R>
struct UnitStatisticsTerm {
  const R *lse, *entropy;
  const std::int32_t* weight;
  SPARSEMOE_HD R operator()(index_t u, index_t j) const {
    const R n = R(weight[u]);
    if (j == 2) return n;
    if (lse == nullptr || weight[u] == 0) return R(0);
    return j == 0 ? n * lse[u] * lse[u] : n * entropy[u];
  }
};
/// Load-balance loss E sum_e f_e P_e (Switch, equations 4-6; f over all k choices, so that uniform routing gives 1) and
/// the coefficient d loss / d p(t, e) = E f_e / tokens. sums = [choices counted (E) | probability (E) | z, entropy, n].
template <class R>
struct BalanceLoss {
  const R* sums;
  index_t experts, counted_choices;
  R* coefficient;  // (E)
  R* loss;         // (1)
  SPARSEMOE_HD void operator()(index_t) const {
    const R n = sums[2 * experts + 2];
    R total = 0;
    for (index_t e = 0; e < experts; ++e) {
      const R f = n > R(0) ? sums[e] / (n * R(counted_choices)) : R(0);
      coefficient[e] = n > R(0) ? R(experts) * f / n : R(0);
      total += coefficient[e] * sums[experts + e];
    }
    loss[0] = total;
  }
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
  index_t tokens;
  const R* dweight;      // (U, K)
  const R* coefficient;  // (E) of the balance loss, or null
  R balance, z;          // loss coefficients, already scaled
  const R* lse;
  const R* total_tokens;  // (1)
  Matrix<R> dscores;      // (U, E)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t u) const {
    constexpr int K = Router::top_k;
    const index_t n = scores.cols;
    const R count = R(weight[u]);
    R* d = dscores.row(u).data;
    if (weight[u] == 0) {
      for (index_t e = team.lane(); e < n; e += Team::lanes) d[e] = R(0);
      return;
    }
    const R* p = scores.row(u).data;
    R slope[K];  // d loss / d p of the chosen
    for (int k = 0; k < K; ++k) slope[k] = R(0);
    const std::int32_t* c = chosen + u * K;
    const R* dw = dweight + u * K;
    if constexpr (Router::gate == Gate::probability) {
      for (int k = 0; k < K; ++k)
        if (c[k] >= 0) slope[k] = dw[k];
    } else if constexpr (Router::gate == Gate::normalised || Router::gate == Gate::normalised_after_drop) {
      R sum = 0, dot = 0;
      for (int k = 0; k < K; ++k) {
        const bool counts = Router::gate == Gate::normalised ? c[k] != -1 : slot[k * tokens + u] >= 0;
        if (counts) sum += p[Choice<1>::expert_of(c[k])];
      }
      for (int k = 0; k < K; ++k)
        if (c[k] >= 0) dot += dw[k] * p[c[k]] / sum;
      for (int k = 0; k < K; ++k) {
        const bool counts = Router::gate == Gate::normalised ? c[k] != -1 : slot[k * tokens + u] >= 0;
        if (counts) slope[k] = (dw[k] - dot) / sum;
      }
    }
    const R share = count / *total_tokens;
    // d loss / d p(e) = balance part + slope of the chosen; then through the softmax.
    R mean = 0;
    for (index_t e = team.lane(); e < n; e += Team::lanes) {
      R g = coefficient != nullptr ? balance * coefficient[e] * count : R(0);
      for (int k = 0; k < K; ++k)
        if (Choice<1>::expert_of(c[k]) == e && c[k] != -1) g += slope[k];
      d[e] = g;
      mean += p[e] * g;
    }
    mean = team.sum(mean);
    const R zslope = z * R(2) * lse[u] * share;
    for (index_t e = team.lane(); e < n; e += Team::lanes) d[e] = p[e] * (d[e] - mean) + zslope * p[e];
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// kernels/dispatch.hpp -- choices to slots under a capacity, tokens to slots and back, and the gradients of both.
// Positions are integers, slots are given by a stable counting sort (choice-major, then token order), combine is a
// gather in fixed order: no atomics, no tokens x experts x capacity tensor, the same bits every time. Read next:
// kernels/priority.hpp for who comes first; nn/moe.hpp, which calls them in this order.
#pragma once

#include "sparsemoe/kernels/tokens.hpp"
#include "sparsemoe/math.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The order in which choices take slots: groups of `group` tokens, in a group choice-major then token order. Cut into
/// chunks that never cross a group, so that chunks count in parallel and a scan joins them. `queue` puts the choices of
/// a group in another order (kernels/priority.hpp).
struct SlotOrder {
  static constexpr index_t run = 256;
  index_t tokens, top_k, group;
  const std::int32_t* queue = nullptr;  // (tokens top_k) or null
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
    if (queue != nullptr) q = queue[g * group * top_k + q];
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
  std::int32_t capacity;             // 0: no limit, and position is not read
  index_t limited;                   // experts that have it, from 0
  Matrix<std::int32_t> position;     // (E, chunks)
  Matrix<const std::int32_t> first;  // the scan again, not consumed: position of a group's first chunk
  Matrix<std::int32_t> kept;         // (E, chunks)
  std::int32_t* slot;                // (K T)
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
        keep = keep && (place < capacity || e >= limited);
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

/// x(slot) = tokens(source), for slots in use.
template <class S>
struct GatherRow {
  Matrix<const S> x;           // (T, D)
  const std::int32_t* source;  // (slots) k T + t
  const std::int32_t* in_use;  // offsets + E
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
/// dweight(t, k) = what the caller's own losses want of a combine weight that was kept, or, if all count, of any; that
/// of a dropped one is a constant 0.
template <class R>
struct KeptWeightGradient {
  Matrix<const R> dcombine;  // (T, K), or empty
  const std::int32_t* slot;
  R* dweight;
  index_t tokens, top_k;
  bool all;
  SPARSEMOE_HD void operator()(index_t i) const {
    const index_t t = i / top_k, k = i % top_k;
    dweight[i] = !dcombine.empty() && (all || slot[k * tokens + t] >= 0) ? dcombine(t, k) : R(0);
  }
};
/// y(t) += w(t, k) x(t) for choices that found no slot (RouterTraits::passes_dropped).
template <class P>
struct PassDroppedRow {
  using S = typename P::storage;
  using C = typename P::compute;
  using R = typename P::router;
  Choices choices;
  const std::int32_t* slot;  // (K T)
  const R* weight;           // (T, K)
  Matrix<const S> x;
  Matrix<S> y;
  SPARSEMOE_HD bool passes(index_t t, index_t k) const { return slot[k * x.rows + t] < 0 && choices.at(t, k) >= 0; }
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    for (index_t k = 0; k < choices.top_k; ++k) {
      if (!passes(t, k)) continue;
      const C w = C(weight[t * choices.top_k + k]);
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(t, j) = S(C(y(t, j)) + w * C(x(t, j)));
    }
  }
};
/// dweight(t, k) += <dy(t), x(t)>, dx(t) += w(t, k) dy(t).
template <class P>
struct PassDroppedBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  using R = typename P::router;
  PassDroppedRow<P> forward;
  Matrix<const S> dy;
  R* dweight;
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    const index_t K = forward.choices.top_k;
    for (index_t k = 0; k < K; ++k) {
      if (!forward.passes(t, k)) continue;
      const C w = C(forward.weight[t * K + k]);
      C dot = 0;
      for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) dot += C(dy(t, j)) * C(forward.x(t, j));
      for (index_t j = team.lane(); j < dx.cols; j += Team::lanes) dx(t, j) = S(C(dx(t, j)) + w * C(dy(t, j)));
      dot = team.sum(dot);
      if (team.lane() == 0) dweight[t * K + k] += R(dot);
    }
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

}  // namespace sparsemoe::inline SPARSEMOE_ABI

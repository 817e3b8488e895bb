// SPDX-License-Identifier: Apache-2.0
// kernels/rows.hpp -- functors of one row, shared by a team of lanes: norms, softmax, cross entropy, and sums over
// rows. Lanes walk columns lane, lane + lanes, ...; sums go through the team. Arithmetic is in the compute type.
// Backward stands below forward, with the same names. Read next: kernels/routing.hpp, nn/norm.hpp.
#pragma once

#include "sparsemoe/arena.hpp"
#include "sparsemoe/math.hpp"
#include "sparsemoe/team.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// y = (x - mean) / sqrt(var + eps) * gamma + beta; keeps mean and 1/sqrt(var + eps). (Ba et al. 2016)
template <class P>
struct LayerNormRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> x;      // (T, D)
  const S *gamma, *beta;  // (D), (D) or null
  C eps;
  Matrix<S> y;      // (T, D)
  C *mean, *scale;  // (T)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* in = x.row(r).data;
    const index_t n = x.cols;
    C total = 0;
    SPARSEMOE_SIMD_SUM(total)
    for (index_t j = team.lane(); j < n; j += Team::lanes) total += C(in[j]);
    const C m = team.sum(total) / C(n);
    C square = 0;
    SPARSEMOE_SIMD_SUM(square)
    for (index_t j = team.lane(); j < n; j += Team::lanes) square += (C(in[j]) - m) * (C(in[j]) - m);
    const C s = C(1) / std::sqrt(team.sum(square) / C(n) + eps);
    S* out = y.row(r).data;
    for (index_t j = team.lane(); j < n; j += Team::lanes)
      out[j] = S((C(in[j]) - m) * s * C(gamma[j]) + (beta != nullptr ? C(beta[j]) : C(0)));
    if (team.lane() == 0) mean[r] = m, scale[r] = s;
  }
};
template <class P>
struct LayerNormBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> x, dy;
  const S* gamma;
  const C *mean, *scale;
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S *in = x.row(r).data, *g = dy.row(r).data;
    const index_t n = x.cols;
    const C m = mean[r], s = scale[r];
    C sum = 0, dot = 0;
    SPARSEMOE_PRAGMA(omp simd reduction(+ : sum, dot))
    for (index_t j = team.lane(); j < n; j += Team::lanes) {
      const C d = C(g[j]) * C(gamma[j]);
      sum += d;
      dot += d * (C(in[j]) - m) * s;
    }
    sum = team.sum(sum) / C(n);
    dot = team.sum(dot) / C(n);
    S* out = dx.row(r).data;
    for (index_t j = team.lane(); j < n; j += Team::lanes)
      out[j] = S(s * (C(g[j]) * C(gamma[j]) - sum - (C(in[j]) - m) * s * dot));
  }
};

/// y = x / sqrt(mean(x^2) + eps) * gamma; keeps 1/sqrt(...). (Zhang & Sennrich 2019; T5)
template <class P>
struct RmsNormRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> x;
  const S* gamma;
  C eps;
  Matrix<S> y;
  C* scale;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* in = x.row(r).data;
    C square = 0;
    SPARSEMOE_SIMD_SUM(square)
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) square += C(in[j]) * C(in[j]);
    const C s = C(1) / std::sqrt(team.sum(square) / C(x.cols) + eps);
    S* out = y.row(r).data;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) out[j] = S(C(in[j]) * s * C(gamma[j]));
    if (team.lane() == 0) scale[r] = s;
  }
};
template <class P>
struct RmsNormBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> x, dy;
  const S* gamma;
  const C* scale;
  Matrix<S> dx;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S *in = x.row(r).data, *g = dy.row(r).data;
    const C s = scale[r];
    C dot = 0;
    SPARSEMOE_SIMD_SUM(dot)
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes) dot += C(g[j]) * C(gamma[j]) * C(in[j]);
    dot = team.sum(dot) * s * s / C(x.cols);
    S* out = dx.row(r).data;
    for (index_t j = team.lane(); j < x.cols; j += Team::lanes)
      out[j] = S(s * (C(g[j]) * C(gamma[j]) - C(in[j]) * dot));
  }
};

// ------------------------------------------------------------------------------------------- sums over rows
/// A sum over rows in two fixed steps: partial(chunk, j) = sum over the chunk's rows of term(i, j), then out[j] += sum
/// of the partials in order. Chunks are a constant number of rows, so the bits depend on nothing but the data.
inline constexpr index_t rows_per_partial = 64;

template <class A, class Term>
struct PartialSums {
  Term term;
  index_t rows;
  Matrix<A> partial;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t chunk) const {
    const index_t first = chunk * rows_per_partial, last = math::min(first + rows_per_partial, rows);
    A* SPARSEMOE_RESTRICT out = partial.row(chunk).data;
    const index_t n = partial.cols;
    for (index_t j = team.lane(); j < n; j += Team::lanes) out[j] = A(0);
    for (index_t i = first; i < last; ++i)
      for (index_t j = team.lane(); j < n; j += Team::lanes) out[j] += term(i, j);
  }
};
template <class A>
struct AddPartials {
  Matrix<const A> partial;
  A* out;
  SPARSEMOE_HD void operator()(index_t j) const {
    A total = 0;
    for (index_t c = 0; c < partial.rows; ++c) total += partial(c, j);
    out[j] += total;
  }
};
/// out[j] += sum over i of term(i, j), for i in [0, rows), j in [0, cols).
template <class B, class A, class Term>
void add_column_sums(typename B::Context& ctx, index_t rows, index_t cols, const Term& term, A* out) {
  typename Arena<typename B::Memory>::Scope scope(ctx.arena);
  const index_t chunks = (rows + rows_per_partial - 1) / rows_per_partial;
  const Matrix<A> partial = ctx.arena.template matrix<A>(chunks, cols);
  B::for_each_row(ctx, chunks, PartialSums<A, Term>{term, rows, partial}, cols * rows_per_partial);
  B::for_each_index(ctx, cols, AddPartials<A>{partial, out});
}

template <class T, class A>
struct ElementTerm {
  Matrix<const T> m;
  SPARSEMOE_HD A operator()(index_t i, index_t j) const { return A(m(i, j)); }
};

// --------------------------------------------------------------------------------------- attention's softmax
/// Row ((b H + h) Lq + i) of scores, over keys j < Lk: p = softmax(s + bias), keys that are masked get 0. A row with no
/// key left is all 0. In place is fine.
template <class P>
struct AttentionSoftmaxRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> scores;         // (B H Lq, Lk)
  Matrix<S> probs;                // (B H Lq, Lk)
  const std::uint8_t* key_valid;  // (B, Lk) or null
  Matrix<const C> bias;           // (H Lq, Lk), (B H Lq, Lk) or empty
  index_t heads, queries;
  index_t query_offset;  // position of query 0 among the keys, for the causal mask
  bool causal;
  index_t window;                               // keys j > i - window only; 0: no limit
  const std::int32_t* query_offsets = nullptr;  // (B) in place of query_offset, where they differ
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const index_t n = scores.cols, i = r % queries, b = r / (queries * heads);
    const index_t offset = query_offsets != nullptr ? query_offsets[b] : query_offset;
    const index_t last = causal ? math::min(n, i + offset + 1) : n;
    const index_t first = window > 0 ? math::max(index_t(0), i + offset + 1 - window) : 0;
    const S* in = scores.row(r).data;
    S* out = probs.row(r).data;
    const std::uint8_t* ok = key_valid != nullptr ? key_valid + b * n : nullptr;
    const C* add = bias.empty() ? nullptr : bias.row(r % bias.rows).data;
    const C floor = C(-1e30);
    // Blocks of scores are widened before they are reduced: g++ does not vectorise a reduction that touches storage.
    // They are filled up to whole vectors, and score j is summed in lane j % step: masked keys and padding change no
    // bit.
    constexpr index_t step = Team::lanes == 1 ? 16 : 1, block = Team::lanes == 1 ? 256 : 1;
    C held[block], sum[step] = {};
    const auto load = [&](index_t j0, index_t count, index_t filled) {
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) held[j] = C(in[j0 + j]);
      if (add != nullptr) {
        SPARSEMOE_SIMD
        for (index_t j = 0; j < count; ++j) held[j] += add[j0 + j];
      }
      if (ok != nullptr) {
        SPARSEMOE_SIMD
        for (index_t j = 0; j < count; ++j) held[j] = ok[j0 + j] != 0 ? held[j] : floor;
      }
      for (index_t j = count; j < filled; ++j) held[j] = floor;
    };
    const auto whole = [](index_t count) { return (count + step - 1) / step * step; };
    C top = floor;
    for (index_t j0 = first + team.lane(); j0 < last; j0 += block * Team::lanes) {
      const index_t filled = whole(math::min(block, last - j0));
      load(j0, math::min(block, last - j0), filled);
      SPARSEMOE_SIMD_MAX(top)
      for (index_t j = 0; j < filled; ++j) top = held[j] > top ? held[j] : top;
    }
    top = team.max(top);
    const bool loaded = last - first <= block * Team::lanes;  // held has this lane's scores already
    for (index_t j0 = first + team.lane(); j0 < last; j0 += block * Team::lanes) {
      const index_t count = math::min(block, last - j0), filled = whole(count);
      if (!loaded) load(j0, count, filled);
      SPARSEMOE_SIMD
      for (index_t j = 0; j < filled; ++j) held[j] = math::exp(held[j] - top);  // 0 of a masked key
      for (index_t j = 0; j < filled; j += step) {
        SPARSEMOE_SIMD
        for (index_t l = 0; l < step; ++l) sum[l] += held[j + l];
      }
    }
    C total = 0;
    for (index_t l = 0; l < step; ++l) total += sum[l];
    total = team.sum(total);
    const C scale = top > floor ? C(1) / total : C(0);  // where every key is masked, all are 0
    for (index_t j0 = first + team.lane(); j0 < last; j0 += block * Team::lanes) {
      const index_t count = math::min(block, last - j0), filled = whole(count);
      if (!loaded) {
        load(j0, count, filled);
        SPARSEMOE_SIMD
        for (index_t j = 0; j < filled; ++j) held[j] = math::exp(held[j] - top);
      }
      S* part = out + j0;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) store(part[j], held[j] * scale);
    }
    for (index_t j = team.lane(); j < first; j += Team::lanes) out[j] = S(C(0));
    for (index_t j = last + team.lane(); j < n; j += Team::lanes) out[j] = S(C(0));
  }
};
/// ds = p (dp - sum_j p dp), in place over dp.
template <class P>
struct SoftmaxBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> probs;
  Matrix<S> dprobs;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* p = probs.row(r).data;
    S* d = dprobs.row(r).data;
    C dot = 0;
    SPARSEMOE_SIMD_SUM(dot)
    for (index_t j = team.lane(); j < probs.cols; j += Team::lanes) dot += C(p[j]) * C(d[j]);
    dot = team.sum(dot);
    for (index_t j = team.lane(); j < probs.cols; j += Team::lanes) d[j] = S(C(p[j]) * (C(d[j]) - dot));
  }
};
/// y(t, k d + j) = sum over g of x(t, (k G + g) d + j): of G query heads that share key head k.
template <class S, class C>
struct SumGroups {
  Matrix<const S> x;  // (T, G heads d)
  Matrix<S> y;        // (T, heads d)
  index_t head_width;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    const index_t d = head_width, groups = x.cols / y.cols;
    const S* in = x.row(t).data;
    S* out = y.row(t).data;
    for (index_t c = team.lane(); c < y.cols; c += Team::lanes) {
      C sum = 0;
      for (index_t g = 0; g < groups; ++g) sum += C(in[(c / d * groups + g) * d + c % d]);
      out[c] = S(sum);
    }
  }
};
/// to(r room + places[r]) = from(r): a step's key or value among those kept.
template <class S>
struct KeepAtPlace {
  Matrix<const S> from;  // (rows, d)
  Matrix<S> to;          // (rows room, d)
  const std::int32_t* places;
  index_t room;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* in = from.row(r).data;
    S* out = to.row(r * room + places[r]).data;
    for (index_t j = team.lane(); j < from.cols; j += Team::lanes) out[j] = in[j];
  }
};
/// Gradient of the position bias: dbias(h Lq + i, j) += sum over b of ds.
template <class P>
struct BiasGradientRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> dscores;  // (B H Lq, Lk)
  Matrix<C> dbias;          // (H Lq, Lk)
  index_t batch;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    for (index_t b = 0; b < batch; ++b)
      for (index_t j = team.lane(); j < dbias.cols; j += Team::lanes) dbias(r, j) += C(dscores(b * dbias.rows + r, j));
  }
};

// ------------------------------------------------------------------------------------------- cross entropy
/// Target distribution: q(target) = on_target + everywhere, q(other) = everywhere. With label smoothing eps over V
/// classes: torch and Marian: everywhere = eps / V, on_target = 1 - eps; fairseq: everywhere = eps / (V - 1), on_target
/// = 1 - eps - everywhere.
struct CrossEntropyConfig {
  double on_target = 1, everywhere = 0;
  double z = 0;  // coefficient of logsumexp^2 on the output logits
  static CrossEntropyConfig smoothed(double eps, index_t vocabulary) {
    return {1 - eps, eps / static_cast<double>(vocabulary), 0};
  }
};
/// loss = -sum_v q_v log p_v + z lse^2 for a row with target >= 0, 0 otherwise; the logits become
/// scale * d loss / d logits in place. nll is -log p(target), correct is 1 where the target has the largest logit.
template <class P>
struct CrossEntropyRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<S> logits;  // (T, V), becomes the gradient
  const std::int32_t* target;
  C on_target, everywhere, z, scale;
  C *loss, *nll;
  std::int32_t* correct;
  bool gradient;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    S* x = logits.row(r).data;
    const index_t n = logits.cols;
    const std::int32_t t = target[r];
    if (t < 0) {
      if (gradient)
        for (index_t j = team.lane(); j < n; j += Team::lanes) x[j] = S(C(0));
      if (team.lane() == 0) loss[r] = nll[r] = C(0), correct[r] = 0;
      return;
    }
    const C mine = C(x[t]);  // read before the reductions: after them the lane that owns it may have overwritten it
    // A lane works block by block, and 16-bit values are read and written in loops of their own: g++ does not vectorise
    // a reduction that touches them.
    constexpr index_t block = Team::lanes == 1 ? 256 : 1;
    C held[block];
    C top = C(x[0]);
    for (index_t j0 = team.lane(); j0 < n; j0 += block * Team::lanes) {
      const index_t count = math::min(block, n - j0);
      const S* part = x + j0;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) held[j] = C(part[j]);
      SPARSEMOE_SIMD_MAX(top)
      for (index_t j = 0; j < count; ++j) top = held[j] > top ? held[j] : top;
    }
    top = team.max(top);
    const C at = mine - top;
    C total = 0, linear = 0;
    for (index_t j0 = team.lane(); j0 < n; j0 += block * Team::lanes) {
      const index_t count = math::min(block, n - j0);
      S* part = x + j0;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) held[j] = C(part[j]) - top;
      SPARSEMOE_PRAGMA(omp simd reduction(+ : total, linear))
      for (index_t j = 0; j < count; ++j) {
        linear += held[j];
        held[j] = math::exp(held[j]);
        total += held[j];
      }
      if (!gradient) continue;  // else the exponentials stay in x: they are most of the work
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) store(part[j], held[j]);
    }
    total = team.sum(total);
    linear = team.sum(linear);
    const C log_total = std::log(total), lse = top + log_total;
    if (team.lane() == 0) {
      nll[r] = log_total - at;
      loss[r] = on_target * (log_total - at) + everywhere * (C(n) * log_total - linear) + z * lse * lse;
      correct[r] = at >= C(0) ? 1 : 0;
    }
    if (!gradient) return;
    const C mass = on_target + everywhere * C(n), slope = scale * (mass + C(2) * z * lse) / total;
    const C flat = scale * everywhere, point = scale * on_target;
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < n; j += Team::lanes) store(x[j], slope * C(x[j]) - flat);
    if (t % Team::lanes == team.lane()) x[t] = S(slope * math::exp(at) - flat - point);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

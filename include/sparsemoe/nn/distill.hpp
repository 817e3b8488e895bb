// SPDX-License-Identifier: Apache-2.0
// nn/distill.hpp -- the loss of a student that learns from labels and from a teacher's distribution at once, forward
// and backward in one pass: (1 - a) of the label-smoothed cross entropy and a of the cross entropy with the teacher's
// softmax (Hinton et al. 2015, section 2; a = 0.25 in Switch Transformer, section 4.2). The teacher is not
// differentiated. Read next: Seq2Seq::loss with a head, in model/encoder_decoder.hpp.
#pragma once

#include "sparsemoe/nn/loss.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// With p_v = softmax(x)_v of the student, p_v(T) = softmax(x / T)_v and q_v(T) = softmax(y / T)_v of the teacher:
///   hard = the loss of CrossEntropyRow,  soft = -sum_v q_v(T) log p_v(T),  loss = (1 - a) hard + a T^2 soft
/// for a row with target >= 0; all are 0 otherwise, and the teacher's row is not read. T^2 keeps the soft gradient's
/// size whatever T is. The logits become scale * d loss / d logits in place. `Taught` is the type of the teacher's
/// logits.
template <class P, class Taught = typename P::storage>
struct DistillationRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<S> logits;              // (T, V), becomes the gradient
  Matrix<const Taught> teacher;  // (T, V) logits
  const std::int32_t* target;
  C on_target, everywhere, z;  // CrossEntropyRow
  C share, temperature, scale;
  C *hard, *soft, *nll;
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
      if (team.lane() == 0) hard[r] = soft[r] = nll[r] = C(0), correct[r] = 0;
      return;
    }
    const Taught* y = teacher.row(r).data;
    const C mine = C(x[t]);  // read before the reductions: after them the lane that owns it may have overwritten it
    C top = C(x[0]), best = C(y[0]);
    SPARSEMOE_SIMD_MAX(top)
    for (index_t j = team.lane(); j < n; j += Team::lanes) top = C(x[j]) > top ? C(x[j]) : top;
    SPARSEMOE_SIMD_MAX(best)
    for (index_t j = team.lane(); j < n; j += Team::lanes) best = C(y[j]) > best ? C(y[j]) : best;
    top = team.max(top);
    best = team.max(best);
    const C cool = C(1) / temperature, at = mine - top;
    // As in CrossEntropyRow, 16-bit values are read and written in loops of their own. Exponentials are computed again
    // for the gradient: there are two or three an element, and room for none.
    constexpr index_t block = Team::lanes == 1 ? 256 : 1;
    C own[block], other[block];
    C total = 0, linear = 0, cooled = 0, taught = 0, cross = 0;
    for (index_t j0 = team.lane(); j0 < n; j0 += block * Team::lanes) {
      const index_t count = math::min(block, n - j0);
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) own[j] = C(x[j0 + j]) - top;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) other[j] = (C(y[j0 + j]) - best) * cool;
      SPARSEMOE_PRAGMA(omp simd reduction(+ : total, linear, cooled, taught, cross))
      for (index_t j = 0; j < count; ++j) {
        const C q = math::exp(other[j]), warm = own[j] * cool;
        total += math::exp(own[j]);
        linear += own[j];
        cooled += math::exp(warm);
        taught += q;
        cross += q * warm;
      }
    }
    total = team.sum(total), linear = team.sum(linear);
    cooled = team.sum(cooled), taught = team.sum(taught), cross = team.sum(cross);
    const C log_total = std::log(total), lse = top + log_total;
    if (team.lane() == 0) {
      nll[r] = log_total - at;
      hard[r] = on_target * (log_total - at) + everywhere * (C(n) * log_total - linear) + z * lse * lse;
      soft[r] = std::log(cooled) - cross / taught;
      correct[r] = at >= C(0) ? 1 : 0;
    }
    if (!gradient) return;
    const C keep = scale * (C(1) - share), bend = scale * share * temperature;  // T^2 / T: the chain rule takes one T
    const C mass = on_target + everywhere * C(n), slope = keep * (mass + C(2) * z * lse) / total;
    const C flat = keep * everywhere, student = bend / cooled, lesson = bend / taught;
    for (index_t j0 = team.lane(); j0 < n; j0 += block * Team::lanes) {
      const index_t count = math::min(block, n - j0);
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) own[j] = C(x[j0 + j]) - top;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) other[j] = (C(y[j0 + j]) - best) * cool;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j)
        own[j] = slope * math::exp(own[j]) - flat + student * math::exp(own[j] * cool) - lesson * math::exp(other[j]);
      if (j0 <= t && t < j0 + count) own[t - j0] -= keep * on_target;
      SPARSEMOE_SIMD
      for (index_t j = 0; j < count; ++j) store(x[j0 + j], own[j]);
    }
  }
};

/// The loss over the logits of a batch, as CrossEntropy is.
template <class P, class Backend>
struct Distillation {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using Context = typename B::Context;
  CrossEntropyConfig hard;
  double share = 0.25;     // a: of the teacher's distribution in the loss
  double temperature = 1;  // T: above 1 the teacher's small probabilities count for more

  void check() const {
    require(share >= 0 && share <= 1, "distillation: the teacher's share of the loss must be in [0, 1]; got ", share);
    require(temperature > 0, "distillation: the temperature must be positive; got ", temperature);
  }

  /// logits (T, V); teacher (T, V), the teacher's logits; target (T) in the backend's memory, below 0 for rows that do
  /// not count. With gradient_scale != 0 the logits become gradient_scale * d(sum of losses) / d(logits). A share of 0
  /// is CrossEntropy, and the teacher may be empty. Throws Error if the teacher has another shape or check() fails.
  template <class Taught>
  LossSums operator()(Context& ctx, Matrix<S> logits, Matrix<const Taught> teacher, const std::int32_t* target,
                      double gradient_scale) const {
    check();
    if (share <= 0) return CrossEntropy<P, B>{hard}(ctx, logits, target, gradient_scale);
    require(teacher.rows == logits.rows && teacher.cols == logits.cols, "distillation: the teacher's logits are (",
            teacher.rows, ", ", teacher.cols, "), the student's (", logits.rows, ", ", logits.cols, ")");
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t n = logits.rows;
    C* parts = ctx.arena.template take<C>(3 * n);
    std::int32_t* correct = ctx.arena.template take<std::int32_t>(n);
    B::for_each_row(ctx, n,
                    DistillationRow<P, Taught>{logits, teacher, target, C(hard.on_target), C(hard.everywhere),
                                               C(hard.z), C(share), C(temperature), C(gradient_scale), parts, parts + n,
                                               parts + 2 * n, correct, gradient_scale != 0},
                    logits.cols * 32);
    LossSums sums;
    detail::sum_on_host<B>(ctx, parts, 3 * n, target, correct, n,
                           [&](const C* part, const std::int32_t* t, const std::int32_t* hit) {
                             for (index_t i = 0; i < n; ++i) {
                               if (t[i] < 0) continue;
                               const double h = static_cast<double>(part[i]), s = static_cast<double>(part[n + i]);
                               sums += {(1 - share) * h + share * temperature * temperature * s,
                                        static_cast<double>(part[2 * n + i]),
                                        1,
                                        static_cast<double>(hit[i]),
                                        h,
                                        s};
                             }
                           });
    return sums;
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

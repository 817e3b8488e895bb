// SPDX-License-Identifier: Apache-2.0
// train/update.hpp -- the end of a training step: clip the gradient, skip a step that is not finite, let the optimiser
// move the weights, and keep the loss scale of half precision. Read next: model/weights.hpp for what is updated,
// optim/optimiser.hpp for how; train/skip_guard.hpp for many skipped steps, train/sampling.hpp for the batches.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "sparsemoe/model/weights.hpp"
#include "sparsemoe/optim/clip.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct UpdateResult {
  double gradient_norm = 0;  // before clipping, of the unscaled loss
  bool skipped = false;      // the loss or the gradient was not finite: weights and moments are as they were
  std::string cause = {};    // what was not finite in a skipped step: "the loss is nan"
};

/// "nan", "inf" or "-inf" of a number that is not finite.
inline std::string not_finite(double value) { return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf"; }

/// Holds what persists between steps: how many updates were made, how many were skipped, the loss scale.
template <class P, class B>
class Updater {
 public:
  struct State {
    index_t step = 0, skipped = 0, good = 0;
    double loss_scale = P::scaled_loss ? 65536.0 : 1.0;
  };
  double clip_norm = 1;         // 0: no clipping
  index_t scale_growth = 1000;  // good steps before the loss scale is doubled (half precision)

  State& state() { return state_; }
  const State& state() const { return state_; }
  /// What the gradient of the loss must be multiplied by in backward.
  double loss_scale() const { return state_.loss_scale; }

  /// Uses and then clears the gradients. `comm` sums them over ranks first. A `loss` that is not finite skips the step
  /// as well; over several ranks give the same one to all.
  template <class Optimiser, class Collective>
  UpdateResult operator()(typename B::Context& ctx, Weights<P, B>& weights, Optimiser& optimiser, double learning_rate,
                          Collective& comm, double loss = 0) {
    if (comm.size() > 1) comm.all_reduce_sum(weights.gradient(), static_cast<std::size_t>(weights.total()));
    const double unscale = 1 / state_.loss_scale;
    const GradientNorm norm = gradient_norm<B>(ctx, weights.gradient(), weights.total(), unscale);
    UpdateResult result{norm.norm(), !norm.finite() || !std::isfinite(loss), cause_of(ctx, weights, norm, loss)};
    if (result.skipped) {
      ++state_.skipped;
      state_.good = 0;
      if (P::scaled_loss) state_.loss_scale = std::max(1.0, state_.loss_scale / 2);
    } else {
      ++state_.step;
      const double factor = clip_norm > 0 ? clip_factor(result.gradient_norm, clip_norm) : 1.0;
      optimiser.update(ctx, weights.master(), weights.gradient(), unscale * factor, weights.storage(), state_.step,
                       learning_rate);
      weights.restore_wide(ctx);
      if (P::scaled_loss && ++state_.good >= scale_growth) {
        state_.loss_scale = std::min(state_.loss_scale * 2, 16777216.0);
        state_.good = 0;
      }
    }
    B::zero(ctx, weights.gradient(), weights.total());
    return result;
  }

  /// What would skip a step with these gradients and this loss, "" if nothing; clears the gradients and changes nothing
  /// else: whether weights are worth keeping is asked so before they are saved.
  std::string probe(typename B::Context& ctx, Weights<P, B>& weights, double loss) const {
    const GradientNorm norm = gradient_norm<B>(ctx, weights.gradient(), weights.total(), 1 / state_.loss_scale);
    std::string cause = cause_of(ctx, weights, norm, loss);
    B::zero(ctx, weights.gradient(), weights.total());
    return cause;
  }

 private:
  static std::string cause_of(typename B::Context& ctx, const Weights<P, B>& weights, const GradientNorm& norm,
                              double loss) {
    if (!std::isfinite(loss)) return "the loss is " + not_finite(loss);
    if (norm.finite()) return "";
    for (const ParamInfo& p : weights.list())
      if (!gradient_norm<B>(ctx, weights.gradient() + p.offset, p.shape.size()).finite())
        return "the gradient of " + p.name + " has " + not_finite(norm.square);
    return "the gradient has " + not_finite(norm.square);
  }

  State state_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

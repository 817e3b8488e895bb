// train/update.hpp -- the end of a training step: clip the gradient, skip a step that is not finite, let the optimiser
// move the weights, and keep the loss scale of half precision. Read next: optim/adafactor.hpp, examples/hello_moe.cpp.
#pragma once

#include <algorithm>

#include "sparsemoe/model/weights.hpp"
#include "sparsemoe/optim/clip.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct UpdateResult {
  double gradient_norm = 0;  // before clipping, of the unscaled loss
  bool skipped = false;      // the gradient was not finite: weights and moments are as they were
};

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

  /// Uses and then clears the gradients. `comm` sums them over ranks first.
  template <class Optimiser, class Collective>
  UpdateResult operator()(typename B::Context& ctx, Weights<P, B>& weights, Optimiser& optimiser, double learning_rate,
                          Collective& comm) {
    if (comm.size() > 1) comm.all_reduce_sum(weights.gradient(), static_cast<std::size_t>(weights.total()));
    const double unscale = 1 / state_.loss_scale;
    const GradientNorm norm = gradient_norm<B>(ctx, weights.gradient(), weights.total(), unscale);
    UpdateResult result{norm.norm(), !norm.finite()};
    if (result.skipped) {
      ++state_.skipped;
      state_.good = 0;
      if (P::scaled_loss) state_.loss_scale = std::max(1.0, state_.loss_scale / 2);
    } else {
      ++state_.step;
      optimiser.update(ctx, weights.master(), weights.gradient(),
                       unscale * clip_factor(result.gradient_norm, clip_norm), weights.storage(), state_.step,
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

 private:
  State state_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// optim/factored_adam.hpp -- the Adam of Shazeer et al. 2017 (appendix D), which lets a large mixture of experts fit:
// the experts' matrices have no first moment, and a second one of row and column means, whose outer product over the
// mean stands for it; everything else has Adam's moments. Unlike Adafactor there is no clip, no scale by the
// parameter, and eps is added to the root. Read next: optim/adafactor.hpp, whose first two passes these are.
#pragma once

#include "sparsemoe/optim/adafactor.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// theta -= rate g / (sqrt(V) + eps): V is row col / mean(row) of an expert's matrix, bias-corrected already, or Adam's
/// second moment, which is corrected here. `first` is Adam's first moment or null.
template <class P>
struct FactoredAdamBlock {
  using M = typename P::master;
  adafactor::Operands<P> q;
  M *first, *second;  // of what is not factored, without gaps
  M b1, b2, keep1, keep2, rate, corrected_rate, inverse_root, eps, shrink;

  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = q.blocks[i];
    const UpdateItem m = q.items[b.item];
    const M pre = m.decayed ? shrink : M(1);
    const typename P::accumulate* SPARSEMOE_RESTRICT g = q.gradient + b.offset;
    M* SPARSEMOE_RESTRICT theta = q.master + b.offset;
    if (m.factored) {
      // With s = 1 / sqrt(V): g / (1 / s + eps) = g s / (1 + eps s).
      const M* SPARSEMOE_RESTRICT col_scale = q.col_scale + m.col_state;
      const M* SPARSEMOE_RESTRICT row_scale = q.row_scale + m.row_state + (b.offset - m.offset) / m.cols;
      for (index_t r = 0; r < b.count / m.cols; ++r, g += m.cols, theta += m.cols) {
        SPARSEMOE_SIMD
        for (index_t j = team.lane(); j < m.cols; j += Team::lanes) {
          const M s = row_scale[r] * col_scale[j];
          theta[j] = theta[j] * pre - rate * (M(g[j]) * q.scale) * s / (M(1) + eps * s);
        }
      }
    } else {
      const index_t at = m.row_state + (b.offset - m.offset);
      M* SPARSEMOE_RESTRICT v = second + at;
      if (first != nullptr) {
        M* SPARSEMOE_RESTRICT mean = first + at;
        SPARSEMOE_SIMD
        for (index_t j = team.lane(); j < b.count; j += Team::lanes) {
          const M d = M(g[j]) * q.scale;
          mean[j] = b1 * mean[j] + keep1 * d;
          v[j] = b2 * v[j] + keep2 * d * d;
          theta[j] = theta[j] * pre - corrected_rate * mean[j] / (detail::vector_sqrt(v[j]) * inverse_root + eps);
        }
      } else {
        SPARSEMOE_SIMD
        for (index_t j = team.lane(); j < b.count; j += Team::lanes) {
          const M d = M(g[j]) * q.scale;
          v[j] = b2 * v[j] + keep2 * d * d;
          theta[j] = theta[j] * pre - rate * d / (detail::vector_sqrt(v[j]) * inverse_root + eps);
        }
      }
    }
    if (q.weights == nullptr) return;
    typename P::storage* SPARSEMOE_RESTRICT w = q.weights + b.offset;
    const M* SPARSEMOE_RESTRICT from = q.master + b.offset;
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < b.count; j += Team::lanes) w[j] = typename P::storage(from[j]);
  }
};

template <class P, class B>
class FactoredAdam {
 public:
  using Precision = P;
  using Backend = B;
  using Context = typename B::Context;
  using Master = typename P::master;
  using Accumulate = typename P::accumulate;
  using Storage = typename P::storage;
  static constexpr const char* name = "factored_adam";

  struct Config {
    double beta1 = 0;  // of what is not factored; 0: no first moment at all, and no memory for it
    double beta2 = 0.999, eps = 1e-8, weight_decay = 0;
    bool decay_vectors = true;  // false: biases and norm scales (rank 1) are not decayed

    template <class F>
    void visit(F&& f) {
      f("beta1", beta1, "decay of the first moment of everything but the experts' matrices; 0: none");
      f("beta2", beta2, "decay of the second moment");
      f("eps", eps, "added to the root of the second moment");
      f("weight_decay", weight_decay, "weight decay, times the learning rate");
      f("decay_vectors", decay_vectors, "decay biases and norm scales too");
    }
    void check() const {
      require(beta1 >= 0 && beta1 < 1, "factored_adam: beta1 must be in [0, 1), not ", beta1);
      require(beta2 >= 0 && beta2 < 1, "factored_adam: beta2 must be in [0, 1), not ", beta2);
      require(eps > 0, "factored_adam: eps must be positive, not ", eps);
      require(weight_decay >= 0, "factored_adam: weight_decay must not be negative, but is ", weight_decay);
    }
  };

  FactoredAdam(Context& ctx, const std::vector<ParamInfo>& list, Config config)
      : config_((config.check(), config)),
        plan_(ctx, list, 2, NormScope::batch_item, config.decay_vectors, Factoring::experts),
        row_(detail::zeroed<B, Master>(ctx, plan_.rows())),
        col_(detail::zeroed<B, Master>(ctx, plan_.cols())),
        first_(detail::zeroed<B, Master>(ctx, config.beta1 > 0 ? plan_.full() : 0)),
        second_(detail::zeroed<B, Master>(ctx, plan_.full())) {}

  void update(Context& ctx, Master* master, const Accumulate* gradient, double gradient_scale, Storage* weights,
              index_t step, double learning_rate) {
    require(step >= 1, "factored_adam: steps count from 1, got ", step);
    const Config& c = config_;
    const double t = static_cast<double>(step);
    const double correct1 = 1 - std::pow(c.beta1, t), correct2 = 1 - std::pow(c.beta2, t);
    const typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    adafactor::Operands<P> q{};
    q.blocks = plan_.block_data(), q.items = plan_.item_data();
    q.states = ctx.arena.template take<adafactor::ItemState>(plan_.item_count());
    q.master = master, q.gradient = gradient, q.weights = detail::separate_weights(weights, master);
    q.row = row_.template as<Master>(), q.col = col_.template as<Master>();
    q.partial = ctx.arena.template take<Master>(plan_.partials());
    q.row_scale = ctx.arena.template take<Master>(plan_.rows());
    q.col_scale = ctx.arena.template take<Master>(plan_.cols());
    q.theta_square = ctx.arena.template take<double>(plan_.block_count());
    q.largest = ctx.arena.template take<Master>(plan_.block_count());
    // A running mean with the decay b2 (1 - b2^(t-1)) / (1 - b2^t) is Adam's bias-corrected moment. The tiny eps1 keeps
    // the estimate of a matrix that never had a gradient from being 0 / 0.
    const double keep = (1 - c.beta2) / correct2;
    q.scale = Master(gradient_scale), q.eps1 = Master(1e-30), q.beta2 = Master(1 - keep), q.keep2 = Master(keep);

    const index_t blocks = plan_.block_count(), items = plan_.item_count(), work = plan_.work_per_block();
    if (plan_.rows() > 0) {
      B::for_each_row(ctx, blocks, adafactor::SumBlock<P>{q}, work);
      B::for_each_row(ctx, items, adafactor::MomentItem<P>{q}, 1 + (plan_.partials() + plan_.rows()) / (items + 1));
    }
    B::for_each_row(
        ctx, blocks,
        FactoredAdamBlock<P>{q, first_.template as<Master>(), second_.template as<Master>(), Master(c.beta1),
                             Master(c.beta2), Master(1 - c.beta1), Master(1 - c.beta2), Master(learning_rate),
                             Master(learning_rate / correct1), Master(1 / std::sqrt(correct2)), Master(c.eps),
                             Master(1 - learning_rate * c.weight_decay)},
        work);
  }

  template <class F>
  void visit_state(F&& f) {
    f("factored_adam.row", row_.template as<Master>(), plan_.rows());
    f("factored_adam.col", col_.template as<Master>(), plan_.cols());
    if (config_.beta1 > 0) f("factored_adam.first", first_.template as<Master>(), plan_.full());
    f("factored_adam.second", second_.template as<Master>(), plan_.full());
  }
  const UpdatePlan<B>& plan() const { return plan_; }
  const Config& config() const { return config_; }

 private:
  Config config_;
  UpdatePlan<B> plan_;
  Buffer<typename B::Memory> row_, col_, first_, second_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// optim/basic.hpp -- SGD with momentum and Adagrad: the two optimisers that need no more than a line of arithmetic.
// (Nesterov's form as in Sutskever et al. 2013; Duchi et al. 2011). Read next: optim/adamw.hpp.
#pragma once

#include "sparsemoe/optim/optimiser.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// m = momentum m + take g; theta -= rate (nesterov: g + momentum m, else m), for g with its L2 penalty.
template <class P>
struct SgdBlock {
  using M = typename P::master;
  const UpdateBlock* blocks;
  M *master, *mean;  // mean or null
  const typename P::accumulate* gradient;
  typename P::storage* weights;
  M scale, rate, momentum, take, decay, of_gradient, of_mean;  // the step is of_gradient g + of_mean m
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = blocks[i];
    for (index_t j = b.offset + team.lane(); j < b.offset + b.count; j += Team::lanes) {
      const M g = M(gradient[j]) * scale + decay * master[j];
      M step = g;
      if (mean != nullptr) {
        const M taken = take == M(1) ? g : take * g;
        mean[j] = momentum * mean[j] + taken;
        step = of_gradient * g + of_mean * mean[j];
      }
      master[j] -= rate * step;
      if (weights != nullptr) weights[j] = typename P::storage(master[j]);
    }
  }
};
/// s += g^2; theta -= rate g / (sqrt(s) + eps)
template <class P>
struct AdagradBlock {
  using M = typename P::master;
  const UpdateBlock* blocks;
  M *master, *sum;
  const typename P::accumulate* gradient;
  typename P::storage* weights;
  M scale, rate, decay, eps;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = blocks[i];
    for (index_t j = b.offset + team.lane(); j < b.offset + b.count; j += Team::lanes) {
      const M g = M(gradient[j]) * scale + decay * master[j];
      sum[j] += g * g;
      master[j] -= rate * g / (detail::vector_sqrt(sum[j]) + eps);
      if (weights != nullptr) weights[j] = typename P::storage(master[j]);
    }
  }
};

template <class P, class B>
class Sgd {
 public:
  using Precision = P;
  using Backend = B;
  using Context = typename B::Context;
  using Master = typename P::master;
  static constexpr const char* name = "sgd";

  /// torch.optim.SGD's options.
  struct Config {
    double momentum = 0, weight_decay = 0;  // 0: no momentum, and no memory for it; decay is an L2 penalty
    double dampening = 0;                   // the running gradient takes 1 - dampening of each new one, but all of the
                                            // first (step 1)
    bool nesterov = false;
    bool maximize = false;
    template <class F>
    void visit(F&& f) {
      f("momentum", momentum, "decay of the running gradient");
      f("weight_decay", weight_decay, "l2 penalty");
      f("dampening", dampening, "part of each new gradient that the running gradient leaves out");
      f("nesterov", nesterov, "look ahead by one step of momentum");
      f("maximize", maximize, "go up the gradient instead of down");
    }
    void check() const {
      require(momentum >= 0 && momentum <= 1, "sgd: momentum must be in [0, 1], not ", momentum);
      require(weight_decay >= 0, "sgd: weight_decay must not be negative, but is ", weight_decay);
      require(std::isfinite(dampening), "sgd: dampening must be a finite number, not ", dampening);
      require(!nesterov || (momentum > 0 && dampening == 0), "sgd: nesterov needs momentum, and no dampening");
    }
  };

  Sgd(Context& ctx, const std::vector<ParamInfo>& list, Config config)
      : config_((config.check(), config)),
        plan_(ctx, list, 0, NormScope::batch_item, true),
        mean_(detail::zeroed<B, Master>(ctx, config.momentum > 0 ? plan_.elements() : 0)) {}

  void update(Context& ctx, Master* master, const typename P::accumulate* gradient, double gradient_scale,
              typename P::storage* weights, index_t step, double learning_rate) {
    require(step >= 1, "sgd: steps count from 1, got ", step);
    const double sign = config_.maximize ? -1 : 1, take = step == 1 ? 1 : 1 - config_.dampening;
    B::for_each_row(
        ctx, plan_.block_count(),
        SgdBlock<P>{plan_.block_data(), master, mean_.template as<Master>(), gradient,
                    detail::separate_weights(weights, master), Master(sign * gradient_scale), Master(learning_rate),
                    Master(config_.momentum), Master(take), Master(config_.weight_decay),
                    Master(config_.nesterov ? 1 : 0), Master(config_.nesterov ? config_.momentum : 1)},
        plan_.work_per_block());
  }
  template <class F>
  void visit_state(F&& f) {
    if (config_.momentum > 0) f("sgd.momentum", mean_.template as<Master>(), plan_.elements());
  }

 private:
  Config config_;
  UpdatePlan<B> plan_;
  Buffer<typename B::Memory> mean_;
};

template <class P, class B>
class Adagrad {
 public:
  using Precision = P;
  using Backend = B;
  using Context = typename B::Context;
  using Master = typename P::master;
  static constexpr const char* name = "adagrad";

  /// torch.optim.Adagrad's options.
  struct Config {
    double eps = 1e-10, weight_decay = 0;
    double lr_decay = 0;                   // the learning rate is divided by 1 + (step - 1) lr_decay
    double initial_accumulator_value = 0;  // the sums of squares start here
    bool maximize = false;
    template <class F>
    void visit(F&& f) {
      f("eps", eps, "added to the root of the sum of squares");
      f("weight_decay", weight_decay, "l2 penalty");
      f("lr_decay", lr_decay, "divide the learning rate by 1 + (step - 1) times this");
      f("initial_accumulator_value", initial_accumulator_value, "where the sums of squares start");
      f("maximize", maximize, "go up the gradient instead of down");
    }
    void check() const {
      require(eps >= 0, "adagrad: eps must not be negative, but is ", eps);
      require(weight_decay >= 0, "adagrad: weight_decay must not be negative, but is ", weight_decay);
      require(lr_decay >= 0, "adagrad: lr_decay must not be negative, but is ", lr_decay);
      require(initial_accumulator_value >= 0, "adagrad: initial_accumulator_value must not be negative, but is ",
              initial_accumulator_value);
      require(eps > 0 || initial_accumulator_value > 0,
              "adagrad: with eps 0 give a positive initial_accumulator_value: a gradient of 0 would divide by 0");
    }
  };

  Adagrad(Context& ctx, const std::vector<ParamInfo>& list, Config config)
      : config_((config.check(), config)),
        plan_(ctx, list, 0, NormScope::batch_item, true),
        sum_(detail::zeroed<B, Master>(ctx, plan_.elements())) {
    if (config.initial_accumulator_value == 0) return;
    const std::vector<Master> start(static_cast<std::size_t>(plan_.elements()),
                                    Master(config.initial_accumulator_value));
    B::copy_from_host(ctx, sum_.template as<Master>(), start.data(), plan_.elements());
    B::synchronise(ctx);
  }

  void update(Context& ctx, Master* master, const typename P::accumulate* gradient, double gradient_scale,
              typename P::storage* weights, index_t step, double learning_rate) {
    require(step >= 1, "adagrad: steps count from 1, got ", step);
    const double rate = learning_rate / (1 + static_cast<double>(step - 1) * config_.lr_decay);
    const double sign = config_.maximize ? -1 : 1;
    B::for_each_row(ctx, plan_.block_count(),
                    AdagradBlock<P>{plan_.block_data(), master, sum_.template as<Master>(), gradient,
                                    detail::separate_weights(weights, master), Master(sign * gradient_scale),
                                    Master(rate), Master(config_.weight_decay), Master(config_.eps)},
                    plan_.work_per_block());
  }
  template <class F>
  void visit_state(F&& f) {
    f("adagrad.sum", sum_.template as<Master>(), plan_.elements());
  }

 private:
  Config config_;
  UpdatePlan<B> plan_;
  Buffer<typename B::Memory> sum_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

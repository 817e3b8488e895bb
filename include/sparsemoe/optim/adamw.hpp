// SPDX-License-Identifier: Apache-2.0
// optim/adamw.hpp -- Adam and AdamW: first and second moments of the gradient, in one pass over all parameters.
// (Kingma & Ba 2015; Loshchilov & Hutter 2019; AMSGrad: Reddi et al. 2018). Read next: optim/basic.hpp,
// optim/adafactor.hpp.
#pragma once

#include <array>
#include <string_view>

#include "sparsemoe/optim/optimiser.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Where weight decay enters: theta *= 1 - lr wd before the update (AdamW), the same after it (Hugging Face's AdamW),
/// or g += wd theta (Adam with an L2 penalty).
enum class Decay { before, after, l2 };

constexpr std::array<std::string_view, 3> field_names(Decay) { return {"before", "after", "l2"}; }

/// What eps is added to with correct_bias: the root of the corrected second moment (torch), or that of the moment as it
/// is kept, in the order of Kingma & Ba's section 2 (Hugging Face's AdamW).
enum class EpsAddedTo { corrected, kept };

constexpr std::array<std::string_view, 2> field_names(EpsAddedTo) { return {"corrected", "kept"}; }

/// theta -= rate m / (sqrt(v) * inverse_root + eps), with theta *= before and theta *= after on either side.
template <class P, bool Max>
struct AdamBlock {
  using M = typename P::master;
  const UpdateBlock* blocks;
  const UpdateItem* items;
  M *master, *first, *second, *largest;
  const typename P::accumulate* gradient;
  typename P::storage* weights;
  M scale, b1, b2, keep1, keep2, rate, inverse_root, eps, before, after, l2;  // keep = 1 - b

  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = blocks[i];
    const bool decayed = items[b.item].decayed;
    const M pre = decayed ? before : M(1), post = decayed ? after : M(1), penalty = decayed ? l2 : M(0);
    M* SPARSEMOE_RESTRICT theta = master + b.offset;
    M* SPARSEMOE_RESTRICT m = first + b.offset;
    M* SPARSEMOE_RESTRICT v = second + b.offset;
    const typename P::accumulate* SPARSEMOE_RESTRICT g = gradient + b.offset;
    M* SPARSEMOE_RESTRICT top = Max ? largest + b.offset : nullptr;
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < b.count; j += Team::lanes) {
      const M d = M(g[j]) * scale + penalty * theta[j];
      m[j] = b1 * m[j] + keep1 * d;
      v[j] = b2 * v[j] + keep2 * d * d;
      M root = v[j];
      if constexpr (Max) root = top[j] = root > top[j] ? root : top[j];
      theta[j] = (theta[j] * pre - rate * m[j] / (detail::vector_sqrt(root) * inverse_root + eps)) * post;
    }
    if (weights == nullptr) return;
    typename P::storage* SPARSEMOE_RESTRICT w = weights + b.offset;
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < b.count; j += Team::lanes) w[j] = typename P::storage(theta[j]);
  }
};

template <class P, class B>
class AdamW {
 public:
  using Precision = P;
  using Backend = B;
  using Context = typename B::Context;
  using Master = typename P::master;
  using Accumulate = typename P::accumulate;
  using Storage = typename P::storage;
  static constexpr const char* name = "adamw";

  struct Config {
    double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
    Decay decay = Decay::before;
    bool correct_bias = true;
    bool amsgrad = false;
    bool maximize = false;
    EpsAddedTo eps_added_to = EpsAddedTo::corrected;
    bool decay_vectors = true;  // false: biases and norm scales (rank 1) are not decayed

    template <class F>
    void visit(F&& f) {
      f("beta1", beta1, "decay of the first moment");
      f("beta2", beta2, "decay of the second moment");
      f("eps", eps, "added to the root of the second moment");
      f("weight_decay", weight_decay, "weight decay, times the learning rate");
      f("decay", decay, "decay before or after the update, or as an l2 penalty");
      f("correct_bias", correct_bias, "divide the moments by 1 - beta^step");
      f("amsgrad", amsgrad, "use the largest second moment so far");
      f("maximize", maximize, "go up the gradient instead of down");
      f("eps_added_to", eps_added_to, "add eps to the root of the corrected or of the kept second moment");
      f("decay_vectors", decay_vectors, "decay biases and norm scales too");
    }
    void check() const {
      require(beta1 >= 0 && beta1 < 1, "adamw: beta1 must be in [0, 1), not ", beta1);
      require(beta2 >= 0 && beta2 < 1, "adamw: beta2 must be in [0, 1), not ", beta2);
      require(eps >= 0, "adamw: eps must not be negative, but is ", eps);
      require(weight_decay >= 0, "adamw: weight_decay must not be negative, but is ", weight_decay);
    }
  };

  AdamW(Context& ctx, const std::vector<ParamInfo>& list, Config config)
      : config_((config.check(), config)), plan_(ctx, list, 0, NormScope::batch_item, config.decay_vectors) {
    first_ = detail::zeroed<B, Master>(ctx, plan_.elements());
    second_ = detail::zeroed<B, Master>(ctx, plan_.elements());
    if (config_.amsgrad) largest_ = detail::zeroed<B, Master>(ctx, plan_.elements());
  }

  void update(Context& ctx, Master* master, const Accumulate* gradient, double gradient_scale, Storage* weights,
              index_t step, double learning_rate) {
    require(step >= 1, "adamw: steps count from 1, got ", step);
    if (config_.amsgrad)
      run<true>(ctx, master, gradient, gradient_scale, weights, step, learning_rate);
    else
      run<false>(ctx, master, gradient, gradient_scale, weights, step, learning_rate);
  }

  template <class F>
  void visit_state(F&& f) {
    f("adamw.first", first_.template as<Master>(), plan_.elements());
    f("adamw.second", second_.template as<Master>(), plan_.elements());
    if (config_.amsgrad) f("adamw.largest", largest_.template as<Master>(), plan_.elements());
  }
  const Config& config() const { return config_; }

 private:
  template <bool Max>
  void run(Context& ctx, Master* master, const Accumulate* gradient, double gradient_scale, Storage* weights,
           index_t step, double learning_rate) {
    const Config& c = config_;
    const double t = static_cast<double>(step);
    const double correct1 = c.correct_bias ? 1 - std::pow(c.beta1, t) : 1;
    const double correct2 = c.correct_bias ? 1 - std::pow(c.beta2, t) : 1;
    const double shrink = 1 - learning_rate * c.weight_decay, sign = c.maximize ? -1 : 1;
    const bool kept = c.eps_added_to == EpsAddedTo::kept;
    const double rate = kept ? learning_rate * std::sqrt(correct2) / correct1 : learning_rate / correct1;
    B::for_each_row(
        ctx, plan_.block_count(),
        AdamBlock<P, Max>{plan_.block_data(), plan_.item_data(), master, first_.template as<Master>(),
                          second_.template as<Master>(), largest_.template as<Master>(), gradient,
                          detail::separate_weights(weights, master), Master(sign * gradient_scale), Master(c.beta1),
                          Master(c.beta2), Master(1 - c.beta1), Master(1 - c.beta2), Master(rate),
                          Master(kept ? 1 : 1 / std::sqrt(correct2)), Master(c.eps),
                          Master(c.decay == Decay::before ? shrink : 1), Master(c.decay == Decay::after ? shrink : 1),
                          Master(c.decay == Decay::l2 ? c.weight_decay : 0)},
        plan_.work_per_block());
  }

  Config config_;
  UpdatePlan<B> plan_;
  Buffer<typename B::Memory> first_, second_, largest_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

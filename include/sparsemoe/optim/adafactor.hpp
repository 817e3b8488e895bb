// SPDX-License-Identifier: Apache-2.0
// optim/adafactor.hpp -- Adafactor (Shazeer & Stern 2018): the second moment of a matrix kept as row and column means.
// Three passes over the gradient: row and column means; the norm of the update; the update, clipped. Statistics, scale
// and clip of a rank-3 parameter are per batch item (T5X: the expert), or its norms per tensor (Hugging Face).
// Read next: optim/factored_adam.hpp, optim/clip.hpp.
#pragma once

#include <vector>

#include "sparsemoe/optim/optimiser.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace adafactor {

/// What a step needs to know of an item.
struct ItemState {
  double rate = 0;  // learning rate times the parameter's scale
  double clip = 1;  // factor on the update
  int idle = 0;     // the gradient is all zero and idle items are skipped
};

/// The operands of every pass.
template <class P>
struct Operands {
  using M = typename P::master;
  using G = typename P::accumulate;
  const UpdateBlock* blocks;
  const UpdateItem* items;
  ItemState* states;
  M* master;
  const G* gradient;
  typename P::storage* weights;          // or null
  M *row, *col, *full, *momentum;        // the state; momentum or null
  M *partial, *row_scale, *col_scale;    // column sums a block; a row; a column
  double *theta_square, *update_square;  // a block
  M* largest;                            // |g| a block
  M scale, eps1, beta2, keep2;           // keep2 = 1 - beta2
  double eps2, clip, rate;
  M beta1, weight_decay;
  bool scaled, skip_idle;
};

/// Row and column sums of g^2 + eps1, and what the scale and the idle test need.
template <class P>
struct SumBlock {
  using M = typename P::master;
  Operands<P> q;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = q.blocks[i];
    const UpdateItem m = q.items[b.item];
    const index_t n = m.factored ? m.cols : b.count, rows = b.count / n, first_row = (b.offset - m.offset) / n;
    M* SPARSEMOE_RESTRICT out = q.partial + b.partial;
    if (m.factored)
      for (index_t j = team.lane(); j < n; j += Team::lanes) out[j] = M(0);
    double theta_square = 0;
    M largest = M(0);
    for (index_t r = 0; r < rows; ++r) {
      const typename P::accumulate* SPARSEMOE_RESTRICT g = q.gradient + b.offset + r * n;
      if (m.factored) {
        M total = M(0);
        SPARSEMOE_SIMD_SUM(total)
        for (index_t j = team.lane(); j < n; j += Team::lanes) {
          const M d = M(g[j]) * q.scale, square = d * d + q.eps1;
          out[j] += square;
          total += square;
        }
        total = team.sum(total);
        if (team.lane() == 0) q.row_scale[m.row_state + first_row + r] = total;
      }
      if (q.scaled) {
        const M* SPARSEMOE_RESTRICT theta = q.master + b.offset + r * n;
        M total = M(0);
        SPARSEMOE_SIMD_SUM(total)
        for (index_t j = team.lane(); j < n; j += Team::lanes) total += theta[j] * theta[j];
        theta_square += static_cast<double>(total);
      }
      if (q.skip_idle) {
        SPARSEMOE_SIMD_MAX(largest)
        for (index_t j = team.lane(); j < n; j += Team::lanes) {
          const M size = g[j] < 0 ? -M(g[j]) : M(g[j]);
          largest = size > largest ? size : largest;
        }
      }
    }
    theta_square = team.sum(theta_square);
    largest = team.max(largest);
    if (team.lane() == 0) q.theta_square[i] = theta_square, q.largest[i] = largest;
  }
};

/// The learning rate of an item, its new row and column means, and their inverse roots.
template <class P>
struct MomentItem {
  using M = typename P::master;
  Operands<P> q;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateItem m = q.items[i];
    double scale = 1;
    if (q.scaled) {
      double square = 0;
      for (index_t b = team.lane(); b < m.scope_blocks; b += Team::lanes) square += q.theta_square[m.scope_block + b];
      const double root = std::sqrt(team.sum(square) / static_cast<double>(m.scope_elements));
      scale = root > q.eps2 ? root : q.eps2;
    }
    M largest = M(0);
    if (q.skip_idle)
      for (index_t b = team.lane(); b < m.blocks; b += Team::lanes) {
        const M one = q.largest[m.first_block + b];
        largest = one > largest ? one : largest;
      }
    const bool idle = q.skip_idle && !(team.max(largest) > M(0));
    if (team.lane() == 0) q.states[i] = {q.rate * scale, 1, idle ? 1 : 0};
    if (idle || !m.factored) return;

    M* SPARSEMOE_RESTRICT row = q.row + m.row_state;
    M* SPARSEMOE_RESTRICT row_scale = q.row_scale + m.row_state;
    double total = 0;
    for (index_t r = team.lane(); r < m.rows; r += Team::lanes) {
      row[r] = q.beta2 * row[r] + q.keep2 * (row_scale[r] / M(m.cols));
      total += static_cast<double>(row[r]);
    }
    const double mean = team.sum(total) / static_cast<double>(m.rows);
    for (index_t r = team.lane(); r < m.rows; r += Team::lanes)
      row_scale[r] = M(1) / detail::vector_sqrt(row[r] / M(mean));

    M* SPARSEMOE_RESTRICT col = q.col + m.col_state;
    M* SPARSEMOE_RESTRICT col_scale = q.col_scale + m.col_state;
    for (index_t j = team.lane(); j < m.cols; j += Team::lanes) col_scale[j] = M(0);
    for (index_t b = 0; b < m.blocks; ++b) {
      const M* SPARSEMOE_RESTRICT sums = q.partial + q.blocks[m.first_block + b].partial;
      SPARSEMOE_SIMD
      for (index_t j = team.lane(); j < m.cols; j += Team::lanes) col_scale[j] += sums[j];
    }
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < m.cols; j += Team::lanes) {
      col[j] = q.beta2 * col[j] + q.keep2 * (col_scale[j] / M(m.rows));
      col_scale[j] = M(1) / detail::vector_sqrt(col[j]);
    }
  }
};

/// The squared norm of the update u; for an item that is not factored, its new second moment too.
template <class P>
struct NormBlock {
  using M = typename P::master;
  Operands<P> q;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = q.blocks[i];
    const UpdateItem m = q.items[b.item];
    double square = 0;
    if (q.states[b.item].idle == 0) {
      const typename P::accumulate* SPARSEMOE_RESTRICT g = q.gradient + b.offset;
      if (m.factored) {
        const M* SPARSEMOE_RESTRICT col_scale = q.col_scale + m.col_state;
        const index_t first_row = (b.offset - m.offset) / m.cols;
        for (index_t r = 0; r < b.count / m.cols; ++r, g += m.cols) {
          M total = M(0);
          SPARSEMOE_SIMD_SUM(total)
          for (index_t j = team.lane(); j < m.cols; j += Team::lanes) {
            const M u = M(g[j]) * q.scale * col_scale[j];
            total += u * u;
          }
          const auto row_scale = static_cast<double>(q.row_scale[m.row_state + first_row + r]);
          square += row_scale * row_scale * static_cast<double>(total);
        }
      } else {
        M* SPARSEMOE_RESTRICT full = q.full + m.row_state + (b.offset - m.offset);
        M total = M(0);
        SPARSEMOE_SIMD_SUM(total)
        for (index_t j = team.lane(); j < b.count; j += Team::lanes) {
          const M d = M(g[j]) * q.scale;
          full[j] = q.beta2 * full[j] + q.keep2 * (d * d + q.eps1);
          const M u = d / detail::vector_sqrt(full[j]);
          total += u * u;
        }
        square = static_cast<double>(total);
      }
    }
    square = team.sum(square);
    if (team.lane() == 0) q.update_square[i] = square;
  }
};
/// u / max(1, RMS(u) / d)
template <class P>
struct ClipItem {
  Operands<P> q;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateItem m = q.items[i];
    double square = 0;
    for (index_t b = team.lane(); b < m.scope_blocks; b += Team::lanes) square += q.update_square[m.scope_block + b];
    const double root = std::sqrt(team.sum(square) / static_cast<double>(m.scope_elements)) / q.clip;
    if (team.lane() == 0) q.states[i].clip = root > 1 ? 1 / root : 1;
  }
};

/// theta -= rate * wd * theta + rate * clip * u, or the running mean of rate * clip * u.
template <class P>
struct ApplyBlock {
  using M = typename P::master;
  Operands<P> q;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const UpdateBlock b = q.blocks[i];
    const UpdateItem m = q.items[b.item];
    const ItemState s = q.states[b.item];
    if (s.idle != 0) return;
    const M factor = M(s.rate * s.clip) * q.scale;
    const M keep = m.decayed ? M(1) - M(s.rate) * q.weight_decay : M(1);
    const index_t n = m.factored ? m.cols : b.count, first_row = (b.offset - m.offset) / n;
    const typename P::accumulate* SPARSEMOE_RESTRICT g = q.gradient + b.offset;
    M* SPARSEMOE_RESTRICT theta = q.master + b.offset;
    for (index_t r = 0; r < b.count / n; ++r, g += n, theta += n) {
      const M* SPARSEMOE_RESTRICT col_scale = q.col_scale + m.col_state;
      const M* SPARSEMOE_RESTRICT full = q.full + m.row_state + (b.offset - m.offset);
      const M f = m.factored ? factor * q.row_scale[m.row_state + first_row + r] : factor;
      if (q.momentum != nullptr) {
        M* SPARSEMOE_RESTRICT mean = q.momentum + b.offset + r * n;
        for (index_t j = team.lane(); j < n; j += Team::lanes) {
          const M u = m.factored ? M(g[j]) * col_scale[j] : M(g[j]) / detail::vector_sqrt(full[j]);
          mean[j] = q.beta1 * mean[j] + (M(1) - q.beta1) * (f * u);
          theta[j] = theta[j] * keep - mean[j];
        }
      } else if (m.factored) {
        SPARSEMOE_SIMD
        for (index_t j = team.lane(); j < n; j += Team::lanes)
          theta[j] = theta[j] * keep - f * (M(g[j]) * col_scale[j]);
      } else {
        SPARSEMOE_SIMD
        for (index_t j = team.lane(); j < n; j += Team::lanes)
          theta[j] = theta[j] * keep - f * (M(g[j]) / detail::vector_sqrt(full[j]));
      }
      if (q.weights == nullptr) continue;
      typename P::storage* SPARSEMOE_RESTRICT w = q.weights + b.offset + r * n;
      SPARSEMOE_SIMD
      for (index_t j = team.lane(); j < n; j += Team::lanes) w[j] = typename P::storage(theta[j]);
    }
  }
};

}  // namespace adafactor

template <class P, class B>
class Adafactor {
 public:
  using Precision = P;
  using Backend = B;
  using Context = typename B::Context;
  using Master = typename P::master;
  using Accumulate = typename P::accumulate;
  using Storage = typename P::storage;
  static constexpr const char* name = "adafactor";

  /// The defaults are T5X's and the paper's, with the learning rate from outside.
  struct Config {
    bool relative_step = false;   // the learning rate is min(0.01, step^-0.5), update()'s argument is ignored
    bool warmup_init = false;     // with relative_step: min(1e-6 step, step^-0.5)
    bool scale_parameter = true;  // the learning rate is times max(eps2, RMS of the parameter)
    double clip_threshold = 1;    // of the RMS of the update
    double decay_rate = -0.8;     // the second moment's decay is 1 - step^decay_rate
    double beta1 = 0;             // 0: no first moment, and no memory for it
    double eps1 = 1e-30, eps2 = 1e-3, weight_decay = 0;
    index_t min_factored = 1;  // matrices with a smaller extent keep the full second moment
    NormScope norms = NormScope::batch_item;
    bool skip_idle = false;  // a batch item whose gradient is all zero keeps parameter and state as they are
    bool decay_vectors = true;

    template <class F>
    void visit(F&& f) {
      f("relative_step", relative_step, "learning rate min(0.01, step^-0.5) instead of a schedule");
      f("warmup_init", warmup_init, "with relative_step: learning rate min(1e-6 step, step^-0.5)");
      f("scale_parameter", scale_parameter, "multiply the learning rate by the parameter's root mean square");
      f("clip_threshold", clip_threshold, "largest root mean square of an update");
      f("decay_rate", decay_rate, "the second moment decays by 1 - step^decay_rate");
      f("beta1", beta1, "decay of the first moment, 0: none");
      f("eps1", eps1, "added to the squared gradient");
      f("eps2", eps2, "least scale of a parameter");
      f("weight_decay", weight_decay, "weight decay, times the learning rate");
      f("min_factored", min_factored, "smallest extent of a matrix that is factored");
      f("norms", norms, "scale and clip by batch_item (expert) or by tensor");
      f("skip_idle", skip_idle, "leave an expert without gradient, and its state, as they are");
      f("decay_vectors", decay_vectors, "decay biases and norm scales too");
    }
    void check() const {
      require(clip_threshold > 0, "adafactor: clip_threshold must be positive, not ", clip_threshold);
      require(decay_rate <= 0, "adafactor: decay_rate must not be positive, but is ", decay_rate);
      require(beta1 >= 0 && beta1 < 1, "adafactor: beta1 must be in [0, 1), not ", beta1);
      require(eps1 >= 0 && eps2 >= 0, "adafactor: eps1 and eps2 must not be negative, but are ", eps1, " and ", eps2);
      require(weight_decay >= 0, "adafactor: weight_decay must not be negative, but is ", weight_decay);
      require(min_factored >= 1, "adafactor: min_factored must be at least 1, not ", min_factored);
      require(relative_step || !warmup_init, "adafactor: warmup_init needs relative_step");
    }
  };

  Adafactor(Context& ctx, const std::vector<ParamInfo>& list, Config config)
      : config_((config.check(), config)),
        plan_(ctx, list, config.min_factored, config.norms, config.decay_vectors),
        row_(detail::zeroed<B, Master>(ctx, plan_.rows())),
        col_(detail::zeroed<B, Master>(ctx, plan_.cols())),
        full_(detail::zeroed<B, Master>(ctx, plan_.full())),
        momentum_(detail::zeroed<B, Master>(ctx, config.beta1 > 0 ? plan_.elements() : 0)),
        states_(detail::zeroed<B, adafactor::ItemState>(ctx, plan_.item_count())) {}

  void update(Context& ctx, Master* master, const Accumulate* gradient, double gradient_scale, Storage* weights,
              index_t step, double learning_rate) {
    require(step >= 1, "adafactor: steps count from 1, got ", step);
    const Config& c = config_;
    const double t = static_cast<double>(step), keep2 = std::pow(t, c.decay_rate);
    const double most = c.warmup_init ? 1e-6 * t : 1e-2;
    const typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    adafactor::Operands<P> q{};
    q.blocks = plan_.block_data(), q.items = plan_.item_data(), q.states = states_.template as<adafactor::ItemState>();
    q.master = master, q.gradient = gradient, q.weights = detail::separate_weights(weights, master);
    q.row = row_.template as<Master>(), q.col = col_.template as<Master>(), q.full = full_.template as<Master>();
    q.momentum = momentum_.template as<Master>();
    q.partial = ctx.arena.template take<Master>(plan_.partials());
    q.row_scale = ctx.arena.template take<Master>(plan_.rows());
    q.col_scale = ctx.arena.template take<Master>(plan_.cols());
    q.theta_square = ctx.arena.template take<double>(plan_.block_count());
    q.update_square = ctx.arena.template take<double>(plan_.block_count());
    q.largest = ctx.arena.template take<Master>(plan_.block_count());
    q.scale = Master(gradient_scale), q.eps1 = Master(c.eps1), q.beta2 = Master(1 - keep2), q.keep2 = Master(keep2);
    q.eps2 = c.eps2, q.clip = c.clip_threshold;
    q.rate = c.relative_step ? std::min(most, 1 / std::sqrt(t)) : learning_rate;
    q.beta1 = Master(c.beta1), q.weight_decay = Master(c.weight_decay);
    q.scaled = c.scale_parameter, q.skip_idle = c.skip_idle;

    const index_t blocks = plan_.block_count(), items = plan_.item_count();
    const index_t block_work = plan_.work_per_block(), item_work = 1 + (plan_.partials() + plan_.rows()) / (items + 1);
    B::for_each_row(ctx, blocks, adafactor::SumBlock<P>{q}, block_work);
    B::for_each_row(ctx, items, adafactor::MomentItem<P>{q}, item_work);
    B::for_each_row(ctx, blocks, adafactor::NormBlock<P>{q}, block_work);
    B::for_each_row(ctx, items, adafactor::ClipItem<P>{q}, 1 + blocks / (items + 1));
    B::for_each_row(ctx, blocks, adafactor::ApplyBlock<P>{q}, block_work);
  }

  template <class F>
  void visit_state(F&& f) {
    f("adafactor.row", row_.template as<Master>(), plan_.rows());
    f("adafactor.col", col_.template as<Master>(), plan_.cols());
    f("adafactor.full", full_.template as<Master>(), plan_.full());
    if (config_.beta1 > 0) f("adafactor.momentum", momentum_.template as<Master>(), plan_.elements());
  }

  /// The last step's learning rate of every item of plan().items(), scale included. For reports: it allocates.
  std::vector<double> effective_learning_rates(Context& ctx) const {
    std::vector<adafactor::ItemState> states(plan_.items().size());
    B::copy_to_host(ctx, states.data(), states_.template as<adafactor::ItemState>(), plan_.item_count());
    B::synchronise(ctx);
    std::vector<double> rates;
    for (const auto& s : states) rates.push_back(s.rate);
    return rates;
  }
  const UpdatePlan<B>& plan() const { return plan_; }
  const Config& config() const { return config_; }

 private:
  Config config_;
  UpdatePlan<B> plan_;
  Buffer<typename B::Memory> row_, col_, full_, momentum_, states_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

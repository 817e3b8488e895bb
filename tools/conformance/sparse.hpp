// SPDX-License-Identifier: Apache-2.0
// tools/conformance/sparse.hpp -- a sparse layer on one batch, with its cache, statistics and gradients. Draws and
// tables are given to the routers; everything else is our layer. Read next: routing.cpp.
#pragma once

#include "bound.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/nn/moe.hpp"
#include "views.hpp"

namespace conformance {

template <class RouterType, class P, class Act>
struct SparseSpec {
  using Router = RouterType;
  using Precision = P;
  using Backend = Cpu;
  using Collective = Solo;
  using Activation = Act;
};

/// A sparse layer on one batch, its cache and gradients. Groups may be run one after another: gradients add up.
template <class P, class Router, class Act>
struct Sparse {
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using Layer = MoE<SparseSpec<Router, P, Act>>;

  Run<P>& run;
  Layer layer;
  Bound<P, Layer> bound;
  index_t width, experts;
  typename Layer::Cache cache;
  RoutingStatistics statistics;
  Solo solo;

  Sparse(Run<P>& r, MoeConfig config, Router router, std::vector<Link> links)
      : run(r), layer(config, router), bound(r, layer, std::move(links)), width(config.width), experts(config.experts) {
    run.ctx.training = true;
  }
  /// Slots for exactly `capacity` choices an expert.
  static void set_capacity(MoeConfig& config, index_t capacity, index_t tokens) {
    require(capacity >= 1, "the capacity must be at least 1, not ", capacity);
    config.capacity_factor = static_cast<double>(capacity * config.experts) / static_cast<double>(tokens);
    config.rounding = CapacityRounding::round;
    config.min_capacity = 1;
  }
  std::vector<S> forward(const Tokens& tokens, const std::vector<S>& x) {
    std::vector<S> y(x.size());
    layer.forward(run.ctx, bound.w, tokens, constant(x, width), writable(y, width), cache, solo);
    statistics = layer.statistics(run.ctx, cache);
    return y;
  }
  /// dcombine (T, E) is the cotangent of the dense combine weights; may be empty.
  std::vector<S> backward(const Tokens& tokens, const std::vector<S>& x, const std::vector<S>& dy,
                          const std::vector<R>& dcombine = {}) {
    const index_t K = layer.top_k();
    std::vector<S> dx(x.size());
    std::vector<R> chosen(dcombine.empty() ? 0 : static_cast<std::size_t>(tokens.count() * K));
    for (index_t t = 0; !dcombine.empty() && t < tokens.count(); ++t)
      for (index_t k = 0; k < K; ++k)
        if (cache.slot[k * tokens.count() + t] >= 0)
          chosen[static_cast<std::size_t>(t * K + k)] =
              dcombine[static_cast<std::size_t>(t * experts + cache.chosen[t * K + k])];
    layer.backward(run.ctx, bound.w, bound.dw, tokens, constant(x, width), constant(dy, width), writable(dx, width),
                   cache, 1, {}, chosen.empty() ? Matrix<const R>{} : constant(chosen, K));
    return dx;
  }
  /// (T, E), from the weights of the chosen.
  Values dense_combine(index_t tokens) const {
    const index_t K = layer.top_k();
    Values w(static_cast<std::size_t>(tokens * experts), 0);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t k = 0; k < K; ++k)
        if (cache.slot[k * tokens + t] >= 0)
          w[static_cast<std::size_t>(t * experts + cache.chosen[t * K + k])] =
              static_cast<double>(cache.combine[t * K + k]);
    return w;
  }
  Values probabilities() const { return Values(cache.scores.data, cache.scores.data + cache.scores.size()); }
  /// The layer keeps probabilities and log-sum-exps: h = log p + lse.
  Values logits() const {
    Values h = probabilities();
    for (std::size_t i = 0; i < h.size(); ++i)
      h[i] = std::log(h[i]) + static_cast<double>(cache.lse[i / static_cast<std::size_t>(experts)]);
    return h;
  }
};

struct Mask {
  std::vector<std::uint8_t> valid;
  explicit Mask(index_t tokens) : valid(static_cast<std::size_t>(tokens), 1) {}
  Tokens tokens(const std::int32_t* ids = nullptr) const {
    return {1, static_cast<index_t>(valid.size()), ids, valid.data(), nullptr, 0, nullptr};
  }
};

}  // namespace conformance

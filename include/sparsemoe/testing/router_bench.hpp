// SPDX-License-Identifier: Apache-2.0
// testing/router_bench.hpp -- runs one sparse layer with a router on batches that can be padded, permuted and widened,
// and recomputes slots, weights and outputs in plain loops. Read next: testing/router_batch.hpp;
// testing/check_router.hpp, which asks the questions.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/nn/moe.hpp"
#include "sparsemoe/testing/check_layer.hpp"
#include "sparsemoe/testing/router_batch.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct RouterCheckOptions {
  index_t experts = 5, width = 12, hidden = 9, tasks = 3, vocabulary = 30;
  index_t sentences = 4, length = 6;
  bool external_pool = false;    // a sentence router as in a decoder: it scores a mean it is given
  bool position_free = true;     // the choice does not depend on the place in the sentence or on neighbours
  bool lower_index_wins = true;  // equal scores go to the lower expert
  bool any_expert = true;        // a high enough score wins, among any number of experts from top_k
  bool idle_experts = true;      // one token leaves experts without any
  std::uint64_t seed = 1;
};

namespace detail {

/// The tokens of a batch in the memory of backend B.
template <class B>
struct TokenMirror {
  Mirror<B, std::int32_t> ids, task;
  Mirror<B, std::uint8_t> valid;
  Tokens view;
  TokenMirror(typename B::Context& ctx, const RouterBatch& b)
      : ids(ctx, b.ids), task(ctx, b.task), valid(ctx, b.valid), none_(ctx, {0}), no_mask_(ctx, {0}) {
    view = {b.sentences, b.length, ids.data(), valid.data(), task.data(), 0, nullptr};
    if (b.count() == 0) view.ids = none_.data(), view.task = none_.data(), view.valid = no_mask_.data();
  }

 private:
  Mirror<B, std::int32_t> none_;
  Mirror<B, std::uint8_t> no_mask_;
};
template <class B, class T>
std::vector<T> fetch(typename B::Context& ctx, const T* from, index_t n) {
  std::vector<T> v(static_cast<std::size_t>(from != nullptr ? n : 0));
  if (!v.empty()) B::copy_to_host(ctx, v.data(), from, n);
  B::synchronise(ctx);
  return v;
}

template <class RouterType, class B>
class RouterBench {
 public:
  struct Spec {
    using Router = RouterType;
    using Precision = Fp64;
    using Backend = B;
    using Collective = Solo;
    using Activation = Gelu;
    static constexpr bool check_choices = true;  // on any backend, whatever the build
  };
  using Layer = MoE<Spec>;
  using Context = typename B::Context;
  using Traits = RouterTraits<RouterType>;
  using Pick = Choice<1>;  // for its encoding of what was rejected
  struct How {
    bool training = false;
    int threads = 1;
    const std::vector<double>* weights = nullptr;
  };

  RouterBench(const RouterType& router, const RouterCheckOptions& options) : router_(router), o_(options) {
    require(o_.experts > Traits::top_k, "check_router: give more experts than top_k, so that one can be empty; got ",
            o_.experts);
    require(o_.length >= 2 && o_.sentences >= 2, "check_router: give at least two sentences of two tokens");
  }

  /// Experts a token can get.
  index_t top_k(index_t experts) const { return Traits::any_number_of_experts ? experts : index_t(Traits::top_k); }
  index_t top_k() const { return top_k(o_.experts); }
  /// What the weights of a token sum to where a gate normalises them.
  double weight_scale() const {
    if constexpr (requires { router_.weight_scale; }) return router_.weight_scale;
    return 1;
  }
  /// What the balance loss is where routing is uniform: 1, or 1 for each of two levels.
  double uniform_balance() const { return RoutingLosses<Spec>::levels ? 2 : 1; }
  /// True if MoeConfig's capacity factors are the router's.
  static constexpr bool drops() { return Traits::can_drop_tokens && !Routing<Spec>::own_capacity; }
  /// Over how many the first (or only) softmax runs.
  index_t first_level() const { return gate_columns(router_, o_.experts).size(0); }
  /// The expert that choice i of the flat list takes where all scores are equal.
  index_t lowest(index_t i) const {
    const auto columns = gate_columns(router_, o_.experts);
    const index_t k = i % top_k();
    if constexpr (Traits::two_level) return k / RouterType::second_k * columns.per_branch() + k % RouterType::second_k;
    return k;
  }
  MoeConfig config() const {
    MoeConfig c;
    c.experts = o_.experts, c.width = o_.width, c.hidden = o_.hidden, c.tasks = o_.tasks;
    c.balance_coefficient = 0.3;
    c.z_coefficient = Traits::score == Score::softmax ? 0.1 : 0;
    c.importance_coefficient = 0.4;
    c.load_coefficient = 0.7;
    c.external_pool = o_.external_pool;
    return c;
  }
  /// `ragged`: sentences of different lengths, the first one full.
  RouterBatch batch(index_t sentences, index_t length, bool ragged) const {
    RouterBatch b;
    b.sentences = sentences, b.length = length, b.width = o_.width;
    const index_t n = b.count();
    b.x = random_values(n * o_.width, o_.seed, 1);
    b.dy = random_values(n * o_.width, o_.seed, 2);
    b.pool = random_values(sentences * o_.width, o_.seed, 3);
    const Random random{o_.seed};
    for (index_t t = 0; t < n; ++t) {
      b.ids.push_back(static_cast<std::int32_t>(random.draw4(Purpose::test, static_cast<std::uint64_t>(t)).v[0] %
                                                static_cast<std::uint32_t>(o_.vocabulary)));
      b.valid.push_back(!ragged || t % length < length - t / length % length ? 1 : 0);
    }
    for (index_t s = 0; s < sentences; ++s) b.task.push_back(static_cast<std::int32_t>((s * 2 + 1) % o_.tasks));
    return b;
  }
  /// Random weights in the flat layout of list_params().
  std::vector<double> weights(const MoeConfig& c) const {
    auto params = Layer(c, router_).template params<const double>();
    index_t total = 0;
    list_params(params, &total);
    return random_values(total, o_.seed, 4, 0.5);
  }
  std::vector<double> weights() const { return weights(config()); }

  RouterRun run(const MoeConfig& c, const RouterBatch& b, const How& how) const {
    Context ctx(how.threads);
    ctx.training = how.training;
    ctx.random = {o_.seed, 2, 3};
    ctx.arena.poison(true);
    const Layer layer(c, router_);
    const std::vector<double> start = how.weights != nullptr ? *how.weights : weights(c);
    const Mirror<B, double> values(ctx, start), x(ctx, b.x), dy(ctx, b.dy), pool(ctx, b.pool);
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    Mirror<B, double> dw(ctx, std::vector<double>(start.size())), y(ctx, std::vector<double>(b.x.size(), nan)),
        dx(ctx, std::vector<double>(b.x.size(), nan)), dpool(ctx, std::vector<double>(b.pool.size()));
    auto w = layer.template params<const double>();
    auto g = layer.template params<double>();
    bind_params(w, static_cast<const double*>(values.data()));
    bind_params(g, dw.data());
    const TokenMirror<B> tokens(ctx, b);
    typename Layer::Cache cache;
    Solo solo;
    const index_t n = b.count(), d = o_.width;
    layer.forward(ctx, w, tokens.view, {x.data(), n, d}, {y.data(), n, d}, cache, solo, {pool.data(), b.sentences, d});
    layer.backward(ctx, w, g, tokens.view, {x.data(), n, d}, {dy.data(), n, d}, {dx.data(), n, d}, cache, 1,
                   {dpool.data(), b.sentences, d});
    const index_t K = top_k(c.experts);
    RouterRun r;
    for (auto* m : {&dw, &y, &dx, &dpool}) m->pull(ctx);
    r.y = y.host, r.dx = dx.host, r.dw = dw.host, r.dpool = dpool.host;
    r.tokens = n;
    r.capacity = cache.capacity;
    r.scores = fetch<B>(ctx, cache.scores.data, cache.scores.size());
    r.combine = fetch<B>(ctx, cache.combine, n * K);
    r.chosen = fetch<B>(ctx, cache.chosen, cache.units * K);
    r.slot = fetch<B>(ctx, cache.slot, n * K);
    r.source = fetch<B>(ctx, cache.source, n * K);
    r.expert = fetch<B>(ctx, cache.expert, n * K);
    r.offsets = fetch<B>(ctx, cache.offsets, c.experts + 1);
    r.columns = cache.scores.cols;
    r.statistics = layer.statistics(ctx, cache);
    r.loss = layer.weighted_loss(r.statistics);
    return r;
  }
  /// check_layer of the whole sparse layer, routing losses and a loss on the combine weights included.
  LayerReport gradient(const MoeConfig& c, const RouterBatch& b, const LayerCheckOptions& options = {}) const {
    Context ctx(1);
    ctx.training = true;
    ctx.random = {o_.seed, 2, 3};
    const Layer layer(c, router_);
    const TokenMirror<B> tokens(ctx, b);
    typename Layer::Cache cache;
    Solo solo;
    const index_t K = top_k(c.experts);
    const Mirror<B, double> dcombine(ctx, random_values(b.count() * K, o_.seed, 5));
    const bool pooled = c.external_pool && Traits::level == Level::sentence;
    std::vector<LayerInput> inputs = {{b.count(), o_.width}};
    if (pooled) inputs.push_back({b.sentences, o_.width, Handover::added});
    const auto forward = [&](const auto& w, const std::vector<Matrix<const double>>& x, Matrix<double> y) {
      layer.forward(ctx, w, tokens.view, x[0], y, cache, solo, pooled ? x[1] : Matrix<const double>{});
      double extra = layer.weighted_loss(layer.statistics(ctx, cache));
      const auto combine = fetch<B>(ctx, cache.combine, b.count() * K);
      for (std::size_t i = 0; i < combine.size(); ++i) extra += dcombine.host[i] * combine[i];
      return extra;
    };
    const auto backward = [&](const auto& w, auto& dw, const std::vector<Matrix<const double>>& x,
                              Matrix<const double> dy, const std::vector<Matrix<double>>& dx) {
      layer.backward(ctx, w, dw, tokens.view, x[0], dy, dx[0], cache, 1, pooled ? dx[1] : Matrix<double>{},
                     {dcombine.data(), b.count(), K});
    };
    return check_layer<B>(ctx, layer, inputs, {b.count(), o_.width}, forward, backward, options);
  }
  index_t unit(const RouterBatch& b, index_t t) const {
    if (Traits::level == Level::sentence) return t / b.length;
    if (Traits::level == Level::task) return b.task[static_cast<std::size_t>(t / b.length)];
    return t;
  }
  double expected_weight(const RouterRun& r, const RouterBatch& b, index_t t, index_t k) const {
    const index_t K = top_k();
    if (r.slot_of(t, k) < 0) return 0;
    if constexpr (Traits::gate == Gate::constant) return 1.0 / static_cast<double>(K);
    const index_t u = unit(b, t);
    const auto choice = [&](index_t j) { return r.chosen[static_cast<std::size_t>(u * K + j)]; };
    const auto score = [&](index_t column) { return r.scores[static_cast<std::size_t>(u * r.columns + column)]; };
    const auto columns = gate_columns(router_, o_.experts);
    const auto p = [&](index_t j) { return score(columns.branches + Pick::expert_of(choice(j))); };
    if constexpr (Traits::gate == Gate::own) {  // what the router says; that it is right is for a test of its own
      bool kept[RouterType::top_k];
      double w[RouterType::top_k];
      for (index_t j = 0; j < K; ++j) kept[j] = r.slot_of(t, j) >= 0;
      router_.weigh(Row<const double>{r.scores.data() + u * r.columns, r.columns}, r.chosen.data() + u * K, kept, w);
      return w[k];
    } else if constexpr (Traits::two_level) {
      const auto branch = [&](index_t j) { return choice(j) / columns.per_branch(); };
      double outer = 0, inner = 0;
      for (index_t j = 0; j < K; j += columns.second_k) outer += score(branch(j));
      for (index_t j = 0; j < K; ++j) inner += branch(j) == branch(k) ? p(j) : 0;
      return score(branch(k)) / outer * p(k) / inner;
    }
    double sum = 0, scale = 1;
    if constexpr (requires { router_.weight_scale; }) scale = router_.weight_scale;
    for (index_t j = 0; j < K; ++j)
      if (Traits::gate == Gate::normalised ? choice(j) != -1 : r.slot_of(t, j) >= 0) sum += p(j);
    return scale * (Traits::gate == Gate::probability ? p(k) : p(k) / sum);
  }
  /// y of plain loops, from the choices, slots and weights of the run.
  std::vector<double> expected_output(const RouterRun& r, const RouterBatch& b,
                                      const std::vector<double>* weights = nullptr) const {
    const index_t K = top_k();
    std::vector<double> y(b.x.size(), 0);
    const std::vector<double> w = weights != nullptr ? *weights : this->weights();
    for (index_t t = 0; t < b.count(); ++t)
      for (index_t k = 0; k < K; ++k) {
        if (r.slot_of(t, k) < 0) continue;
        const auto one = feed_forward(w, o_.experts, r.chosen[static_cast<std::size_t>(unit(b, t) * K + k)], b, t);
        for (index_t j = 0; j < o_.width; ++j)
          y[static_cast<std::size_t>(t * o_.width + j)] +=
              r.combine[static_cast<std::size_t>(t * K + k)] * one[static_cast<std::size_t>(j)];
      }
    return y;
  }
  /// Expert e as a dense block over the valid tokens.
  std::vector<double> dense_output(const std::vector<double>& weights, index_t e, const RouterBatch& b,
                                   index_t experts = 0) const {
    std::vector<double> y(b.x.size(), 0);
    for (index_t t = 0; t < b.count(); ++t)
      if (b.valid[static_cast<std::size_t>(t)] != 0) {
        const auto one = feed_forward(weights, experts > 0 ? experts : o_.experts, e, b, t);
        std::copy(one.begin(), one.end(), y.begin() + t * o_.width);
      }
    return y;
  }
  /// What is wrong with the slots, counted again one choice after another; empty if nothing is.
  std::string slot_complaint(const RouterRun& r, const RouterBatch& b, index_t group) const {
    const index_t K = top_k();
    std::vector<std::vector<index_t>> expected(
        static_cast<std::size_t>(o_.experts));  // of an expert: k T + t, in slot order
    for (index_t first = 0; first < b.count(); first += group) {
      std::vector<std::int32_t> taken(static_cast<std::size_t>(o_.experts), 0);
      for (index_t k = 0; k < K; ++k)
        for (index_t t = first; t < std::min(first + group, b.count()); ++t) {
          if (b.valid[static_cast<std::size_t>(t)] == 0) continue;
          const std::int32_t v = r.chosen[static_cast<std::size_t>(unit(b, t) * K + k)];
          if (v == -1 || (v < -1 && !Traits::rejected_consumes_slot)) continue;
          const auto e = static_cast<std::size_t>(Pick::expert_of(v));
          const bool fits = r.capacity == 0 || taken[e] < r.capacity;
          ++taken[e];
          if (v >= 0 && fits) expected[e].push_back(k * b.count() + t);
        }
    }
    std::vector<bool> kept(r.slot.size(), false);
    index_t slot = 0;
    for (index_t e = 0; e < o_.experts; ++e) {
      if (r.offsets[static_cast<std::size_t>(e)] != slot)
        return join("expert ", e, " starts at slot ", r.offsets[static_cast<std::size_t>(e)], ", expected ", slot);
      for (const index_t c : expected[static_cast<std::size_t>(e)]) {
        const auto s = static_cast<std::size_t>(slot);
        if (r.source[s] != c || r.expert[s] != e || r.slot[static_cast<std::size_t>(c)] != slot)
          return join("slot ", slot, " holds choice ", r.source[s], " of expert ", r.expert[s], ", expected choice ", c,
                      " of expert ", e);
        kept[static_cast<std::size_t>(c)] = true;
        ++slot;
      }
    }
    if (r.offsets.back() != slot) return join(r.offsets.back(), " slots are in use, expected ", slot);
    for (std::size_t c = 0; c < kept.size(); ++c)
      if (!kept[c] && r.slot[c] != -1) return join("choice ", c, " has slot ", r.slot[c], " but should have none");
    return "";
  }

  // Changes of the weights.
  void repeat_first_expert(std::vector<double>& weights, const std::string& name) const {
    const ParamInfo p = leaf(config(), name);
    const index_t size = p.shape.rows * p.shape.cols;
    for (index_t e = 1; e < p.shape.batch; ++e)
      std::copy_n(weights.begin() + p.offset, size, weights.begin() + p.offset + e * size);
  }
  void clear_gate(std::vector<double>& weights) const {
    const ParamInfo p = leaf(config(), "router.weight");
    std::fill_n(weights.begin() + p.offset, p.shape.size(), 0.0);
  }
  /// Expert e wins wherever feature 0 is 1 (task routers: always).
  void favour(std::vector<double>& weights, index_t e) const {
    const ParamInfo p = leaf(config(), "router.weight");
    const index_t rows = Traits::level == Level::task ? p.shape.rows : 1;
    const auto columns = gate_columns(router_, o_.experts);
    for (index_t r = 0; r < rows; ++r) {
      double* row = weights.data() + p.offset + r * p.shape.cols;
      row[columns.branches + e] = 60;
      if (columns.branches > 0) row[e / columns.per_branch()] = 60;
    }
  }
  RouterBatch with_constant_feature(RouterBatch b) const {
    for (std::size_t i = 0; i < b.x.size(); i += static_cast<std::size_t>(o_.width)) b.x[i] = 1;
    for (std::size_t i = 0; i < b.pool.size(); i += static_cast<std::size_t>(o_.width)) b.pool[i] = 1;
    return b;
  }
  std::vector<double> expert_gradient(const RouterRun& r, index_t e) const {
    std::vector<double> all;
    for (const char* name : {"experts.wi", "experts.wo"}) {
      const ParamInfo p = leaf(config(), name);
      const index_t size = p.shape.rows * p.shape.cols;
      all.insert(all.end(), r.dw.begin() + p.offset + e * size, r.dw.begin() + p.offset + (e + 1) * size);
    }
    return all;
  }

 private:
  ParamInfo leaf(const MoeConfig& c, const std::string& name) const {
    auto params = Layer(c, router_).template params<const double>();
    for (const ParamInfo& p : list_params(params))
      if (p.name == name) return p;
    fail("check_router: the layer has no parameter ", name);
  }
  std::vector<double> feed_forward(const std::vector<double>& weights, index_t experts, index_t e, const RouterBatch& b,
                                   index_t t) const {
    MoeConfig c = config();
    c.experts = experts;
    const index_t d = o_.width, f = o_.hidden;
    const double* wi = weights.data() + leaf(c, "experts.wi").offset + e * d * f;
    const double* wo = weights.data() + leaf(c, "experts.wo").offset + e * f * d;
    std::vector<double> y(static_cast<std::size_t>(d), 0);
    for (index_t h = 0; h < f; ++h) {
      double sum = 0;
      for (index_t i = 0; i < d; ++i) sum += b.x[static_cast<std::size_t>(t * d + i)] * wi[i * f + h];
      for (index_t j = 0; j < d; ++j) y[static_cast<std::size_t>(j)] += Gelu::value(sum) * wo[h * d + j];
    }
    return y;
  }

  RouterType router_;
  RouterCheckOptions o_;
};

}  // namespace detail
}  // namespace sparsemoe::inline SPARSEMOE_ABI

// tools/conformance/routing.hpp -- sparse layers: Switch, GShard with recorded draws, hash tables, and the top-k blocks
// of Mixtral and NLLB. Draws and tables are given to the routers; everything else is our layer.
#pragma once

#include "layers.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/nn/moe.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"

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

template <class P>
void switch_case(Run<P>& run) {
  const Case& c = run.c;
  using Layer = Sparse<P, Switch, Relu>;
  const index_t n = c.size("T");
  MoeConfig config;
  config.experts = c.size("E"), config.width = c.size("D"), config.hidden = c.size("H");
  Layer::set_capacity(config, c.size("C"), n);
  const double alpha = c.params().at("alpha"), z = c.params().at("z_coef");
  config.balance_coefficient = alpha * c.values("cotangent/aux_loss")[0];
  config.z_coefficient = z * c.values("cotangent/z_loss")[0];
  const std::vector<Link> links = {
      {"router.weight", -1, "wr", false}, {"experts.wi", -1, "wi", false}, {"experts.wo", -1, "wo", false}};
  Layer layer(run, config, {}, links);
  const Mask mask(n);
  const auto x = run.in("x"), y = layer.forward(mask.tokens(), x);
  run.compare("out/y", y);
  run.compare("out/probs", layer.probabilities());
  run.compare("out/logits", layer.logits());
  run.compare("out/aux_loss", Values{alpha * layer.statistics.balance});
  run.compare("out/z_loss", Values{z * layer.statistics.z});
  Values f, mass(static_cast<std::size_t>(config.experts), 0), index, kept;
  const Values p = layer.probabilities();
  for (const auto load : layer.statistics.load) f.push_back(static_cast<double>(load) / static_cast<double>(n));
  for (std::size_t i = 0; i < p.size(); ++i) mass[i % mass.size()] += p[i] / static_cast<double>(n);
  for (index_t t = 0; t < n; ++t)
    index.push_back(layer.cache.chosen[t]), kept.push_back(layer.cache.slot[t] >= 0 ? 1 : 0);
  run.compare("out/f", f);
  run.compare("out/P", mass);
  run.compare("out/expert_index", index);
  run.compare("out/kept", kept);
  run.compare("grad/x", layer.backward(mask.tokens(), x, run.cotangent("y")));
  layer.bound.compare();
  // Each loss alone: the same layer without a gradient from its output.
  const std::vector<typename P::storage> nothing(x.size(), 0);
  for (const bool balance : {true, false}) {
    MoeConfig one = config;
    one.balance_coefficient = balance ? alpha : 0;
    one.z_coefficient = balance ? 0 : z;
    const std::string loss = balance ? "grad_of/aux_loss/" : "grad_of/z_loss/";
    Layer alone(run, one, {}, links);
    alone.forward(mask.tokens(), x);
    run.compare(loss + "x", alone.backward(mask.tokens(), x, nothing));
    alone.bound.compare(loss, 1);
  }
}

/// Draws from a table instead of the counter-based generator: GShard's own choose() reads them.
template <bool RejectedConsumesSlot>
struct RecordedGShard : GShard<Gate::normalised, RejectedConsumesSlot> {
  using Base = GShard<Gate::normalised, RejectedConsumesSlot>;
  const double* draws = nullptr;
  struct Info : TokenInfo {
    double draw;
    double uniform(int) const { return draw; }
  };
  template <class T>
  Choice<2> choose(Row<const T> p, const TokenInfo& info) const {
    return Base::choose(p, Info{info, draws[info.unit]});
  }
};
template <class P, bool Paper>
void gshard_of(Run<P>& run) {
  const Case& c = run.c;
  using Layer = Sparse<P, RecordedGShard<Paper>, Relu>;
  using S = typename P::storage;
  const index_t groups = c.size("G"), n = c.size("S"), d = c.size("M"), experts = c.size("E");
  const double coefficient = c.params().at("aux_coef"), squared = static_cast<double>(experts * experts);
  MoeConfig config;
  config.experts = experts, config.width = d, config.hidden = c.size("H");
  Layer::set_capacity(config, c.size("C"), n);
  // The paper's loss has 1/E where ours has E, and is the mean over groups.
  config.balance_coefficient =
      coefficient * c.values("cotangent/aux_loss")[0] / (squared * static_cast<double>(groups));
  const Values draws = c.values("in/rnd");
  RecordedGShard<Paper> router;
  const std::vector<Link> links = {
      {"router.weight", -1, "wg", false}, {"experts.wi", -1, "wi", false}, {"experts.wo", -1, "wo", false}};
  Layer layer(run, config, router, links);
  const auto x = run.in("x"), dy = run.cotangent("y"), dcombine = run.cotangent("combine_weights");
  std::vector<S> y, dx;
  Values combine, gates, per_group, counts, ranks;
  for (index_t g = 0; g < groups; ++g) {
    const auto part = [&](const std::vector<S>& v, index_t cols) {
      return std::vector<S>(v.begin() + g * n * cols, v.begin() + (g + 1) * n * cols);
    };
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    router.draws = draws.data() + g * n;
    layer.layer.set_router(router);
    const Mask mask(n);
    append(y, layer.forward(mask.tokens(), part(x, d)));
    append(combine, layer.dense_combine(n));
    append(gates, layer.probabilities());
    per_group.push_back(layer.statistics.balance / squared);
    // Places in an expert's queue, as ranks: rejected choices leave holes in the reference's numbering, none in ours.
    Values rank(static_cast<std::size_t>(n * experts), -1), count(static_cast<std::size_t>(experts), 0);
    for (index_t t = 0; t < n; ++t) {
      for (int k = 0; k < 2; ++k) {
        const auto slot = layer.cache.slot[k * n + t];
        const auto e = layer.cache.chosen[t * 2 + k];
        if (slot >= 0) rank[static_cast<std::size_t>(t * experts + e)] = slot - layer.cache.offsets[e];
      }
      ++count[static_cast<std::size_t>(layer.cache.chosen[t * 2])];
    }
    append(ranks, rank);
    append(counts, count);
    append(dx, layer.backward(mask.tokens(), part(x, d), part(dy, d), part(dcombine, experts)));
  }
  run.compare("out/y", y);
  run.compare("out/combine_weights", combine);
  run.compare("out/gates", gates);
  run.compare("out/aux_loss_per_group", per_group);
  double mean = 0;
  for (const double l : per_group) mean += l / static_cast<double>(groups);
  run.compare("out/aux_loss", Values{coefficient * mean});
  run.compare("out/first_choice_count", counts);
  Values theirs = c.values("f64/out/position_in_expert"), mapped = theirs;
  for (index_t g = 0; g < groups; ++g)
    for (index_t e = 0; e < experts; ++e) {
      const auto at = [&](index_t t) { return static_cast<std::size_t>((g * n + t) * experts + e); };
      for (index_t t = 0; t < n; ++t) {
        double rank = 0;
        for (index_t o = 0; o < n; ++o) rank += theirs[at(o)] >= 0 && theirs[at(o)] < theirs[at(t)] ? 1 : 0;
        const bool same = theirs[at(t)] < 0 ? ranks[at(t)] < 0 : ranks[at(t)] == rank;
        if (!same) mapped[at(t)] = -2;
      }
    }
  run.compare("out/position_in_expert", mapped);
  run.compare("grad/x", dx);
  layer.bound.compare();

  // The balance loss alone.
  config.balance_coefficient = coefficient / (squared * static_cast<double>(groups));
  Layer alone(run, config, router, links);
  std::vector<S> of_loss;
  for (index_t g = 0; g < groups; ++g) {
    const std::vector<S> mine(x.begin() + g * n * d, x.begin() + (g + 1) * n * d), nothing(mine.size(), 0);
    router.draws = draws.data() + g * n;
    alone.layer.set_router(router);
    const Mask mask(n);
    alone.forward(mask.tokens(), mine);
    const auto one = alone.backward(mask.tokens(), mine, nothing);
    of_loss.insert(of_loss.end(), one.begin(), one.end());
  }
  run.compare("grad_of/aux_loss/x", of_loss);
  alone.bound.compare("grad_of/aux_loss/", 1);

  // All groups in one call: the same outputs, to the bit.
  config.group = n;
  router.draws = draws.data();
  Layer together(run, config, router, links);
  const Mask all(groups * n);
  require(together.forward(all.tokens(), x) == y, "groups in one call give other outputs than one after another");
}
template <class P>
void gshard_case(Run<P>& run) {
  if (run.c.params().at("rule") == "paper") return gshard_of<P, true>(run);
  gshard_of<P, false>(run);
}

template <class P>
void hash_case(Run<P>& run) {
  const Case& c = run.c;
  const auto table = c.integers("in/table"), ids = c.integers("in/token_ids");
  MoeConfig config;
  config.experts = c.size("E"), config.width = c.size("D"), config.hidden = c.size("H"), config.bias = true;
  Sparse<P, Hash, Relu> layer(run, config, Hash{table.data()},
                              {{"experts.wi", -1, "w1", false},
                               {"experts.bi", -1, "b1", false},
                               {"experts.wo", -1, "w2", false},
                               {"experts.bo", -1, "b2", false}});
  const Mask mask(static_cast<index_t>(ids.size()));
  const auto x = run.in("x");
  run.compare("out/y", layer.forward(mask.tokens(ids.data()), x));
  run.compare("out/expert_index", std::vector<std::int32_t>(layer.cache.chosen, layer.cache.chosen + ids.size()));
  run.compare("grad/x", layer.backward(mask.tokens(ids.data()), x, run.cotangent("y")));
  layer.bound.compare();
}
template <class P>
void balanced_hash_case(Run<P>& run) {
  const Case& c = run.c;
  const auto frequency = c.as<std::int64_t>("in/frequency");
  const auto table = balanced_hash_table(frequency, run.c.size("E"));
  Values load(static_cast<std::size_t>(run.c.size("E")), 0);
  for (std::size_t i = 0; i < table.size(); ++i)
    load[static_cast<std::size_t>(table[i])] += static_cast<double>(frequency[i]);
  run.compare("out/table", table);
  run.compare("out/expert_load", load);
}

}  // namespace conformance

// SPDX-License-Identifier: Apache-2.0
// tools/conformance/routing.cpp -- routing as in papers: Switch, GShard with recorded draws, expert choice, hash
// tables.
#include "kinds.hpp"
#include "sparse.hpp"
#include "sparsemoe/nn/multi_hash.hpp"
#include "sparsemoe/routers/expert_choice.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace conformance {

template <class P>
void switch_case(Run<P>& run) {
  const Case& c = run.c;
  using Layer = Sparse<P, Switch, Relu>;
  const index_t n = c.size("T");
  MoeConfig config;
  config.experts = c.size("E"), config.width = c.size("D"), config.hidden = c.size("H");
  Layer::set_capacity(config, c.size("C"), n);
  c.check_shape("in/x", {"T", "D"});
  c.check_shape("in/wi", {"E", "D", "H"});
  const double alpha = c.need<double>("alpha"), z = c.need<double>("z_coef");
  config.balance_coefficient = alpha * c.number("cotangent/aux_loss");
  config.z_coefficient = z * c.number("cotangent/z_loss");
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
  c.check_shape("in/x", {"G", "S", "M"});
  c.check_shape("in/wi", {"E", "M", "H"});
  const double coefficient = c.need<double>("aux_coef"), squared = static_cast<double>(experts * experts);
  MoeConfig config;
  config.experts = experts, config.width = d, config.hidden = c.size("H");
  Layer::set_capacity(config, c.size("C"), n);
  // The paper's loss has 1/E where ours has E, and is the mean over groups.
  config.balance_coefficient = coefficient * c.number("cotangent/aux_loss") / (squared * static_cast<double>(groups));
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
  Values theirs = c.expected("out/position_in_expert"), mapped = theirs;
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
  const std::string rule = run.c.template need<std::string>("rule");
  if (rule == "paper") return gshard_of<P, true>(run);
  require(rule == "dispatched_only", "option rule must be paper or dispatched_only, not ", rule);
  gshard_of<P, false>(run);
}

template <class P>
void hash_case(Run<P>& run) {
  const Case& c = run.c;
  const auto table = c.integers("in/table"), ids = c.integers("in/token_ids");
  c.check_shape("in/x", {"B", "S", "D"});
  c.check_shape("in/token_ids", {"B", "S"});
  c.check_shape("in/table", {"V"});
  c.check_shape("in/w1", {"E", "D", "H"});
  for (const std::int32_t id : ids)
    require(id >= 0 && id < static_cast<std::int32_t>(table.size()), "in/token_ids has ", id, ", outside of in/table");
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
  c.check_shape("in/frequency", {"V"});
  const auto frequency = c.as<std::int64_t>("in/frequency");
  const auto table = balanced_hash_table(frequency, run.c.size("E"));
  Values load(static_cast<std::size_t>(run.c.size("E")), 0);
  for (std::size_t i = 0; i < table.size(); ++i)
    load[static_cast<std::size_t>(table[i])] += static_cast<double>(frequency[i]);
  run.compare("out/table", table);
  run.compare("out/expert_load", load);
}

template <class P>
void expert_choice_case(Run<P>& run) {
  using R = typename P::router;
  const Case& c = run.c;
  const index_t n = c.size("n"), experts = c.size("E"), k = c.size("k");
  c.check_shape("in/x", {"n", "D"});
  c.check_shape("in/w1", {"E", "D", "H"});
  MoeConfig config;
  config.experts = experts, config.width = c.size("D"), config.hidden = c.size("H");
  const ExpertChoice router{c.need<double>("c")};
  Sparse<P, ExpertChoice, Gelu> layer(
      run, config, router,
      {{"router.weight", -1, "wg", false}, {"experts.wi", -1, "w1", false}, {"experts.wo", -1, "w2", false}});
  const Mask mask(n);
  const auto x = run.in("x");
  run.compare("out/y", layer.forward(mask.tokens(), x));
  run.compare("out/affinity", layer.probabilities());
  // Slots are in token order; the reference lists an expert's tokens by falling affinity.
  const auto& cache = layer.cache;
  Values indices, gates, count(static_cast<std::size_t>(n), 0);
  std::vector<R> dcombine(static_cast<std::size_t>(n * experts), 0);
  const auto cotangent = run.cotangent("gates");
  for (index_t e = 0; e < experts; ++e) {
    std::vector<index_t> mine;
    for (index_t t = 0; t < n; ++t)
      if (cache.slot[e * n + t] >= 0) mine.push_back(t);
    require(static_cast<index_t>(mine.size()) == k, "expert ", e, " takes ", mine.size(), " tokens, expected ", k);
    const auto weight = [&](index_t t) { return cache.combine[t * experts + e]; };
    std::stable_sort(mine.begin(), mine.end(), [&](index_t a, index_t b) { return weight(a) > weight(b); });
    for (const index_t t : mine) {
      dcombine[static_cast<std::size_t>(t * experts + e)] = R(cotangent[indices.size()]);
      indices.push_back(static_cast<double>(t));
      gates.push_back(static_cast<double>(weight(t)));
      ++count[static_cast<std::size_t>(t)];
    }
  }
  run.compare("out/indices", indices);
  run.compare("out/gates", gates);
  run.compare("out/experts_per_token", count);
  run.compare("grad/x", layer.backward(mask.tokens(), x, run.cotangent("y"), dcombine));
  layer.bound.compare();
}

template <class P>
void multi_hash_case(Run<P>& run) {
  using S = typename P::storage;
  using Layer = MultiHashFeedForward<P, Cpu, Relu>;
  const Case& c = run.c;
  c.check_shape("in/x", {"T", "D"});
  c.check_shape("in/tables", {"N", "V"});
  const index_t width = c.size("D");
  const Layer layer(MultiHashConfig{c.size("E"), c.size("N"), width, c.size("H")});
  Bound<P, Layer> bound(run, layer, {{"a", -1, "A", false}, {"b", -1, "B", false}});
  const auto tables = c.integers("in/tables"), ids = c.integers("in/token_ids");
  const Mask mask(c.size("T"));
  const auto x = run.in("x"), dy = run.cotangent("y");
  std::vector<S> y(x.size()), dx(x.size());
  typename Layer::Cache cache;
  layer.forward(run.ctx, bound.w, {tables.data(), c.size("V")}, mask.tokens(ids.data()), constant(x, width),
                writable(y, width), cache);
  run.compare("out/y", y);
  layer.backward(run.ctx, bound.w, bound.dw, constant(x, width), constant(dy, width), writable(dx, width), cache);
  run.compare("grad/x", dx);
  bound.compare();
}

void add_routing(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("routing/switch_paper", switch_case),
      SPARSEMOE_KIND("routing/gshard_top2", gshard_case),
      SPARSEMOE_KIND("routing/expert_choice", expert_choice_case),
      SPARSEMOE_KIND("routing/multi_hash", multi_hash_case),
      SPARSEMOE_KIND("routing/hash", hash_case),
      SPARSEMOE_KIND("routing/balanced_hash", balanced_hash_case),
  });
}

}  // namespace conformance

// SPDX-License-Identifier: Apache-2.0
// tools/conformance/switch_layers.cpp -- the router and the sparse layer of transformers' Switch Transformer, and the
// balance losses of all three families on given logits.
#include <cstring>
#include <memory>

#include "activation.hpp"
#include "kinds.hpp"
#include "logit_gradient.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/hf/switch_router.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace conformance {

/// A dropped token passes through, times its gate, as in transformers 4.38.
using SwitchForm = hf::SwitchRouter438;

inline MoeConfig switch_layer_config(const Case& c) {
  MoeConfig config;
  config.experts = c.size("E"), config.width = c.size("D"), config.hidden = 1;
  config.route_padding = true;
  config.balance_scope = LossScope::sequence;
  config.balance_coefficient = 0;
  return config;
}
/// The batch of a case, all valid.
struct Sequences {
  index_t rows, cols;
  std::vector<std::uint8_t> valid;
  explicit Sequences(const Case& c) : rows(c.size("B")), cols(c.size("S")) {
    valid.assign(static_cast<std::size_t>(rows * cols), 1);
  }
  Tokens tokens() const { return {rows, cols, nullptr, valid.data(), nullptr, 0, nullptr}; }
};
/// Applies the joint loss of the layers' router to them. T is their number of tokens.
template <class Loss, class P, class Router, class Act>
void join_losses(Run<P>& run, const Tokens& tokens, std::vector<Sparse<P, Router, Act>*> sparse) {
  std::vector<SparseLayer<SparseSpec<Router, P, Act>>> layers;
  for (auto* s : sparse) layers.push_back({&s->layer, &s->cache});
  Solo solo;
  Loss::template apply<SparseSpec<Router, P, Act>>(run.ctx, tokens, layers, solo);
  for (auto* s : sparse) s->statistics = s->layer.statistics(run.ctx, s->cache);
}

/// The router alone. Its outputs are the gate's product, the softmax and the largest probability; experts give 0, and
/// the cotangents of logits and probabilities come from a product of our own.
template <class P>
void switch_router_case(Run<P>& run) {
  using S = typename P::storage;
  using Layer = Sparse<P, SwitchForm, AnyActivation<false>>;
  const Case& c = run.c;
  const index_t T = c.size("B") * c.size("S"), D = c.size("D"), E = c.size("E");
  MoeConfig config = switch_layer_config(c);
  c.check_shape("in/x", {"B", "S", "D"});
  config.gate_bias = c.option("bias", false);
  config.balance_coefficient = c.number("cotangent/aux_loss");
  config.z_coefficient = c.number("cotangent/z_loss");
  SwitchForm router;
  router.expert_capacity = static_cast<std::int32_t>(c.size("cap"));
  std::vector<Link> links = {{"router.weight", 0, "w/classifier.weight", true}};
  if (config.gate_bias) links.push_back({"router.bias", -1, "w/classifier.bias", false});
  const Sequences batch(c);
  const auto x = run.in("x");
  const std::vector<S> nothing(x.size(), S(0));

  Layer layer(run, config, router, links);
  layer.forward(batch.tokens(), x);
  join_losses<SwitchForm::StackLoss>(run, batch.tokens(), std::vector<Layer*>{&layer});
  Values gate, mask(static_cast<std::size_t>(T * E), 0);
  for (index_t t = 0; t < T; ++t) {
    gate.push_back(static_cast<double>(layer.cache.combine[t]));
    if (layer.cache.slot[t] >= 0) mask[static_cast<std::size_t>(t * E + layer.cache.chosen[t])] = 1;
  }
  run.compare("out/logits", layer.logits());
  run.compare("out/probs", layer.probabilities());
  run.compare("out/gate", gate);
  run.compare("out/dispatch_mask", mask);
  run.compare("out/aux_loss", Values{layer.statistics.balance});
  run.compare("out/z_loss", Values{layer.statistics.z});
  // The gradient of the gate is that of a combine weight, of a dropped token too; the output itself has none.
  const auto dgate = run.template cotangent_of<typename P::router>("gate");
  std::vector<S> dx(x.size());
  layer.layer.backward(run.ctx, layer.bound.w, layer.bound.dw, batch.tokens(), constant(x, D), constant(nothing, D),
                       writable(dx, D), layer.cache, 1, {}, constant(dgate, 1));

  // The balance loss with dropped tokens counted where they wanted to go.
  MoeConfig before = config;
  before.balance_coefficient = c.number("cotangent/aux_loss_before_capacity");
  before.z_coefficient = 0;
  Layer other(run, before, router, links);
  other.forward(batch.tokens(), x);
  join_losses<hf::JointBalance<true, false>>(run, batch.tokens(), std::vector<Layer*>{&other});
  run.compare("out/aux_loss_before_capacity", Values{other.statistics.balance});
  const auto dother = other.backward(batch.tokens(), x, nothing);

  // <cotangent, logits> + <cotangent, probs>: a linear layer and the slope of a softmax.
  const Linear<P, Cpu> linear{D, E, config.gate_bias, 1};
  std::vector<Link> own = {{"weight", 0, "w/classifier.weight", true}};
  if (config.gate_bias) own.push_back({"bias", -1, "w/classifier.bias", false});
  Bound<P, Linear<P, Cpu>> bound(run, linear, own);
  std::vector<S> d = run.cotangent("logits"), dlinear(x.size());
  const auto dp = run.cotangent("probs");
  const Values p = layer.probabilities();
  for (index_t t = 0; t < T; ++t) {
    double mean = 0;
    const auto at = [&](index_t e) { return static_cast<std::size_t>(t * E + e); };
    for (index_t e = 0; e < E; ++e) mean += p[at(e)] * static_cast<double>(dp[at(e)]);
    for (index_t e = 0; e < E; ++e) d[at(e)] += static_cast<S>(p[at(e)] * (static_cast<double>(dp[at(e)]) - mean));
  }
  linear.backward(run.ctx, bound.w, bound.dw, constant(x, D), constant(d, E), writable(dlinear, D));
  for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += dother[i] + dlinear[i];
  for (std::size_t i = 0; i < layer.bound.gradients().size() && i < static_cast<std::size_t>(D * E); ++i)
    layer.bound.dw.gate.data[i] += other.bound.dw.gate.data[i] + bound.dw.weight.data[i];
  if (config.gate_bias)
    for (index_t e = 0; e < E; ++e) layer.bound.dw.bias.data[e] += other.bound.dw.bias.data[e] + bound.dw.bias.data[e];
  run.compare("grad/x", dx);
  layer.bound.compare();
}

template <class P>
void switch_mlp_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  c.check_shape("in/x", {"B", "S", "D"});
  AnyActivation<false>::function = function_of(c, "relu");
  const index_t E = c.size("E");
  MoeConfig config = switch_layer_config(c);
  config.hidden = c.size("FF");
  SwitchForm router;
  router.expert_capacity = static_cast<std::int32_t>(c.size("cap"));
  std::vector<Link> links = {{"router.weight", 0, "w/router.classifier.weight", true}};
  for (index_t e = 0; e < E; ++e)
    for (const char* name : {"wi", "wo"})
      links.push_back({join("experts.", name), e, join("w/experts.expert_", e, ".", name, ".weight"), true});
  Sparse<P, SwitchForm, AnyActivation<false>> layer(run, config, router, links);
  const Sequences batch(c);
  // The recorded jitter multiplies what the whole layer reads (MoeConfig::jitter_experts with other draws).
  std::vector<S> x = run.in("x"), jitter(x.size(), S(1));
  if (c.has("in/jitter")) jitter = run.in("jitter");
  require(c.has("in/jitter") || c.option("jitter", 0.0) == 0, "option jitter is not 0, but there is no in/jitter");
  c.no_effect({"jitter"});  // the draws are given
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= jitter[i];
  run.compare("out/y", layer.forward(batch.tokens(), x));
  run.compare("out/logits", layer.logits());
  Values index;
  for (std::size_t t = 0; t < batch.valid.size(); ++t)
    index.push_back(layer.cache.slot[t] >= 0 ? layer.cache.chosen[t] : 0);
  run.compare("out/expert_index", index);
  auto dx = layer.backward(batch.tokens(), x, run.cotangent("y"));
  add_logit_gradient(run, layer, "w/router.classifier.weight", x, dx);
  for (std::size_t i = 0; i < dx.size(); ++i) dx[i] *= jitter[i];
  run.compare("grad/x", dx);
  layer.bound.compare();
}
/// Losses on given logits: layers whose gate is the identity, so that x are the logits.
template <class P>
struct LossCase {
  using S = typename P::storage;
  Run<P>& run;
  index_t E;
  std::vector<S> logits[2], dlogits[2];

  explicit LossCase(Run<P>& r) : run(r), E(r.c.size("E")) {
    logits[0] = r.in("logits"), logits[1] = r.in("logits2");
    for (int i = 0; i < 2; ++i) dlogits[i].assign(logits[i].size(), S(0));
  }
  /// Compares `name`, the loss of the first `layers` layers, and adds its gradient.
  template <class Router, class Loss>
  void add(const std::string& name, int layers, Router router, bool z, const std::vector<std::uint8_t>& valid = {}) {
    const Case& c = run.c;
    using Layer = Sparse<P, Router, AnyActivation<false>>;
    MoeConfig config;
    config.experts = config.width = E, config.hidden = 1;
    constexpr bool sequences = std::is_same_v<Router, SwitchForm>;
    if (sequences) config.balance_scope = LossScope::sequence;
    const double coefficient = c.number("cotangent/" + name);
    config.balance_coefficient = z ? 0 : coefficient;
    config.z_coefficient = z ? coefficient / layers : 0;
    Sequences batch(c);
    if (!valid.empty()) batch.valid = valid;
    std::vector<S> identity(static_cast<std::size_t>(E * E), S(0));
    for (index_t e = 0; e < E; ++e) identity[static_cast<std::size_t>(e * E + e)] = S(1);
    std::vector<std::unique_ptr<Layer>> list;
    std::vector<Layer*> pointers;
    for (int i = 0; i < layers; ++i) {
      list.push_back(std::make_unique<Layer>(run, config, router, std::vector<Link>{}));
      list.back()->bound.set("router.weight", identity);
      list.back()->forward(batch.tokens(), logits[i]);
      pointers.push_back(list.back().get());
    }
    join_losses<Loss>(run, batch.tokens(), pointers);
    double value = 0;
    for (auto* l : pointers) value += z ? l->statistics.z / layers : l->statistics.balance;
    run.compare("out/" + name, Values{value});
    const std::vector<S> nothing(logits[0].size(), S(0));
    for (int i = 0; i < layers; ++i) {
      const auto d = list[static_cast<std::size_t>(i)]->backward(batch.tokens(), logits[i], nothing);
      for (std::size_t k = 0; k < d.size(); ++k) dlogits[i][k] += d[k];
    }
  }
};
/// The part of a loss' name after `stem`, if it begins with it.
inline const char* after(const std::string& name, const std::string& stem) {
  return name.rfind(stem, 0) == 0 ? name.c_str() + stem.size() : nullptr;
}
/// Every loss that the case has, by its name: switch_aux and switch_z of one layer or _two_layers, mixtral_aux_top<k>
/// of two layers, of all tokens or those not _masked, nllb_aux_one_layer.
template <class P>
void router_loss_case(Run<P>& run) {
  const Case& c = run.c;
  c.check_shape("in/logits", {"B", "S", "E"});
  LossCase<P> all(run);
  using Sequence = hf::JointBalance<true, false>;
  using Batch = hf::JointBalance<false, false>;
  SwitchForm switch_router;
  switch_router.expert_capacity = 1 << 20;
  for (const std::string& result : c.results()) {
    const char* found = after(result, "out/");
    if (found == nullptr) continue;
    const std::string name = found;
    if (const char* rest = after(name, "mixtral_aux_top")) {
      const std::string digits(rest, std::strspn(rest, "0123456789")), end = rest + digits.size();
      AnyTopK router;
      router.k = digits.empty() || digits.size() > 2 ? 0 : std::stoi(digits);
      if (router.k < 1 || router.k > 8 || (end != "" && end != "_masked")) continue;  // then it is not known
      all.template add<AnyTopK, Batch>(
          name, 2, router, false,
          end.empty() ? std::vector<std::uint8_t>{} : c.template as<std::uint8_t>("in/attention_mask"));
    } else if (name == "nllb_aux_one_layer") {
      AnyTopK router;
      router.k = 1;
      all.template add<AnyTopK, Batch>(name, 1, router, false);
    } else if (name == "switch_aux" || name == "switch_aux_two_layers" || name == "switch_z" ||
               name == "switch_z_two_layers") {
      const bool two = name.find("_two_layers") != std::string::npos;
      all.template add<SwitchForm, Sequence>(name, two ? 2 : 1, switch_router, name.rfind("switch_z", 0) == 0);
    }
  }
  run.compare("grad/logits", all.dlogits[0]);
  run.compare("grad/logits2", all.dlogits[1]);
}

void add_switch_layers(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("layer/switch_top1_router", switch_router_case),
      SPARSEMOE_KIND("layer/switch_sparse_mlp", switch_mlp_case),
      SPARSEMOE_KIND("layer/router_loss", router_loss_case),
  });
}

}  // namespace conformance

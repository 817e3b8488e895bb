// tools/conformance/top_k_blocks.hpp -- the top-k blocks of Mixtral and NLLB, and NLLB's router alone.
#pragma once

#include "routing.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/nn/linear.hpp"

namespace conformance {

/// L = ... + <cotangent, logits>: the gate's product on its own, as a Linear.
template <class P, class Layer>
void add_logit_gradient(Run<P>& run, Layer& layer, const std::string& gate, const std::vector<typename P::storage>& x,
                        std::vector<typename P::storage>& dx) {
  const Linear<P, Cpu> linear{layer.width, layer.experts, false, 1};
  Bound<P, Linear<P, Cpu>> bound(run, linear, {{"weight", 0, gate, true}});
  const auto c = run.cotangent("logits");
  std::vector<typename P::storage> logits(c.size());
  linear.forward(run.ctx, bound.w, constant(x, layer.width), writable(logits, layer.experts));
  linear.backward(run.ctx, bound.w, bound.dw, constant(x, layer.width), constant(c, layer.experts),
                  writable(dx, layer.width), true);
  run.compare("out/logits", logits);
  for (index_t i = 0; i < layer.width * layer.experts; ++i) layer.bound.dw.gate.data[i] += bound.dw.weight.data[i];
}

template <class P, int K>
void mixtral_of(Run<P>& run) {
  const Case& c = run.c;
  const index_t n = c.size("B") * c.size("S"), experts = c.size("E");
  MoeConfig config;
  config.experts = experts, config.width = c.size("D"), config.hidden = c.size("FF");
  config.balance_coefficient =
      K * (c.has("cotangent/aux_loss") ? c.values("cotangent/aux_loss")[0] : 0);  // theirs is not divided by k
  std::vector<Link> links = {{"router.weight", 0, "w/gate.weight", true}};
  const char* const names[][2] = {{"wi", "w1"}, {"wg", "w3"}, {"wo", "w2"}};
  for (index_t e = 0; e < experts; ++e)
    for (const auto& [ours, theirs] : names)
      links.push_back({join("experts.", ours), e, join("w/experts.", e, ".", theirs, ".weight"), true});
  Sparse<P, TopK<K>, Gated<Silu>> layer(run, config, {}, links);
  const Mask mask(n);
  const auto x = run.in("x"), weight = run.cotangent("topk_weight");
  run.compare("out/y", layer.forward(mask.tokens(), x));
  run.compare("out/topk_index", std::vector<std::int32_t>(layer.cache.chosen, layer.cache.chosen + n * K));
  run.compare("out/topk_weight", Values(layer.cache.combine, layer.cache.combine + n * K));
  if (c.has("f64/out/aux_loss")) run.compare("out/aux_loss", Values{K * layer.statistics.balance});
  std::vector<typename P::router> dense(static_cast<std::size_t>(n * experts), 0);
  for (index_t t = 0; t < n; ++t)
    for (int k = 0; k < K; ++k)
      dense[static_cast<std::size_t>(t * experts + layer.cache.chosen[t * K + k])] =
          weight[static_cast<std::size_t>(t * K + k)];
  auto dx = layer.backward(mask.tokens(), x, run.cotangent("y"), dense);
  add_logit_gradient(run, layer, "w/gate.weight", x, dx);
  run.compare("grad/x", dx);
  layer.bound.compare();
}
template <class P>
void mixtral_case(Run<P>& run) {
  switch (run.c.size("k")) {
    case 1: return mixtral_of<P, 1>(run);
    case 2: return mixtral_of<P, 2>(run);
    case 3: return mixtral_of<P, 3>(run);
    default: throw Skip{"top-k beyond 3 is not compiled in"};
  }
}

template <class P, class Act>
void nllb_block_of(Run<P>& run) {
  using Router = hf::NllbRouter;
  const Case& c = run.c;
  const index_t n = c.size("B") * c.size("S"), experts = c.size("E");
  MoeConfig config;
  config.experts = experts, config.width = c.size("D"), config.hidden = c.size("FF"), config.bias = true;
  Router router;
  router.expert_capacity = static_cast<std::int32_t>(c.size("cap")), router.eval_share = 0;
  const bool training = c.params().at("train");
  config.output_masking = c.params().at("drop");
  const double kept = training ? 1 : 1 - config.output_masking;  // theirs scales outputs, ours the weights
  std::vector<Link> links = {{"router.weight", 0, "w/router.classifier.weight", true}};
  const char* const names[][2] = {{"wi", "fc1.weight"}, {"bi", "fc1.bias"}, {"wo", "fc2.weight"}, {"bo", "fc2.bias"}};
  for (index_t e = 0; e < experts; ++e)
    for (const auto& [ours, theirs] : names)
      links.push_back({join("experts.", ours), e, join("w/experts.expert_", e, ".", theirs), ours[0] == 'w'});
  Sparse<P, Router, Act> layer(run, config, router, links);
  run.ctx.training = training;
  const Mask mask(n);
  const auto x = run.in("x");
  run.compare("out/y", layer.forward(mask.tokens(), x));
  Values combine = layer.dense_combine(n);
  for (double& w : combine) w /= kept;
  run.compare("out/combine_weights", combine);
  Values first;
  for (index_t t = 0; t < n; ++t)  // the reference's argmax of a mask that is all 0 where the first choice was dropped
    first.push_back(layer.cache.slot[t] >= 0 ? layer.cache.chosen[t * 2] : 0);
  run.compare("out/top1_index", first);
  auto dcombine = run.cotangent("combine_weights");
  for (auto& w : dcombine) w = static_cast<typename P::storage>(static_cast<double>(w) / kept);
  run.compare("grad/x", layer.backward(mask.tokens(), x, run.cotangent("y"), dcombine));
  layer.bound.compare();
}
template <class P>
void nllb_block_case(Run<P>& run) {
  const json& p = run.c.params();
  if (p.at("act") == "relu") return nllb_block_of<P, Relu>(run);
  if (p.at("act") == "gelu") return nllb_block_of<P, Gelu>(run);
  throw Skip{"no such activation"};
}

/// The router alone: experts of width 1 whose outputs nobody looks at.
template <class P>
void nllb_router_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  const index_t n = c.size("T"), d = c.size("D"), experts = c.size("E");
  const Values draws = c.has("in/uniform")  ? c.values("in/uniform")
                       : c.has("in/gumbel") ? c.values("in/gumbel")
                                            : Values{};
  const json& p = c.params();
  hf::NllbRouter router;
  router.draws = draws.empty() ? nullptr : draws.data();
  router.normalise_before = p.at("norm_before");
  if (p.at("policy") == "random") router.second = hf::SecondExpert::random;
  if (p.at("policy") == "sampling") router.second = hf::SecondExpert::sampling;
  router.expert_capacity = static_cast<std::int32_t>(c.size("cap"));
  router.eval_share = p.at("frac");
  MoeConfig config;
  config.experts = experts, config.width = d, config.hidden = 1;
  using Layer = Sparse<P, hf::NllbRouter, Relu>;
  if (c.params().at("bpr")) config.priority = Priority::batch;
  std::vector<Link> links = {{"router.weight", 0, "w/classifier.weight", true}};
  config.gate_bias = c.params().at("bias");
  if (config.gate_bias) links.push_back({"router.bias", -1, "w/classifier.bias", false});
  Layer layer(run, config, router, links);
  run.ctx.training = p.at("train");
  Mask mask(n);
  if (c.has("in/padding_mask") && !c.params().at("ignore_pad"))
    for (index_t t = 0; t < n; ++t)
      mask.valid[static_cast<std::size_t>(t)] = c.values("in/padding_mask")[static_cast<std::size_t>(t)] == 0 ? 1 : 0;
  const auto x = run.in("x");
  layer.forward(mask.tokens(), x);
  const Values combine = layer.dense_combine(n);
  Values dispatched(combine.size(), 0), first(combine.size(), 0);
  for (index_t t = 0; t < n; ++t)
    for (int k = 0; k < 2; ++k)
      if (layer.cache.slot[k * n + t] >= 0) {
        const auto at = static_cast<std::size_t>(t * experts + layer.cache.chosen[t * 2 + k]);
        dispatched[at] = 1;
        if (k == 0) first[at] = 1;
      }
  run.compare("out/logits", layer.logits());
  run.compare("out/combine_weights", combine);
  run.compare("out/dispatch_mask", dispatched);
  run.compare("out/top1_mask", first);
  run.compare("out/capacity", Values{static_cast<double>(layer.cache.capacity)});
  run.compare("grad/x",
              layer.backward(mask.tokens(), x, std::vector<S>(x.size(), S(0)), run.cotangent("combine_weights")));
  layer.bound.compare();
}
}  // namespace conformance

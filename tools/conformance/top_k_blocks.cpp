// SPDX-License-Identifier: Apache-2.0
// tools/conformance/top_k_blocks.cpp -- the top-k blocks of Mixtral and NLLB, and NLLB's router alone.
#include "activation.hpp"
#include "kinds.hpp"
#include "logit_gradient.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace conformance {

template <class P>
void mixtral_case(Run<P>& run) {
  const Case& c = run.c;
  c.check_shape("in/x", {"B", "S", "D"});
  AnyTopK router;
  router.k = c.need<int>("k");
  const int K = router.k;
  AnyActivation<true>::function = function_of(c, "silu");
  const index_t n = c.size("B") * c.size("S"), experts = c.size("E");
  MoeConfig config;
  config.experts = experts, config.width = c.size("D"), config.hidden = c.size("FF");
  config.balance_coefficient =
      K * (c.has("cotangent/aux_loss") ? c.number("cotangent/aux_loss") : 0);  // theirs is not divided by k
  std::vector<Link> links = {{"router.weight", 0, "w/gate.weight", true}};
  const char* const names[][2] = {{"wi", "w1"}, {"wg", "w3"}, {"wo", "w2"}};
  for (index_t e = 0; e < experts; ++e)
    for (const auto& [ours, theirs] : names)
      links.push_back({join("experts.", ours), e, join("w/experts.", e, ".", theirs, ".weight"), true});
  Sparse<P, AnyTopK, AnyActivation<true>> layer(run, config, router, links);
  const Mask mask(n);
  const auto x = run.in("x"), weight = run.cotangent("topk_weight");
  run.compare("out/y", layer.forward(mask.tokens(), x));
  run.compare("out/topk_index", std::vector<std::int32_t>(layer.cache.chosen, layer.cache.chosen + n * K));
  run.compare("out/topk_weight", Values(layer.cache.combine, layer.cache.combine + n * K));
  if (c.expects("out/aux_loss")) run.compare("out/aux_loss", Values{K * layer.statistics.balance});
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
void nllb_block_case(Run<P>& run) {
  using Router = hf::NllbRouter;
  const Case& c = run.c;
  c.check_shape("in/x", {"B", "S", "D"});
  AnyActivation<false>::function = function_of(c, "relu");
  const index_t n = c.size("B") * c.size("S"), experts = c.size("E");
  MoeConfig config;
  config.experts = experts, config.width = c.size("D"), config.hidden = c.size("FF"), config.bias = true;
  Router router;
  router.expert_capacity = static_cast<std::int32_t>(c.size("cap")), router.eval_share = 0;
  const bool training = c.option("train", false);
  config.output_masking = c.option("drop", 0.0);
  const double kept = training ? 1 : 1 - config.output_masking;  // theirs scales outputs, ours the weights
  std::vector<Link> links = {{"router.weight", 0, "w/router.classifier.weight", true}};
  const char* const names[][2] = {{"wi", "fc1.weight"}, {"bi", "fc1.bias"}, {"wo", "fc2.weight"}, {"bo", "fc2.bias"}};
  for (index_t e = 0; e < experts; ++e)
    for (const auto& [ours, theirs] : names)
      links.push_back({join("experts.", ours), e, join("w/experts.expert_", e, ".", theirs), ours[0] == 'w'});
  Sparse<P, Router, AnyActivation<false>> layer(run, config, router, links);
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
/// The router alone: experts of width 1 whose outputs nobody looks at.
template <class P>
void nllb_router_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  const index_t n = c.size("T"), d = c.size("D"), experts = c.size("E");
  const Values draws = c.has("in/uniform")  ? c.values("in/uniform")
                       : c.has("in/gumbel") ? c.values("in/gumbel")
                                            : Values{};
  c.check_shape("in/x", {"", "T", "D"});
  hf::NllbRouter router;
  router.draws = draws.empty() ? nullptr : draws.data();
  router.normalise_before = c.option("norm_before", false);
  const std::string policy = c.option("policy", "all");
  if (policy == "random")
    router.second = hf::SecondExpert::random;
  else if (policy == "sampling")
    router.second = hf::SecondExpert::sampling;
  else
    require(policy == "all", "option policy must be all, random or sampling, not ", policy);
  router.expert_capacity = static_cast<std::int32_t>(c.size("cap"));
  router.eval_share = c.option("frac", 1.0);
  MoeConfig config;
  config.experts = experts, config.width = d, config.hidden = 1;
  using Layer = Sparse<P, hf::NllbRouter, AnyActivation<false>>;
  if (c.option("bpr", false)) config.priority = Priority::batch;
  std::vector<Link> links = {{"router.weight", 0, "w/classifier.weight", true}};
  config.gate_bias = c.option("bias", false);
  if (config.gate_bias) links.push_back({"router.bias", -1, "w/classifier.bias", false});
  Layer layer(run, config, router, links);
  run.ctx.training = c.option("train", false);
  Mask mask(n);
  const bool ignored = c.option("ignore_pad", false);  // the mask: padding is routed
  if (c.has("in/padding_mask")) {
    const Values padding = c.values("in/padding_mask");
    require(static_cast<index_t>(padding.size()) == n, "in/padding_mask has ", padding.size(), " values, expected ", n);
    for (index_t t = 0; t < n && !ignored; ++t)
      mask.valid[static_cast<std::size_t>(t)] = padding[static_cast<std::size_t>(t)] == 0 ? 1 : 0;
    if (c.given("pad"))
      require(c.size("pad") == std::count_if(padding.begin(), padding.end(), [](double v) { return v != 0; }),
              "option pad is ", c.size("pad"), ", not the number of padding tokens");
  } else {
    require(c.option("pad", index_t(0)) == 0, "option pad is not 0, but there is no in/padding_mask");
  }
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

void add_top_k_blocks(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("layer/mixtral_block", mixtral_case),
      SPARSEMOE_KIND("layer/nllb_sparse_mlp", nllb_block_case),
      SPARSEMOE_KIND("layer/nllb_top2_router", nllb_router_case),
  });
}

}  // namespace conformance

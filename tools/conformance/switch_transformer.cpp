// SPDX-License-Identifier: Apache-2.0
// tools/conformance/switch_transformer.cpp -- Switch Transformer checkpoints: forward, routing, losses, backward,
// generation.
#include "sparsemoe/hf/switch_transformer.hpp"

#include "model_case.hpp"

namespace conformance {

/// What the routers of a stack did, and its losses. Returns them weighted.
template <class P, class Stack>
double compare_routing(Run<P>& run, const Stack& stack, const std::string& name, const char* half, double aux,
                       double z_coefficient) {
  double balance = 0, z = 0, layers = 0, weighted = 0;
  stack.visit_sparse([&](index_t l, const auto& moe, const auto& c) {
    const std::string at = join("router/", name, ".block.", l, ".", half, ".mlp.router/");
    const index_t T = c.scores.rows, E = c.scores.cols;
    Values logits = values_of(c.scores.as_const()), gate, first, kept, mask(static_cast<std::size_t>(T * E), 0);
    run.compare(at + "probs", logits);
    for (index_t t = 0; t < T; ++t) {
      for (index_t e = 0; e < E; ++e) {
        double& h = logits[static_cast<std::size_t>(t * E + e)];
        h = std::log(h) + static_cast<double>(c.lse[t]);
      }
      const bool in = c.slot[t] >= 0;
      gate.push_back(static_cast<double>(c.combine[t]));
      first.push_back(c.chosen[t]);
      kept.push_back(in ? c.chosen[t] : 0);
      if (in) mask[static_cast<std::size_t>(t * E + c.chosen[t])] = 1;
    }
    run.compare(at + "logits", logits);
    run.compare(at + "gate", gate);
    run.compare(at + "top1_before_capacity", first);
    run.compare(at + "expert_index", kept);
    run.compare(at + "dispatch_mask", mask);
    const auto s = moe.statistics(run.ctx, c);
    balance += s.balance, z += s.z, ++layers;
    weighted += moe.weighted_loss(s);
  });
  // Without losses (every layer sparse) the reference has 0.
  run.compare(join("loss/", name, "_aux_loss"), Values{aux > 0 ? balance : 0});
  run.compare(join("loss/", name, "_z_loss"), Values{z_coefficient > 0 ? z / layers : 0});
  return weighted;
}

template <class P>
void switch_model_case(Run<P>& run) {
  const hf::Config config = forward_config(run.c);
  hf::with_switch_transformer<P, Cpu, hf::SwitchRouter438>(
      run.ctx, config, true, [&](auto& model, const hf::NameMap& names) {
        run_model(run, model, names, config, [&](auto& m) {
          const MoeConfig &e = m.config().encoder.moe, &d = m.config().decoder.moe;
          return compare_routing(run, m.encoder(), "encoder", "layer.1", e.balance_coefficient, e.z_coefficient) +
                 compare_routing(run, m.decoder(), "decoder", "layer.2", d.balance_coefficient, d.z_coefficient);
        });
      });
}
template <class P>
void switch_generate_case(Run<P>& run) {
  for_each_run(run.c, [&](const std::string& name, const hf::Config& config, const json& kwargs) {
    hf::with_switch_transformer<P, Cpu, hf::SwitchRouter438>(
        run.ctx, config, false,
        [&](auto& model, const hf::NameMap& names) { run_generate(run, model, names, config, name, kwargs); });
  });
}

void add_switch_models(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("model/switch", switch_model_case),
      SPARSEMOE_KIND("generate/switch", switch_generate_case),
  });
}

}  // namespace conformance

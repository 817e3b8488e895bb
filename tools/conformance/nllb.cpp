// SPDX-License-Identifier: Apache-2.0
// tools/conformance/nllb.cpp -- NLLB-MoE checkpoints: forward, routing, losses, backward, generation.
#include "sparsemoe/hf/nllb.hpp"

#include "model_case.hpp"

namespace conformance {

/// What the routers of a stack did, and its loss. Returns it weighted.
template <class P, class Stack>
double compare_routing(Run<P>& run, const Stack& stack, const std::string& name) {
  double balance = 0, weighted = 0;
  stack.visit_sparse([&](index_t l, const auto& moe, const auto& c) {
    const std::string at = join("router/model.", name, ".layers.", l, ".ffn.router/");
    const index_t T = c.scores.rows, E = c.scores.cols;
    Values logits = values_of(c.scores.as_const());
    Values combine(static_cast<std::size_t>(T * E), 0), kept = combine, first = combine;
    run.compare(at + "probs", logits);
    for (index_t t = 0; t < T; ++t) {
      for (index_t e = 0; e < E; ++e) {
        double& h = logits[static_cast<std::size_t>(t * E + e)];
        h = std::log(h) + static_cast<double>(c.lse[t]);
      }
      for (index_t k = 0; k < 2; ++k) {
        if (c.slot[k * T + t] < 0) continue;
        const auto i = static_cast<std::size_t>(t * E + c.chosen[t * 2 + k]);
        combine[i] = static_cast<double>(c.unmasked[t * 2 + k]);
        kept[i] = 1;
        if (k == 0) first[i] = 1;
      }
    }
    run.compare(at + "logits", logits);
    run.compare(at + "combine_weights", combine);
    run.compare(at + "dispatch_mask", kept);
    run.compare(at + "top1_mask", first);
    const auto s = moe.statistics(run.ctx, c);
    balance += s.balance;
    weighted += moe.weighted_loss(s);
  });
  run.compare(join("loss/", name, "_aux_loss"), Values{balance});
  return weighted;
}

template <class P>
void nllb_model_case(Run<P>& run) {
  const hf::Config config = forward_config(run.c);
  hf::with_nllb<P, Cpu>(run.ctx, config, true, [&](auto& model, const hf::NameMap& names) {
    run_model(run, model, names, config, [&](auto& m) {
      return compare_routing(run, m.encoder(), "encoder") + compare_routing(run, m.decoder(), "decoder");
    });
  });
}
template <class P>
void nllb_generate_case(Run<P>& run) {
  for_each_run(run.c, [&](const std::string& name, const hf::Config& config, const json& kwargs) {
    hf::with_nllb<P, Cpu>(run.ctx, config, false, [&](auto& model, const hf::NameMap& names) {
      run_generate(run, model, names, config, name, kwargs);
    });
  });
}

void add_nllb(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("model/nllb", nllb_model_case),
      SPARSEMOE_KIND("generate/nllb", nllb_generate_case),
  });
}

}  // namespace conformance

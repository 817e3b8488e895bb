// SPDX-License-Identifier: Apache-2.0
// tools/conformance/t5.cpp -- T5 checkpoints: forward, backward, generation.
#include "sparsemoe/hf/t5.hpp"

#include "model_case.hpp"

namespace conformance {

template <class P>
void t5_model_case(Run<P>& run) {
  const hf::Config config = forward_config(run.c);
  hf::with_t5<P, Cpu>(run.ctx, config, true, [&](auto& model, const hf::NameMap& names) {
    run_model(run, model, names, config, [](auto&) { return 0.0; });
  });
}
template <class P>
void t5_generate_case(Run<P>& run) {
  for_each_run(run.c, [&](const std::string& name, const hf::Config& config, const json& kwargs) {
    hf::with_t5<P, Cpu>(run.ctx, config, false, [&](auto& model, const hf::NameMap& names) {
      run_generate(run, model, names, config, name, kwargs);
    });
  });
}

void add_t5(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("model/t5", t5_model_case),
      SPARSEMOE_KIND("generate/t5", t5_generate_case),
  });
}

}  // namespace conformance

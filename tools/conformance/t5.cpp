// tools/conformance/t5.cpp -- T5 checkpoints: forward, backward, generation.
#include "sparsemoe/hf/t5.hpp"

#include "model_case.hpp"
#include "models.hpp"

namespace conformance {

template <class P>
void t5_model_case(Run<P>& run) {
  const hf::Config config = case_config(run.c, run.c.params().at("config_overrides"));
  hf::with_t5<P, Cpu>(run.ctx, config, true, [&](auto& model, const hf::NameMap& names) {
    run_model(run, model, names, config, [](auto&) { return 0.0; });
  });
}
template <class P>
void t5_generate_case(Run<P>& run) {
  for (const auto& [name, how] : run.c.params().at("runs").items()) {
    const hf::Config config = case_config(run.c, how.at("config_overrides"));
    hf::with_t5<P, Cpu>(run.ctx, config, false, [&](auto& model, const hf::NameMap& names) {
      run_generate(run, model, names, config, name, how.at("kwargs"));
    });
  }
}
template void t5_model_case(Run<Fp64>&);
template void t5_model_case(Run<Fp32>&);
template void t5_generate_case(Run<Fp64>&);
template void t5_generate_case(Run<Fp32>&);

}  // namespace conformance

// SPDX-License-Identifier: Apache-2.0
// family_switch_transformer.cpp -- see generator.hpp.
#include "generator_of.hpp"
#include "sparsemoe/hf/switch_transformer.hpp"

namespace generation {

std::unique_ptr<Generator> open_switch_transformer(const moe::hf::Config& config, int threads) {
  moe::Cpu::Context ctx(threads);
  return moe::hf::with_switch_transformer<moe::Fp32, moe::Cpu>(ctx, config, false, MakeGenerator{config, threads});
}

}  // namespace generation

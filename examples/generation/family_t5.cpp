// SPDX-License-Identifier: Apache-2.0
// family_t5.cpp -- see generator.hpp.
#include "generator_of.hpp"
#include "sparsemoe/hf/t5.hpp"

namespace generation {

std::unique_ptr<Generator> open_t5(const moe::hf::Config& config, int threads) {
  moe::Cpu::Context ctx(threads);
  return moe::hf::with_t5<moe::Fp32, moe::Cpu>(ctx, config, false, MakeGenerator{config, threads});
}

}  // namespace generation

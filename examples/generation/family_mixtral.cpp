// SPDX-License-Identifier: Apache-2.0
// family_mixtral.cpp -- see generator.hpp.
#include "generator_of.hpp"
#include "sparsemoe/hf/mixtral.hpp"

namespace generation {

std::unique_ptr<Generator> open_mixtral(const moe::hf::Config& config, int threads) {
  moe::Cpu::Context ctx(threads);
  return moe::hf::with_mixtral<moe::Fp32, moe::Cpu>(ctx, config, false, MakeGenerator{config, threads});
}

}  // namespace generation

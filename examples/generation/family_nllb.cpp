// SPDX-License-Identifier: Apache-2.0
// family_nllb.cpp -- see generator.hpp.
#include "generator_of.hpp"
#include "sparsemoe/hf/nllb.hpp"

namespace generation {

std::unique_ptr<Generator> open_nllb(const moe::hf::Config& config, int threads) {
  const Company company = moe::hf::nllb_mixes_sentences(config) ? Company::alone : Company::together;
  moe::Cpu::Context ctx(threads);
  return moe::hf::with_nllb<moe::Fp32, moe::Cpu>(ctx, config, false, MakeGenerator{config, threads, company});
}

}  // namespace generation

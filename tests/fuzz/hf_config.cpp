// SPDX-License-Identifier: Apache-2.0
// fuzz/hf_config.cpp -- libFuzzer target: bytes as config.json and, behind a NUL, generation_config.json. A FileError
// that names one of them, or sizes, routers, special tokens and options of a search within their limits.
#include <cmath>
#include <cstdlib>

#include "memory_directory.hpp"
#include "sparsemoe/hf/generation_config.hpp"
#include "sparsemoe/hf/mixtral.hpp"
#include "sparsemoe/hf/nllb.hpp"
#include "sparsemoe/hf/switch_transformer.hpp"

namespace moe = sparsemoe;
namespace hf = moe::hf;

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}
void check_stack(const moe::StackConfig& s) {
  check(s.layers >= 0 && s.layers <= hf::Limits::layers && s.width >= 1 && s.width <= hf::Limits::width);
  check(s.heads >= 1 && s.heads <= hf::Limits::heads && s.hidden >= 1 && s.hidden <= hf::Limits::hidden);
  check(s.moe.experts >= 0 && s.moe.experts <= hf::Limits::experts);
  check(s.norm_epsilon >= 0 && std::isfinite(s.norm_epsilon));
}
void check_model(const moe::EncoderDecoderConfig& c) {
  check(c.vocabulary >= 2 && c.vocabulary <= hf::Limits::vocabulary);
  check_stack(c.encoder);
  check_stack(c.decoder);
}

void read(const hf::Config& config, bool for_training) {
  hf::check_keys(config);
  switch (hf::family_of(config)) {
    case hf::Family::t5: check_model(hf::t5_config(config, for_training)); break;
    case hf::Family::switch_transformer: check_model(hf::switch_transformer_config(config, for_training)); break;
    case hf::Family::nllb: hf::nllb_router(config, for_training); [[fallthrough]];
    case hf::Family::m2m: check_model(hf::nllb_config(config, for_training)); break;
    case hf::Family::mixtral: check_stack(hf::mixtral_config(config, for_training).decoder); break;
  }
  const auto vocabulary = config.size("vocab_size");
  const auto inside = [&](std::int32_t id) { return id >= -1 && id < vocabulary; };
  const hf::SpecialTokens special = hf::SpecialTokens::of(config);
  check(inside(special.begin) && inside(special.end) && inside(special.padding) && inside(special.first));
  for (const std::int32_t end : special.ends) check(inside(end) && end >= 0);
  const hf::GenerationConfig generation = hf::GenerationConfig::of(config);
  check(generation.beams >= 1 && generation.beams <= moe::SearchOptions::most_beams);
  check(std::isfinite(generation.length_penalty) && generation.rules.repetition_penalty > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const std::string bytes(fuzz::take(rest));
  if (rest.empty())
    fuzz::remove("generation_config.json");
  else
    fuzz::put("generation_config.json", rest);
  const auto path = fuzz::directory() / "config.json";
  for (const bool for_training : {false, true}) {
    try {
      read(hf::Config(moe::parse_json(bytes, path), path), for_training);
    } catch (const moe::FileError& error) {
      check(error.path().starts_with(fuzz::directory().string()));
    }
  }
  return 0;
}

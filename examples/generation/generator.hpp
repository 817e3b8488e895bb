// SPDX-License-Identifier: Apache-2.0
// generator.hpp -- a loaded Hugging Face checkpoint behind one interface: ids in, ids out. Each family is compiled in a
// file of its own, family_*.cpp. Read next: generator_of.hpp, tokenizer.hpp, main.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "sparsemoe/hf/keys.hpp"
#include "sparsemoe/hf/special_tokens.hpp"
#include "sparsemoe/infer/beam.hpp"

namespace generation {

namespace moe = sparsemoe;
namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

class Generator {
 public:
  virtual ~Generator() = default;
  const moe::hf::SpecialTokens& special() const { return special_; }
  std::int64_t vocabulary() const { return vocabulary_; }
  std::int64_t parameters() const { return parameters_; }
  /// Whether it goes on with its input, rather than reads it and answers.
  bool decoder_only() const { return decoder_only_; }
  /// Outputs for each text, best first. Throws Error for an id outside of the vocabulary, an empty text, options that
  /// make no sense, and more memory than there is; NoAnswer for a text that the model has no finite scores for.
  virtual moe::SearchResult search(const std::vector<Ids>& texts, const moe::SearchOptions& options) = 0;

 protected:
  moe::hf::SpecialTokens special_;
  std::int64_t vocabulary_ = 0, parameters_ = 0;
  bool decoder_only_ = false;
};

std::unique_ptr<Generator> open_t5(const moe::hf::Config& config, int threads);
std::unique_ptr<Generator> open_switch_transformer(const moe::hf::Config& config, int threads);
std::unique_ptr<Generator> open_nllb(const moe::hf::Config& config, int threads);
std::unique_ptr<Generator> open_mixtral(const moe::hf::Config& config, int threads);

/// Loads a directory. Throws FileError naming what is wrong with it.
inline std::unique_ptr<Generator> open_generator(const moe::hf::Config& config, int threads) {
  using moe::hf::Family;
  switch (moe::hf::family_of(config)) {
    case Family::switch_transformer: return open_switch_transformer(config, threads);
    case Family::m2m:
    case Family::nllb: return open_nllb(config, threads);
    case Family::mixtral: return open_mixtral(config, threads);
    default: return open_t5(config, threads);
  }
}

}  // namespace generation

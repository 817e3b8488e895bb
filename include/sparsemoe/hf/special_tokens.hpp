// SPDX-License-Identifier: Apache-2.0
// hf/special_tokens.hpp -- which ids a checkpoint begins, ends and pads with. Every id is compared with the vocabulary
// here, before it is an index of anything. Read next: hf/generation_config.hpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sparsemoe/hf/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// The ids of a key that holds one id or a list of them; none if the key is absent or null. Throws FileError naming
/// file, key and value if one is not in [0, vocabulary), or the list is empty.
inline std::vector<std::int32_t> token_ids(const Config& config, const std::string& key, index_t vocabulary) {
  if (!config.has(key)) return {};
  const bool list = config.json().at(key).is_array();
  const std::vector<index_t> ids =
      list ? config.get<std::vector<index_t>>(key) : std::vector<index_t>{config.get<index_t>(key)};
  if (ids.empty()) config.refuse(key, "an id of a token or a list of them");
  std::vector<std::int32_t> checked;
  for (const index_t id : ids) {
    if (id < 0 || id >= vocabulary)
      fail_file(config.path(), "key \"", key, "\" has the id ", id, ", expected one from 0 to ", vocabulary - 1,
                ": vocab_size is ", vocabulary);
    checked.push_back(static_cast<std::int32_t>(id));
  }
  return checked;
}

/// The same where there can be one id only; -1: there is none.
inline std::int32_t token_id(const Config& config, const std::string& key, index_t vocabulary) {
  const std::vector<std::int32_t> ids = token_ids(config, key, vocabulary);
  if (ids.size() > 1) config.refuse(key, "one id");
  return ids.empty() ? -1 : ids.front();
}

/// generation_config.json beside config.json, if it is there.
inline std::optional<Config> generation_file(const Config& config) {
  const std::filesystem::path directory = config.path().parent_path();
  std::error_code ignored;
  if (!std::filesystem::exists(directory / "generation_config.json", ignored)) return std::nullopt;
  return Config(directory, "generation_config.json");
}
/// Who says how a checkpoint generates: generation_config.json, or config.json where there is no such file. It is
/// config.json too, as in transformers 4.57, where that has a key of generation that is not at its default and the
/// other file says that it was made from it ("_from_model_config").
inline Config generation_source(const Config& config) {
  static const Json usual = {
      {"max_length", 20},
      {"min_length", 0},
      {"do_sample", false},
      {"early_stopping", false},
      {"num_beams", 1},
      {"num_beam_groups", 1},
      {"diversity_penalty", 0},
      {"temperature", 1},
      {"top_k", 50},
      {"top_p", 1},
      {"typical_p", 1},
      {"repetition_penalty", 1},
      {"length_penalty", 1},
      {"no_repeat_ngram_size", 0},
      {"encoder_no_repeat_ngram_size", 0},
      {"bad_words_ids", nullptr},
      {"num_return_sequences", 1},
      {"output_scores", false},
      {"return_dict_in_generate", false},
      {"forced_bos_token_id", nullptr},
      {"forced_eos_token_id", nullptr},
      {"remove_invalid_values", false},
      {"exponential_decay_length_penalty", nullptr},
      {"suppress_tokens", nullptr},
      {"begin_suppress_tokens", nullptr},
  };
  const std::optional<Config> own = generation_file(config);
  if (!own) return config;
  if (!own->flag("_from_model_config", false)) return *own;
  for (const auto& [key, value] : usual.items())
    if (config.has(key) && config.json().at(key) != value) return config;
  return *own;
}

/// The special tokens of a checkpoint, as generation_source() says them. -1: there is none.
struct SpecialTokens {
  std::int32_t begin = -1, end = -1, padding = -1, first = -1;  // decoder's start, an end, padding, forced first token
  std::vector<std::int32_t> ends = {};                          // every end of text; `end` is the first of them

  /// Throws FileError naming file and key for an id that the vocabulary does not have.
  static SpecialTokens of(const Config& config) {
    const Config generation = generation_source(config);
    const index_t vocabulary = config.count("vocab_size", 2, Limits::vocabulary);
    const auto id = [&](const Config& from, const char* key) { return token_id(from, key, vocabulary); };

    SpecialTokens t;
    t.ends = token_ids(generation, "eos_token_id", vocabulary);
    t.end = t.ends.empty() ? -1 : t.ends.front();
    t.first = id(generation, "forced_bos_token_id");
    for (const Config* from : {&generation, &config}) {  // what begins must be known, so the second file is asked too
      const std::int32_t padding = id(*from, "pad_token_id"), start = id(*from, "decoder_start_token_id"),
                         begin = id(*from, "bos_token_id");
      if (t.padding < 0) t.padding = padding;
      if (t.begin < 0) t.begin = start >= 0 ? start : begin;
    }
    return t;
  }
};

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

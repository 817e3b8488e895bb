// SPDX-License-Identifier: Apache-2.0
// hf/special_tokens.hpp -- which ids a checkpoint begins, ends and pads with. Every id is compared with the vocabulary
// here, before it is an index of anything. Read next: hf/generation_config.hpp.
#pragma once

#include <cstdint>
#include <filesystem>
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

/// The special tokens of a checkpoint. As in transformers, generation_config.json says them where it is, else
/// config.json. -1: there is none.
struct SpecialTokens {
  std::int32_t begin = -1, end = -1, padding = -1, first = -1;  // decoder's start, an end, padding, forced first token
  std::vector<std::int32_t> ends = {};                          // every end of text; `end` is the first of them

  /// Throws FileError naming file and key for an id that the vocabulary does not have.
  static SpecialTokens of(const Config& config) {
    const std::filesystem::path directory = config.path().parent_path();
    std::error_code ignored;
    const bool own = std::filesystem::exists(directory / "generation_config.json", ignored);
    const Config generation = own ? Config(directory, "generation_config.json") : config;
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

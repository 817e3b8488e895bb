// SPDX-License-Identifier: Apache-2.0
// hf/generation_config.hpp -- how a checkpoint wants to generate: every key of generation_config.json that transformers
// 4.38 to 5.24 know is obeyed, known to change nothing, or refused by name. Where generation_source() says so, the keys
// are looked for in config.json. Read next: hf/special_tokens.hpp, infer/search_options.hpp,
// docs/decoding.md.
#pragma once

#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/hf/config.hpp"
#include "sparsemoe/hf/special_tokens.hpp"
#include "sparsemoe/infer/search_options.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// What becomes of a key: it is obeyed; it changes no output here; or only values that ask for nothing are taken.
enum class KeyUse { obeyed, without_effect, refused };

/// A key of generation_config.json. `why`: why it has no effect, or what its values ask for. `nothing`: of refused
/// keys, the value that asks for nothing (null always does).
struct GenerationKey {
  const char* name;
  KeyUse use = KeyUse::obeyed;
  const char* why = "";
  Json nothing = nullptr;
};

inline const std::vector<GenerationKey>& generation_keys() {
  constexpr auto none = KeyUse::without_effect, refused = KeyUse::refused;
  constexpr const char *sampling = "only sampling reads it", *memory = "the same numbers, in other memory",
                       *returned = "what generate() returns beside the tokens",
                       *assistant = "only assisted generation reads it", *name = "no request",
                       *speed = "the same numbers, at another speed";
  static const std::vector<GenerationKey> keys = {
      // lengths and ends
      {"max_length"},
      {"max_new_tokens"},
      {"min_length"},
      {"min_new_tokens"},
      {"eos_token_id"},
      {"bos_token_id"},
      {"pad_token_id"},
      {"decoder_start_token_id"},
      {"forced_bos_token_id"},
      {"forced_eos_token_id"},
      {"max_time", refused, "a limit of time"},
      {"stop_strings", refused, "ends at strings"},
      // the search
      {"num_beams"},
      {"num_return_sequences"},
      {"early_stopping"},
      {"length_penalty"},
      {"do_sample", refused, "sampling", false},
      {"num_beam_groups", refused, "diverse beam search", 1},
      {"diversity_penalty", refused, "diverse beam search", 0},
      {"penalty_alpha", refused, "contrastive search", 0},
      {"dola_layers", refused, "decoding by contrasting layers"},
      {"constraints", refused, "constrained beam search"},
      {"force_words_ids", refused, "constrained beam search"},
      {"prompt_lookup_num_tokens", refused, "assisted generation"},
      {"assistant_early_exit", refused, "assisted generation"},
      {"use_mtp", refused, "assisted generation", false},
      // scores
      {"repetition_penalty"},
      {"encoder_repetition_penalty"},
      {"no_repeat_ngram_size"},
      {"encoder_no_repeat_ngram_size"},
      {"bad_words_ids"},
      {"sequence_bias"},
      {"suppress_tokens"},
      {"begin_suppress_tokens"},
      {"exponential_decay_length_penalty"},
      {"remove_invalid_values"},
      {"renormalize_logits"},
      {"guidance_scale", refused, "guidance by a second prompt", 1},
      {"watermarking_config", refused, "a watermark"},
      {"token_healing", refused, "prompts that are changed", false},
      {"forced_decoder_ids", refused, "tokens forced at places"},
      // sampling
      {"temperature", none, sampling},
      {"top_k", none, sampling},
      {"top_p", none, sampling},
      {"min_p", none, sampling},
      {"top_h", none, sampling},
      {"typical_p", none, sampling},
      {"epsilon_cutoff", none, sampling},
      {"eta_cutoff", none, sampling},
      // memory and speed
      {"use_cache", none, memory},
      {"cache_implementation"},  // all but the quantized one give the same numbers
      {"cache_config", none, memory},
      {"max_cache_len", none, memory},
      {"return_legacy_cache", none, memory},
      {"prefill_chunk_size", none, memory},
      {"low_memory", none, memory},
      {"compile_config", none, speed},
      {"disable_compile", none, speed},
      {"continuous_batching_config", none, speed},
      // results
      {"output_attentions", none, returned},
      {"output_hidden_states", none, returned},
      {"output_scores", none, returned},
      {"output_logits", none, returned},
      {"return_dict_in_generate", none, returned},
      // assisted generation, without an assistant
      {"is_assistant", none, assistant},
      {"num_assistant_tokens", none, assistant},
      {"num_assistant_tokens_schedule", none, assistant},
      {"assistant_confidence_threshold", none, assistant},
      {"max_matching_ngram_size", none, assistant},
      {"assistant_lookbehind", none, assistant},
      {"target_lookbehind", none, assistant},
      {"assistant_ensemble_weight", none, assistant},
      {"speculation_type", none, assistant},
      // about the file
      {"_from_model_config"},  // generation_source()
      {"_commit_hash", none, name},
      {"_original_object_hash", none, name},
      {"transformers_version", none, name},
  };
  return keys;
}

/// How a checkpoint wants to generate; the special ids are those of SpecialTokens.
struct GenerationConfig {
  std::filesystem::path path;  // of the file that says it
  bool sampling = false;       // do_sample
  index_t beams = 1, outputs = 1;
  Stopping stopping = Stopping::no_better;
  double length_penalty = 1;
  index_t no_repeat_ngram = 0;
  std::optional<index_t> max_new_tokens, max_length;  // of what is generated; with the prompt or the decoder's start
  std::optional<index_t> min_new_tokens;              // before an end may come
  ScoreRules rules;                                   // with min_length as min_total

  /// Reads the directory of `config`. Throws FileError that names file and key for a value that is refused or makes no
  /// sense; do_sample is left to the caller.
  static GenerationConfig of(const Config& config) {
    const std::optional<Config> own = generation_file(config);
    if (own) check_keys(*own, true);
    const Config file = generation_source(config);
    if (file.path() == config.path()) check_keys(file, false);
    return of(file, config.size("vocab_size"));
  }

  /// Throws FileError for a checkpoint that samples.
  void require_search() const {
    if (sampling)
      fail_file(path, "key \"do_sample\" is true: sampling is not offered; --no-sampling searches in place of it");
  }

  /// Adds what "sequence_bias" and "bad_words_ids" ask for; `ends` are no bad words.
  static void read_biases(const Config& f, index_t vocabulary, const std::vector<std::int32_t>& ends,
                          std::vector<SequenceBias>& to) {
    const auto each = [&](const char* key, const char* expected, const auto& add) {
      if (!f.has(key)) return;
      const Json& list = f.json().at(key);
      if (!list.is_array() || list.empty()) f.refuse(key, expected);
      for (const Json& item : list) {
        if (!item.is_array() || item.empty()) f.refuse(key, expected);
        add(item);
      }
    };
    std::map<std::vector<std::int32_t>, std::size_t> places;
    const char *bias = "sequence_bias", *pairs = "a list of pairs of a list of ids and a number";
    each(bias, pairs, [&](const Json& item) {
      if (item.size() != 2 || !item[0].is_array() || item[0].empty() || !item[1].is_number()) f.refuse(bias, pairs);
      SequenceBias one{ids_of(f, item[0], bias, vocabulary), item[1].get<double>()};
      const auto [known, is_new] = places.emplace(one.ids, to.size());
      if (is_new)
        to.push_back(std::move(one));
      else  // of a sequence that stands there twice, the last counts
        to[known->second].bias = one.bias;
    });
    each("bad_words_ids", "a list of lists of ids", [&](const Json& item) {
      SequenceBias word{ids_of(f, item, "bad_words_ids", vocabulary), -std::numeric_limits<double>::infinity()};
      const bool an_end = word.ids.size() == 1 && std::find(ends.begin(), ends.end(), word.ids[0]) != ends.end();
      if (!an_end) to.push_back(std::move(word));  // an end is no bad word in transformers either
    });
  }
  /// "exponential_decay_length_penalty".
  static void read_decay(const Config& f, ScoreRules& rules) {
    const char* key = "exponential_decay_length_penalty";
    if (!f.has(key)) return;
    const Json& pair = f.json().at(key);
    const char* expected = "a pair of a number of tokens and a factor above 0";
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer() || !pair[1].is_number() ||
        !(pair[1].get<double>() > 0))
      f.refuse(key, expected);
    rules.decay_start = pair[0].get<index_t>();
    rules.decay = pair[1].get<double>();
  }

 private:
  static void check_keys(const Config& file, bool own) {
    for (const auto& [key, value] : file.json().items()) {
      const GenerationKey* known = nullptr;
      for (const GenerationKey& k : generation_keys())
        if (key == k.name) known = &k;
      if (known == nullptr) {
        if (own) fail_file(file.path(), "key ", detail::shown(key), " is none that generation knows of");
        continue;  // config.json has other keys, which are its own affair
      }
      const bool asks = known->use == KeyUse::refused && !value.is_null() && value != known->nothing;
      if (asks && key != "do_sample")
        fail_file(file.path(), "key \"", key, "\" is ", detail::shown_json(value), ", which asks for ", known->why,
                  "; that is not offered", known->nothing.is_null() ? "" : ", expected " + known->nothing.dump());
    }
  }
  static index_t whole(const Config& f, const char* key, index_t otherwise, index_t least) {
    const auto value = f.get<index_t>(key, otherwise);
    if (f.has(key) && value < least) f.refuse(key, join("a whole number from ", least));
    return value;
  }
  static std::optional<index_t> length(const Config& f, const char* key, index_t least) {
    if (!f.has(key)) return std::nullopt;
    return whole(f, key, 0, least);
  }
  static double penalty(const Config& f, const char* key) {
    const double value = f.real(key, 1);
    if (!(value > 0)) f.refuse(key, "a number above 0");
    return value;
  }
  static Stopping stopping_of(const Config& f) {
    const char* key = "early_stopping";
    if (!f.has(key)) return Stopping::no_better;
    const Json& value = f.json().at(key);
    if (value.is_boolean()) return value.get<bool>() ? Stopping::first_found : Stopping::no_better;
    if (value != "never") f.refuse(key, "true, false or \"never\"");
    return Stopping::none_can;
  }
  static std::vector<std::int32_t> ids_of(const Config& f, const Json& list, const char* key, index_t vocabulary) {
    return token_ids(Config(Json{{key, list}}, f.path()), key, vocabulary);
  }
  /// A list of ids that may be empty.
  static std::vector<std::int32_t> list_of(const Config& f, const char* key, index_t vocabulary) {
    if (!f.has(key) || f.json().at(key) == Json::array()) return {};
    return token_ids(f, key, vocabulary);
  }
  static GenerationConfig of(const Config& f, index_t vocabulary) {
    GenerationConfig g;
    g.path = f.path();
    g.sampling = f.flag("do_sample", false);
    g.beams = whole(f, "num_beams", 1, 1);
    if (g.beams > SearchOptions::most_beams) f.refuse("num_beams", join("at most ", SearchOptions::most_beams));
    g.outputs = whole(f, "num_return_sequences", 1, 1);
    g.stopping = stopping_of(f);
    g.length_penalty = f.real("length_penalty", 1);
    g.no_repeat_ngram = whole(f, "no_repeat_ngram_size", 0, 0);
    g.max_new_tokens = length(f, "max_new_tokens", 1);
    g.max_length = length(f, "max_length", 1);
    g.min_new_tokens = length(f, "min_new_tokens", 0);
    if (f.has("cache_implementation") && f.text("cache_implementation", "") == "quantized")
      f.refuse("cache_implementation", "one that keeps the numbers: keys and values are not quantized here");

    ScoreRules& r = g.rules;
    r.repetition_penalty = penalty(f, "repetition_penalty");
    r.source_penalty = penalty(f, "encoder_repetition_penalty");
    r.source_ngram = whole(f, "encoder_no_repeat_ngram_size", 0, 0);
    r.min_total = whole(f, "min_length", 0, 0);
    r.suppressed = list_of(f, "suppress_tokens", vocabulary);
    r.suppressed_first = list_of(f, "begin_suppress_tokens", vocabulary);
    r.forced_last = token_ids(f, "forced_eos_token_id", vocabulary);
    r.remove_invalid = f.flag("remove_invalid_values", false);
    r.renormalise = f.flag("renormalize_logits", false);
    read_biases(f, vocabulary, token_ids(f, "eos_token_id", vocabulary), r.biases);
    read_decay(f, r);
    return g;
  }
};

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

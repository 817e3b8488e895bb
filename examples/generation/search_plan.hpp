// SPDX-License-Identifier: Apache-2.0
// search_plan.hpp -- what a run searches for: the checkpoint's own generation config with the options of the command
// line over it. Read next: sparsemoe/hf/generation_config.hpp, generate.hpp, docs/decoding.md.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "generator.hpp"
#include "sparsemoe/hf/generation_config.hpp"

namespace generation {

/// Options of a search that a user gave; what is not there is as the checkpoint says.
struct SearchSettings {
  std::optional<std::int64_t> beam, nbest, max_new_tokens, min_new_tokens, no_repeat_ngram;
  std::optional<double> length_penalty, repetition_penalty;
  std::optional<moe::Stopping> stopping;
  bool no_sampling = false;  // search even if the checkpoint samples

  /// Throws Error for "nan" and "inf", which options of numbers take.
  void check() const {
    for (const auto& [name, value] :
         {std::pair{"--length-penalty", length_penalty}, {"--repetition-penalty", repetition_penalty}})
      moe::require(!value || std::isfinite(*value), name, " must be a number, not ", value.value_or(0));
  }
};
/// Values of --early-stopping.
inline const std::map<std::string, moe::Stopping> stopping_names = {
    {"heuristic", moe::Stopping::no_better}, {"first", moe::Stopping::first_found}, {"never", moe::Stopping::none_can}};
inline constexpr const char* stopping_help =
    "A sentence with as many outputs as beams is done: heuristic: when what goes on scores no better at its present "
    "length; first: at once; never: when no length could make it better";

/// The options of a search, and how long each output may be.
class SearchPlan {
 public:
  static constexpr std::int64_t usual_length = 128;  // where neither checkpoint nor user says one

  /// Throws Error for what contradicts, FileError for what the checkpoint asks and is not offered.
  SearchPlan(const moe::hf::GenerationConfig& file, const SearchSettings& given, const Generator& generator)
      : decoder_only_(generator.decoder_only()), path_(file.path) {
    given.check();
    if (!given.no_sampling) file.require_search();
    const moe::hf::SpecialTokens& special = generator.special();
    moe::SearchOptions& o = options;
    o.begin = std::max(special.begin, 0);
    o.end = special.end;
    o.other_ends = special.ends;
    o.first = special.first;
    o.beams = given.beam.value_or(file.beams);
    o.nbest = given.nbest.value_or(file.outputs);
    o.stopping = given.stopping.value_or(file.stopping);
    o.length_penalty = given.length_penalty.value_or(file.length_penalty);
    o.no_repeat_ngram = given.no_repeat_ngram.value_or(file.no_repeat_ngram);
    o.rules = file.rules;
    o.rules.repetition_penalty = given.repetition_penalty.value_or(file.rules.repetition_penalty);
    const auto least = given.min_new_tokens ? given.min_new_tokens : file.min_new_tokens;
    if (least) o.min_length = *least, o.rules.min_total = 0;
    new_tokens_ = given.max_new_tokens ? given.max_new_tokens : file.max_new_tokens;
    if (!new_tokens_) total_ = file.max_length;

    moe::require(o.nbest <= o.beams,
                 given.nbest ? "--nbest " : file.path.string() + ": key \"num_return_sequences\" is ", o.nbest,
                 given.nbest ? " needs --beam " : ", which needs --beam ", o.nbest, " or more; it is ", o.beams);
    o.check(generator.vocabulary());
  }

  /// Tokens that an output may have behind a prompt of so many; what max_length of the file leaves. Throws Error if
  /// that is none.
  std::int64_t room(std::int64_t prompt) const {
    if (new_tokens_) return *new_tokens_;
    if (!total_) return usual_length;
    const std::int64_t begun = decoder_only_ ? prompt : 1;
    moe::require(begun < *total_, begun, " tokens are before the first that is generated, and key \"max_length\" of ",
                 path_.string(), " is ", *total_, "; --max-new-tokens sets another limit");
    return *total_ - begun;
  }

  moe::SearchOptions options;

 private:
  bool decoder_only_;
  fs::path path_;
  std::optional<std::int64_t> new_tokens_, total_;
};

}  // namespace generation

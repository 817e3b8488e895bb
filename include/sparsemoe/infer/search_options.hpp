// SPDX-License-Identifier: Apache-2.0
// infer/search_options.hpp -- what a search is asked for and what it gives: options and hypotheses. Read next:
// infer/score_rules.hpp, infer/beam.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/infer/score_rules.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What the summed log-probability of n tokens (the end included) is divided by, with a = length_penalty:
/// power: n^a, as Hugging Face; gnmt: ((5 + n) / 6)^a, Wu et al. 2016, equation 14. a = 0: nothing.
enum class LengthNorm { power, gnmt };

/// When a sentence with `beams` finished outputs is done. no_better: when the best beam that goes on, normalised at its
/// present length, is not above the worst finished output (Hugging Face's early_stopping=False; outputs that grow
/// better with length can be missed). first_found: at once (early_stopping=True). none_can: when no length that may
/// still be reached makes the best beam better (early_stopping="never"; the same as no_better without a positive length
/// penalty). One beam is done at its first end.
enum class Stopping { no_better, first_found, none_can };

/// Whose rules beams follow. Before the rewrite of transformers 4.50 the best candidate, be it an end, decided when a
/// sentence is done, and at the greatest length all beams were kept beside the ends: a difference in lower ranks.
enum class BeamRules { transformers_5, transformers_4_38 };

/// Whether rows of finished sentences leave the batch or are carried along as padding; results are the same.
enum class FinishedRows { leave, stay };

struct SearchOptions {
  static constexpr index_t most_beams = 64, most_ends = 64;
  std::int32_t begin = 1, end = 2;            // end -1: none, outputs are as long as they may be
  std::vector<std::int32_t> other_ends = {};  // ids that end an output too
  std::int32_t first = -1;                    // the first token of a text of one token, with probability 1; -1: any
  index_t beams = 1;                          // 1: greedy search
  index_t nbest = 1;                          // outputs a sentence, at most `beams`
  index_t max_length = 128;                   // most tokens generated for an output, the end included
  index_t min_length = 0;                     // tokens generated before an end may come
  const index_t* lengths = nullptr;  // (sentences) on the host, read at the start: each one's own, at most max_length
  double length_penalty = 1;
  LengthNorm length_norm = LengthNorm::power;
  Stopping stopping = Stopping::no_better;
  BeamRules beam_rules = BeamRules::transformers_5;
  index_t no_repeat_ngram = 0;  // no n-gram of this length twice in an output, the begin token counted; 0: any
  FinishedRows finished = FinishedRows::leave;
  const std::uint8_t* banned = nullptr;  // (V) ids never produced, in the backend's memory; the others gain nothing
  /// (V) on the host, read at the start: the byte that a piece stands for (byte fallback), -1 for text. Then outputs
  /// are valid UTF-8 without U+FFFD: bytes that could not go on are left out, a character cut at the end is dropped.
  const std::int16_t* bytes = nullptr;
  ScoreRules rules = {};

  /// Throws Error for what makes no sense. Ids must be below `vocabulary`.
  void check(index_t vocabulary) const {
    require(beams >= 1 && beams <= most_beams, "search: beams must be between 1 and ", most_beams, "; got ", beams);
    require(nbest >= 1 && nbest <= beams, "search: nbest must be between 1 and the ", beams, " beams; got ", nbest);
    require(max_length >= 1, "search: max_length must be at least 1; got ", max_length);
    require(no_repeat_ngram >= 0 && min_length >= 0,
            "search: no_repeat_ngram and min_length must not be negative; got ", no_repeat_ngram, " and ", min_length);
    require(std::isfinite(length_penalty), "search: length_penalty must be finite; got ", length_penalty);
    const double most = 460 / std::log(std::max(length_of(max_length), 2.0));  // exp(460) times a score is a number
    require(std::abs(length_penalty) <= most, "search: length_penalty must lie between ", -most, " and ", most,
            ", so that the scores of ", max_length, " tokens are numbers; got ", length_penalty);
    require(begin >= 0 && begin < vocabulary && end >= -1 && end < vocabulary && first < vocabulary,
            "search: begin, end and first must be ids below ", vocabulary, "; got ", begin, ", ", end, " and ", first);
    const std::vector<std::int32_t> all = ends();
    require(static_cast<index_t>(all.size()) <= most_ends, "search: at most ", most_ends, " ends; got ", all.size());
    for (const std::int32_t id : all)
      require(id >= 0 && id < vocabulary, "search: an end must be an id below ", vocabulary, "; got ", id);
    rules.check(vocabulary);
  }
  /// Every end, each once.
  std::vector<std::int32_t> ends() const {
    std::vector<std::int32_t> all;
    if (end >= 0) all.push_back(end);
    for (const std::int32_t id : other_ends)
      if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
    return all;
  }
  /// The score of n generated tokens whose log-probabilities sum to `total`.
  double score(double total, index_t n) const {
    if (length_penalty == 0) return total;
    return total / std::pow(length_of(n), length_penalty);
  }

 private:
  double length_of(index_t n) const {
    const double length = static_cast<double>(n);
    return length_norm == LengthNorm::power ? length : (5 + length) / 6;
  }
};

/// One output: tokens without begin and end, and whether it ended by itself or was cut at max_length.
struct Hypothesis {
  std::vector<std::int32_t> tokens;
  double score = 0;  // SearchOptions::score
  bool ended = false;
  std::int32_t end = -1;  // the id that ended it; -1: none did
};
/// (sentence, rank), best first; at least one, and fewer than nbest only where there were no more to find.
using SearchResult = std::vector<std::vector<Hypothesis>>;

/// Thrown by a search that has nothing to say for a sentence: its scores are not finite, or all ids were excluded.
class NoAnswer : public Error {
 public:
  NoAnswer(index_t sentence_, const std::string& why)
      : Error(join("search: sentence ", sentence_ + 1, ": ", why)), sentence(sentence_), reason(why) {}
  index_t sentence;    // of the batch, from 0
  std::string reason;  // without the sentence's number
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

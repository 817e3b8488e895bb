// SPDX-License-Identifier: Apache-2.0
// infer/score_rules.hpp -- what changes the scores of the next token before a search chooses: penalties, biases, ids
// that may not come. The rules and their order are those of transformers' logits processors. On the host they name ids
// of rows (ScoreEdits); infer/candidates.hpp has the functor that changes the scores. Read next: infer/ngram.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/infer/ngram.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Adds `bias` to the score of the last of `ids` wherever the others are the latest tokens; minus infinity: never.
struct SequenceBias {
  std::vector<std::int32_t> ids;
  double bias = 0;
};

/// Scores are log-probabilities with several beams, logits with one, as in transformers. `text` of a row is all that
/// its decoder has read: the begin token or the prompt, and what was generated.
struct ScoreRules {
  double repetition_penalty = 1;         // of ids in the text: negative scores times this, others over it
  double source_penalty = 1;             // of ids in the source or prompt, the other way round: above 1 favours them
  index_t source_ngram = 0;              // no n-gram of this length of the source; 0: any
  index_t min_total = 0;                 // tokens of the text before an end may come
  std::vector<SequenceBias> biases;      // each sequence once
  std::vector<std::int32_t> suppressed;  // never
  std::vector<std::int32_t> suppressed_first;  // not as the first token that is not forced
  std::vector<std::int32_t> forced_last;       // the last token at the greatest length is one of these; empty: any
  index_t decay_start = 0;                     // after this many tokens generated ...
  double decay = 1;                            // ... an end gains |score| (decay^(tokens after it) - 1); 1: nothing
  bool remove_invalid = false;                 // scores that are NaN become 0, infinity the largest number
  bool renormalise = false;                    // log-probabilities sum to 1 again after all rules

  /// Whether a rule looks at the text of rows, at the sources.
  bool reads_text() const { return repetition_penalty != 1 || source_ngram > 0 || !biases.empty(); }
  bool reads_source() const { return source_penalty != 1 || source_ngram > 0; }
  /// Whether scores change otherwise than to minus infinity.
  bool rescores() const { return repetition_penalty != 1 || source_penalty != 1 || !biases.empty() || decay != 1; }
  /// Most edits of a row in one step, but for those of its text and source.
  index_t most_edits() const {
    return static_cast<index_t>(biases.size() + suppressed.size() + suppressed_first.size());
  }

  /// Throws Error for what makes no sense.
  void check(index_t vocabulary) const {
    const auto positive = [](double x) { return std::isfinite(x) && x > 0; };
    require(positive(repetition_penalty) && positive(source_penalty) && positive(decay),
            "search: repetition_penalty, source_penalty and decay must be above 0; got ", repetition_penalty, ", ",
            source_penalty, " and ", decay);
    require(source_ngram >= 0 && min_total >= 0, "search: source_ngram and min_total must not be negative; got ",
            source_ngram, " and ", min_total);
    const auto known = [&](const std::vector<std::int32_t>& ids) {
      for (const std::int32_t id : ids)
        require(id >= 0 && id < vocabulary, "search: a rule names the id ", id, ", expected one below ", vocabulary);
    };
    for (const auto* ids : {&suppressed, &suppressed_first, &forced_last}) known(*ids);
    for (const SequenceBias& b : biases) {
      require(!b.ids.empty() && !std::isnan(b.bias), "search: a bias needs ids and a number");
      known(b.ids);
    }
  }
};

/// What a step changes, as (row, id) pairs in the order in which the kinds are applied; a pair stands once in a kind
/// that changes a score in proportion to itself.
struct ScoreEdits {
  enum Kind { bias, source_penalty, penalty, exclude, decay, suppress, kinds };
  std::array<std::vector<std::int32_t>, kinds> pairs;
  std::vector<float> biases;  // of the pairs of `bias`

  void clear() {
    for (auto& p : pairs) p.clear();
    biases.clear();
  }
  void reserve(std::size_t most) {
    for (auto& p : pairs) p.reserve(2 * most);
    biases.reserve(most);
  }
  void add(Kind kind, index_t row, std::int32_t id) {
    pairs[kind].push_back(static_cast<std::int32_t>(row));
    pairs[kind].push_back(id);
  }
  /// Biases of one id add up.
  void add_bias(index_t row, std::int32_t id, double value) {
    const auto& known = pairs[bias];
    for (std::size_t i = known.size(); i > 0 && known[i - 2] == row; i -= 2)
      if (known[i - 1] == id) {
        biases[i / 2 - 1] += static_cast<float>(value);
        return;
      }
    add(bias, row, id);
    biases.push_back(static_cast<float>(value));
  }
};

/// A row of a step, as the rules see it.
struct RuledRow {
  index_t row, generated;  // tokens generated so far
  const std::int32_t* text;
  index_t length;                           // of the text; with rules that do not read it only the number counts
  const std::vector<std::int32_t>* source;  // null: no rule reads it
};

/// Adds what the rules change in a row. `ends` are the ends of text, `scratch` is room.
inline void edit_row(const ScoreRules& rules, const std::vector<std::int32_t>& ends, const RuledRow& r,
                     std::vector<std::int32_t>& scratch, ScoreEdits& edits) {
  const auto each_once = [&](ScoreEdits::Kind kind, const std::int32_t* ids, index_t n) {
    scratch.assign(ids, ids + n);
    std::sort(scratch.begin(), scratch.end());
    const auto last = std::unique(scratch.begin(), scratch.end());
    for (auto id = scratch.begin(); id != last; ++id) edits.add(kind, r.row, *id);
  };
  for (const SequenceBias& b : rules.biases) {
    const auto before = static_cast<index_t>(b.ids.size()) - 1;
    if (before > r.length || !std::equal(b.ids.begin(), b.ids.end() - 1, r.text + r.length - before)) continue;
    if (std::isinf(b.bias) && b.bias < 0) {
      edits.add(ScoreEdits::exclude, r.row, b.ids.back());
    } else {
      edits.add_bias(r.row, b.ids.back(), b.bias);
    }
  }
  if (rules.source_penalty != 1)
    each_once(ScoreEdits::source_penalty, r.source->data(), static_cast<index_t>(r.source->size()));
  if (rules.repetition_penalty != 1) each_once(ScoreEdits::penalty, r.text, r.length);
  if (rules.source_ngram > 0) {
    const auto exclude = [&](std::int32_t id) { edits.add(ScoreEdits::exclude, r.row, id); };
    continued_ngrams(r.source->data(), static_cast<index_t>(r.source->size()), r.text, r.length, rules.source_ngram,
                     exclude);
  }
  if (r.length < rules.min_total)
    for (const std::int32_t end : ends) edits.add(ScoreEdits::exclude, r.row, end);
  if (rules.decay != 1 && r.generated > rules.decay_start)
    for (const std::int32_t end : ends) edits.add(ScoreEdits::decay, r.row, end);
  for (const std::int32_t id : rules.suppressed) edits.add(ScoreEdits::suppress, r.row, id);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

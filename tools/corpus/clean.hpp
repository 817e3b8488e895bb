// SPDX-License-Identifier: Apache-2.0
// clean.hpp -- makes text uniform (NFC, plain spaces) and says which pairs are no translations of each other.
// Main idea: every rule has a name, so that the builder reports how many pairs each took; the limits are in one struct.
// Read next: split.hpp.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "languages.hpp"

namespace nmt {

/// Canonical composition (Unicode NFC). Throws Error on malformed UTF-8.
std::string to_nfc(std::string_view text);

/// What a text is made of before anything reads it, here, in a corpus that is loaded, and in what users translate: no
/// zero-width characters and soft hyphens, NFC, every run of white space one space, none at the ends. Cleaning twice is
/// cleaning once. U+2581 counts as a space: SentencePiece writes spaces so, and cannot tell them apart.
/// Throws Error on malformed UTF-8.
std::string clean_text(std::string_view text);

/// Removes the final ; , . of a list item where the English has none.
void trim_item_end(std::string_view english, std::string& foreign);

/// Why a pair was dropped; `kept` when it was not.
enum class Verdict {
  kept,
  broken,
  entities,
  too_long,
  too_short,
  no_letters,
  address,
  untranslated,
  length,
  numbers,
  script,
  foreign
};

inline constexpr std::array<std::string_view, 12> verdict_names = {"kept",
                                                                   "controls or mojibake",
                                                                   "HTML entities",
                                                                   "too long",
                                                                   "fewer than 2 words",
                                                                   "under half letters",
                                                                   "mostly addresses",
                                                                   "untranslated",
                                                                   "length ratio",
                                                                   "numbers",
                                                                   "wrong script",
                                                                   "English in the translation"};

/// The limits of data cleaning; the defaults are those of the measured corpus.
struct Limits {
  std::size_t max_characters = 600, max_english_words = 90, min_english_words = 2;
  double min_letters = 0.5, max_address = 0.4, max_copied = 0.8, min_ratio = 0.5, max_ratio = 2, min_numbers = 0.5;
  double min_latin = 0.9, min_cyrillic = 0.3, min_asian = 0.15, min_log_odds = -0.5;
};

/// What the filters count in one text, in a single pass.
struct TextFacts {
  std::size_t characters = 0, visible = 0, letters = 0, latin = 0, cyrillic = 0, asian = 0, hangul = 0, address = 0,
              tokens = 0;
  bool broken = false, entity = false;
  std::vector<std::string> words;    ///< runs of letters, lower case
  std::vector<std::string> numbers;  ///< runs of digits
  std::string lower;
};

bool is_address(std::string_view token);

TextFacts examine(std::string_view text);

/// Judges one pair by all rules but the learnt one. `ratio`: foreign characters per English character.
Verdict judge(const TextFacts& english, const TextFacts& foreign, Script script, double ratio, const Limits& limits);

/// Tells text of one language from English by its words: log-odds of each word in the one against the other, learnt
/// from the corpus itself. Names occur as often on both sides and weigh nothing.
class WordOdds {
 public:
  void learn(const std::vector<std::string>& english, const std::vector<std::string>& foreign);

  /// Mean log-odds over the words, 0 when there are fewer than three: too few to judge.
  double mean(const std::vector<std::string>& words) const;

 private:
  struct Counts {
    double english = 0, foreign = 0;
  };
  std::unordered_map<std::string, Counts> counts_;
  double english_ = 0, foreign_ = 0;
};

}  // namespace nmt

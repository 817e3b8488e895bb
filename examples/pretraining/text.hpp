// SPDX-License-Identifier: Apache-2.0
// text.hpp -- what the trainers read of a corpus made by `sparsemoe-nmt corpus`: windows of running text of one
// language, and translations for fine-tuning. Read next: span_corruption.hpp.
#pragma once

#include <string>
#include <vector>

#include "span_corruption.hpp"
#include "sparsemoe/text/language.hpp"
#include "tools/corpus/read_corpus.hpp"
#include "tools/corpus/tokenizer.hpp"

namespace pretraining {

using Example = SpanCorruption::Example;

/// The corpus' own name of a language that was asked for by any of its codes. Throws Error that lists what there is.
inline std::string language_of(const nmt::SplitRows& split, const std::string& asked) {
  std::vector<std::string> names;
  std::string all;
  for (const auto& [name, lines] : split.text) {
    names.push_back(name);
    all += (all.empty() ? "" : ", ") + name;
  }
  std::string found = sparsemoe::find_language(asked, names);
  sparsemoe::require(!found.empty(), "the corpus has no text in '", asked, "'; it has ", all);
  return found;
}

/// The lines of one language in one split, each with an end id, run together and cut into windows of `length`.
inline std::vector<Ids> windows_of(const nmt::SplitRows& split, const std::string& language,
                                   const nmt::Tokenizer& tokenizer, std::size_t length) {
  std::vector<Ids> windows;
  Ids window;
  const auto found = split.text.find(language_of(split, language));
  const auto add = [&](std::int32_t id) {
    window.push_back(id);
    if (window.size() < length) return;
    windows.push_back(std::move(window));
    window.clear();
  };
  for (const auto& line : found->second.lines) {
    for (const int id : tokenizer.encode(line)) add(id);
    add(nmt::Tokenizer::end);
  }
  sparsemoe::require(!windows.empty(), "the corpus has less than one window of ", length, " tokens in '", language,
                     "'");
  return windows;
}

/// Short lines and their translations, each side with an end id, at most `length` tokens a side.
inline std::vector<Example> translations_of(const nmt::SplitRows& split, const std::string& from, const std::string& to,
                                            const nmt::Tokenizer& tokenizer, std::size_t length) {
  std::vector<Example> examples;
  for (const auto& pair : split.pairs(language_of(split, from), language_of(split, to))) {
    Example e;
    for (const int id : tokenizer.encode(*pair.source)) e.input.push_back(id);
    for (const int id : tokenizer.encode(*pair.target)) e.target.push_back(id);
    e.input.push_back(nmt::Tokenizer::end);
    e.target.push_back(nmt::Tokenizer::end);
    if (e.input.size() <= length && e.target.size() <= length) examples.push_back(std::move(e));
  }
  sparsemoe::require(!examples.empty(), "the corpus has no ", from, "-", to, " pair of at most ", length, " tokens");
  return examples;
}

}  // namespace pretraining

// SPDX-License-Identifier: Apache-2.0
// keys.hpp -- what makes two segments alike: keys, package families, word 3-grams.
// Main idea: names, digits and punctuation are noise in package descriptions, so texts are compared without them; an
// inverted index over 3-grams compares a stream of texts with a fixed pool. Read next: split.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nmt {

/// True when a lower-case word is one of the names or whole parts of one: "fast_image" in librust-fast-image-dev.
bool names_it(std::string_view word, const std::vector<std::string>& names);

/// Lower-case words of a text, digits as 0, addresses as "url", the given names as "n", punctuation gone.
std::vector<std::string> key_words(std::string_view text, const std::vector<std::string>& names);

std::string joined(const std::vector<std::string>& words);

/// What is the same in two texts that count as the same, everywhere that text is divided or compared: its key words,
/// or, where it has none ("?!", a note of music), the text itself.
std::string text_key(std::string_view text);

/// The family of a source package: its name up to the first version number, so that gcc-12 and gcc-13-cross are one.
std::string family_of(std::string_view source);

namespace detail {

/// Hashes of the word 3-grams, each once; a text of fewer words is one gram.
std::vector<std::uint64_t> word_grams(const std::vector<std::string>& words);

/// Compares a stream of texts with a fixed pool by their 3-grams, through an inverted index of the pool.
class GramIndex {
 public:
  void add(const std::vector<std::string>& words) {
    const auto grams = word_grams(words);
    for (const auto gram : grams) index_[gram].push_back(static_cast<std::uint32_t>(sizes_.size()));
    sizes_.push_back(grams.size());
  }

  /// Calls `each(member, jaccard, share of the member's grams found)` for every member that has a gram in common.
  template <class Each>
  void compare(const std::vector<std::string>& words, Each each) {
    common_.resize(sizes_.size());
    const auto grams = word_grams(words);
    std::vector<std::uint32_t> touched;
    for (const auto gram : grams) {
      const auto it = index_.find(gram);
      if (it == index_.end()) continue;
      for (const auto member : it->second)
        if (common_[member]++ == 0) touched.push_back(member);
    }
    for (const auto member : touched) {
      const auto both = static_cast<double>(common_[member]);
      common_[member] = 0;
      each(member, both / (static_cast<double>(sizes_[member] + grams.size()) - both),
           both / static_cast<double>(sizes_[member]));
    }
  }

 private:
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> index_;
  std::vector<std::size_t> sizes_;
  std::vector<std::uint32_t> common_;
};

}  // namespace detail

}  // namespace nmt

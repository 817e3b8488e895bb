// SPDX-License-Identifier: Apache-2.0
// prefix_index.hpp -- a set of words by their bytes, with numbers: which of them a text starts with. Sorted words and
// a range that narrows byte by byte, so it takes no more memory than the words.
// Read next: added_tokens.hpp, unigram.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace generation {

class PrefixIndex {
 public:
  using Word = std::pair<std::string, std::int32_t>;

  PrefixIndex() = default;
  /// Empty words are left out; of equal words the last one counts.
  explicit PrefixIndex(std::vector<Word> words) : words_(std::move(words)) {
    std::erase_if(words_, [](const Word& w) { return w.first.empty(); });
    std::stable_sort(words_.begin(), words_.end(), [](const Word& a, const Word& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < words_.size(); ++i) {
      const auto first = static_cast<unsigned char>(words_[i].first[0]);
      if (begins_[first].second == 0) begins_[first].first = i;
      begins_[first].second = i + 1;
    }
  }

  bool empty() const { return words_.empty(); }

  /// Calls visit(length in bytes, number) for every word that `text` starts with, shortest first.
  template <class Visit>
  void each_prefix(std::string_view text, Visit&& visit) const {
    if (text.empty()) return;
    auto [low, high] = begins_[static_cast<unsigned char>(text[0])];
    for (std::size_t length = 1; low < high; ++length) {
      // Words of this length come before their continuations, and equal ones stand together.
      std::size_t whole = low;
      while (whole < high && words_[whole].first.size() == length) ++whole;
      if (whole > low) visit(length, words_[whole - 1].second);
      low = whole;
      if (length == text.size()) return;
      const auto byte = static_cast<unsigned char>(text[length]);
      const auto at = [length](const Word& w) { return static_cast<unsigned char>(w.first[length]); };
      const auto first = words_.begin() + static_cast<std::ptrdiff_t>(low);
      const auto last = words_.begin() + static_cast<std::ptrdiff_t>(high);
      const auto from = std::partition_point(first, last, [&](const Word& w) { return at(w) < byte; });
      const auto to = std::partition_point(from, last, [&](const Word& w) { return at(w) <= byte; });
      low = static_cast<std::size_t>(from - words_.begin());
      high = static_cast<std::size_t>(to - words_.begin());
    }
  }

  /// Length and number of the longest word that `text` starts with; length 0 if there is none.
  std::pair<std::size_t, std::int32_t> longest(std::string_view text) const {
    std::pair<std::size_t, std::int32_t> found{0, -1};
    each_prefix(text, [&](std::size_t length, std::int32_t number) { found = {length, number}; });
    return found;
  }

 private:
  std::vector<Word> words_;
  std::pair<std::size_t, std::size_t> begins_[256] = {};
};

}  // namespace generation

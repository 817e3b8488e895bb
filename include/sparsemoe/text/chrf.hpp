// SPDX-License-Identifier: Apache-2.0
// chrf.hpp -- corpus chrF and chrF++ (Popović, 2015 and 2017) with one reference, equal to sacreBLEU's.
// Main idea: n-grams of characters with all white space removed, plus n-grams of words for chrF++; precision and recall
// are averaged over the orders that occur, then combined with beta 2. Checked in tests/test_metrics.cpp.
// Read next: bleu.hpp for the tokenizing metric.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// `chrf2` has no word n-grams, `chrf2_plus_plus` has words and word pairs.
enum class ChrfKind { chrf2, chrf2_plus_plus };

struct ChrfScore {
  static constexpr std::size_t char_order = 6;
  double score = 0;        ///< percentage
  double precision = 0;    ///< mean over the orders that occur on both sides, 0..1
  double recall = 0;       ///< likewise
  std::size_t orders = 0;  ///< how many orders these are
};

namespace detail {

using NgramCounts = std::unordered_map<std::u32string, std::size_t>;

constexpr bool is_ascii_punctuation(char32_t c) noexcept {
  return (c >= U'!' && c <= U'/') || (c >= U':' && c <= U'@') || (c >= U'[' && c <= U'`') || (c >= U'{' && c <= U'~');
}

/// Words with one mark of punctuation split off at the end, else at the start: "(hi)" gives "(hi" and ")", as
/// chrF++.py.
inline std::vector<std::u32string_view> chrf_words(std::u32string_view line) {
  std::vector<std::u32string_view> words;
  for (const auto word : split_words(line)) {
    if (word.size() > 1 && is_ascii_punctuation(word.back())) {
      words.push_back(word.substr(0, word.size() - 1));
      words.push_back(word.substr(word.size() - 1));
    } else if (word.size() > 1 && is_ascii_punctuation(word.front())) {
      words.push_back(word.substr(0, 1));
      words.push_back(word.substr(1));
    } else {
      words.push_back(word);
    }
  }
  return words;
}

inline NgramCounts count_characters(std::u32string_view text, std::size_t order) {
  NgramCounts counts;
  for (std::size_t i = 0; i + order <= text.size(); ++i) ++counts[std::u32string(text.substr(i, order))];
  return counts;
}

inline NgramCounts count_words(const std::vector<std::u32string_view>& words, std::size_t order) {
  NgramCounts counts;
  for (std::size_t i = 0; i + order <= words.size(); ++i) {
    std::u32string key(words[i]);
    for (std::size_t j = 1; j < order; ++j) (key += U' ') += words[i + j];
    ++counts[key];
  }
  return counts;
}

/// Sums for one order: n-grams of the hypotheses, of the references, in both.
struct ChrfCounts {
  std::size_t hypothesis = 0, reference = 0, match = 0;

  void add(const NgramCounts& hyp, const NgramCounts& ref) {
    std::size_t all = 0;
    for (const auto& [ngram, times] : hyp) {
      all += times;
      if (const auto it = ref.find(ngram); it != ref.end()) match += std::min(times, it->second);
    }
    if (!ref.empty()) hypothesis += all;  // a segment whose reference has no such n-gram cannot cost precision
    for (const auto& entry : ref) reference += entry.second;
  }
};

}  // namespace detail

/// chrF of `hypotheses` against one reference each: mixed case, white space removed, effective order.
/// Throws Error when the lists differ in length or are empty, or a segment is not UTF-8.
/// Source: sacreBLEU 2.6 metrics/chrf.py.
inline ChrfScore corpus_chrf(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references,
                             ChrfKind kind = ChrfKind::chrf2) {
  require(hypotheses.size() == references.size(), "chrF: ", hypotheses.size(), " hypotheses for ", references.size(),
          " references");
  require(!hypotheses.empty(), "chrF: no segments");
  constexpr std::size_t chars = ChrfScore::char_order;
  const std::size_t words = kind == ChrfKind::chrf2 ? 0 : 2;
  std::array<detail::ChrfCounts, chars + 2> counts{};
  const auto without_space = [](std::u32string_view line) {
    std::u32string out;
    for (const char32_t c : line)
      if (!is_unicode_space(c)) out.push_back(c);
    return out;
  };
  for (std::size_t s = 0; s < hypotheses.size(); ++s) {
    const std::u32string hypothesis = decode_utf8(hypotheses[s]), reference = decode_utf8(references[s]);
    const std::u32string hyp_chars = without_space(hypothesis), ref_chars = without_space(reference);
    for (std::size_t n = 0; n < chars; ++n)
      counts[n].add(detail::count_characters(hyp_chars, n + 1), detail::count_characters(ref_chars, n + 1));
    if (words == 0) continue;
    const auto hyp_words = detail::chrf_words(hypothesis), ref_words = detail::chrf_words(reference);
    for (std::size_t n = 0; n < words; ++n)
      counts[chars + n].add(detail::count_words(hyp_words, n + 1), detail::count_words(ref_words, n + 1));
  }
  ChrfScore result;
  for (std::size_t n = 0; n < chars + words; ++n) {
    if (counts[n].hypothesis == 0 || counts[n].reference == 0) continue;
    result.precision += static_cast<double>(counts[n].match) / static_cast<double>(counts[n].hypothesis);
    result.recall += static_cast<double>(counts[n].match) / static_cast<double>(counts[n].reference);
    ++result.orders;
  }
  if (result.orders == 0) return result;
  result.precision /= static_cast<double>(result.orders);
  result.recall /= static_cast<double>(result.orders);
  constexpr double factor = 4;  // beta squared
  if (result.precision + result.recall > 0)
    result.score = 100 * (1 + factor) * result.precision * result.recall / (factor * result.precision + result.recall);
  return result;
}

/// What must be told beside the number, in sacreBLEU's form.
inline std::string chrf_signature(ChrfKind kind) {
  return join("nrefs:1|case:mixed|eff:yes|nc:6|nw:", kind == ChrfKind::chrf2 ? 0 : 2, "|space:no|version:sparsemoe-",
              SPARSEMOE_VERSION);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

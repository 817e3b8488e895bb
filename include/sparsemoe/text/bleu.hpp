// SPDX-License-Identifier: Apache-2.0
// bleu.hpp -- corpus BLEU (Papineni et al., 2002) with one reference, number for number what sacreBLEU prints.
// Main idea: the tokenizers are hand-written scans of sacreBLEU's regular expressions over code points, in their order,
// so a score can be compared with published ones. Checked against sacreBLEU 2.6 in tests/test_metrics.cpp.
// Read next: chrf.hpp; language.hpp for the tokenizer of a language.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/text/language.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// `none`: split at white space. `mteval13a`: WMT's mteval-v13a, the default. `zh`: each Chinese character a token, the
/// rest as 13a. `characters`: every character that is not white space. sacreBLEU's `intl` is left out: it needs the
/// Unicode category of every character.
enum class BleuTokenizer { none, mteval13a, zh, characters };

/// The name sacreBLEU gives the tokenizer in its signature.
inline std::string_view to_string(BleuTokenizer tokenizer) {
  switch (tokenizer) {
    case BleuTokenizer::none: return "none";
    case BleuTokenizer::mteval13a: return "13a";
    case BleuTokenizer::zh: return "zh";
    case BleuTokenizer::characters: return "char";
  }
  fail("unknown BLEU tokenizer");
}

/// The tokenizer called `name` in a signature. Throws Error that lists the known names.
inline BleuTokenizer bleu_tokenizer_named(std::string_view name) {
  for (const auto t : {BleuTokenizer::none, BleuTokenizer::mteval13a, BleuTokenizer::zh, BleuTokenizer::characters})
    if (to_string(t) == name) return t;
  fail("unknown BLEU tokenizer '", name, "': expected none, 13a, zh or char");
}

/// The tokenizer for a target language, by any of its codes: "zh_CN", "zho_Hans", "jpn". Chinese languages are scored
/// with zh, Japanese by characters (sacreBLEU's own choice needs MeCab and a dictionary); Korean has spaces and is
/// scored with 13a.
inline BleuTokenizer bleu_tokenizer_for(std::string_view language) {
  const std::string base = base_language(language);
  for (const std::string_view chinese : {"zh", "yue", "wuu", "nan", "hak", "gan", "hsn", "cjy", "czh", "lzh"})
    if (base == chinese) return BleuTokenizer::zh;
  if (base == "ja") return BleuTokenizer::characters;
  return BleuTokenizer::mteval13a;
}

/// Counts and score of one corpus. Precisions and score are percentages.
struct BleuScore {
  static constexpr std::size_t max_order = 4;
  double score = 0;
  std::array<double, max_order> precisions{};
  double brevity_penalty = 1;
  std::array<std::size_t, max_order> matches{};
  std::array<std::size_t, max_order> totals{};
  std::size_t hypothesis_length = 0;
  std::size_t reference_length = 0;
};

namespace detail {

inline void replace_all(std::u32string& text, std::u32string_view from, std::u32string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::u32string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

/// ASCII punctuation and symbols except ' , - . : the class [\{-\~\[-\` -\&\(-\+\:-\@\/].
constexpr bool is_13a_symbol(char32_t c) noexcept {
  return (c >= U'{' && c <= U'~') || (c >= U'[' && c <= U'`') || (c >= U' ' && c <= U'&') || (c >= U'(' && c <= U'+') ||
         (c >= U':' && c <= U'@') || c == U'/';
}

/// Replaces every non-overlapping pair (first, second), leftmost first, as a regular expression of two classes does.
template <class First, class Second, class Emit>
std::u32string replace_pairs(std::u32string_view in, First first, Second second, Emit emit) {
  std::u32string out;
  out.reserve(in.size() + in.size() / 4);
  for (std::size_t at = 0; at < in.size();) {
    if (at + 1 < in.size() && first(in[at]) && second(in[at + 1])) {
      emit(out, in[at], in[at + 1]);
      at += 2;
    } else {
      out.push_back(in[at++]);
    }
  }
  return out;
}

/// sacreBLEU's tokenizer_re: the four substitutions that 13a and zh share, in their order.
inline std::u32string split_western(std::u32string_view line) {
  const auto spaced = [](std::u32string& out, char32_t a, char32_t b) { out.append({a, U' ', b, U' '}); };
  const auto not_digit = [](char32_t c) { return !is_ascii_digit(c); };
  const auto stop = [](char32_t c) { return c == U'.' || c == U','; };
  std::u32string symbols;
  symbols.reserve(line.size() * 3 / 2);
  for (const char32_t c : line) {
    if (is_13a_symbol(c)) {
      symbols.append({U' ', c, U' '});
    } else {
      symbols.push_back(c);
    }
  }
  std::u32string out = replace_pairs(symbols, not_digit, stop, spaced);
  out = replace_pairs(out, stop, not_digit, [](std::u32string& to, char32_t a, char32_t b) {
    to.append({U' ', a, U' ', b});
  });
  return replace_pairs(
      out, is_ascii_digit, [](char32_t c) { return c == U'-'; }, spaced);
}

/// sacreBLEU's _is_chinese_char. Two of its ranges are written with five hex digits, which Python reads as four and a
/// letter: they cover U+2001..U+2A6D and U+2F81..U+2FA1, not the planes that were meant. Equal scores need the same.
constexpr bool is_zh_character(char32_t c) noexcept {
  const auto in = [c](char32_t low, char32_t high) { return c >= low && c <= high; };
  return in(0x3400, 0x4DB5) || in(0x4E00, 0x9FBB) || in(0xF900, 0xFA2D) || in(0xFA30, 0xFA6A) || in(0xFA70, 0xFAD9) ||
         in(0x2001, 0x2A6D) || in(0x2F81, 0x2FA1) || in(0xFF00, 0xFFEF) || in(0x2E80, 0x2EFF) || in(0x3000, 0x303F) ||
         in(0x31C0, 0x31EF) || in(0x2F00, 0x2FDF) || in(0x2FF0, 0x2FFF) || in(0x3100, 0x312F) || in(0x31A0, 0x31BF) ||
         in(0xFE10, 0xFE1F) || in(0xFE30, 0xFE4F) || in(0x3200, 0x33FF);
}

}  // namespace detail

/// Tokens of one segment. Throws Error on malformed UTF-8.
inline std::vector<std::u32string> bleu_tokens(std::string_view segment, BleuTokenizer tokenizer) {
  const std::u32string codes = decode_utf8(segment);
  std::u32string line(strip_right(codes));
  switch (tokenizer) {
    case BleuTokenizer::none: break;
    case BleuTokenizer::mteval13a:
      detail::replace_all(line, U"<skipped>", U"");
      detail::replace_all(line, U"-\n", U"");
      detail::replace_all(line, U"\n", U" ");
      detail::replace_all(line, U"&quot;", U"\"");
      detail::replace_all(line, U"&amp;", U"&");  // before &lt; and &gt;, as sacreBLEU: "&amp;lt;" becomes "<"
      detail::replace_all(line, U"&lt;", U"<");
      detail::replace_all(line, U"&gt;", U">");
      line = detail::split_western(U" " + line + U" ");
      break;
    case BleuTokenizer::zh: {
      std::u32string spaced;
      for (const char32_t c : strip(line)) {
        if (detail::is_zh_character(c)) {
          spaced.append({U' ', c, U' '});
        } else {
          spaced.push_back(c);
        }
      }
      line = detail::split_western(spaced);
      break;
    }
    case BleuTokenizer::characters: {
      std::u32string spaced;
      for (const char32_t c : line) spaced.append({c, U' '});
      line = std::move(spaced);
      break;
    }
  }
  std::vector<std::u32string> tokens;
  for (const auto word : split_words(line)) tokens.emplace_back(word);
  return tokens;
}

/// BLEU of `hypotheses` against one reference each: exponential smoothing, mixed case, no effective order.
/// Throws Error when the lists differ in length or are empty, or a segment is not UTF-8.
/// Source: sacreBLEU 2.6 metrics/bleu.py (Post, 2018, "A call for clarity in reporting BLEU scores").
inline BleuScore corpus_bleu(const std::vector<std::string>& hypotheses, const std::vector<std::string>& references,
                             BleuTokenizer tokenizer = BleuTokenizer::mteval13a) {
  require(hypotheses.size() == references.size(), "BLEU: ", hypotheses.size(), " hypotheses for ", references.size(),
          " references");
  require(!hypotheses.empty(), "BLEU: no segments");
  constexpr char32_t between = 0x110000;  // no code point, so n-grams of different tokens never share a key
  using Counts = std::unordered_map<std::u32string, std::size_t>;
  const auto count = [](const std::vector<std::u32string>& tokens, std::size_t order) {
    Counts counts;
    for (std::size_t i = 0; i + order <= tokens.size(); ++i) {
      std::u32string key;
      for (std::size_t j = 0; j < order; ++j) (key += tokens[i + j]) += between;
      ++counts[key];
    }
    return counts;
  };
  BleuScore result;
  for (std::size_t s = 0; s < hypotheses.size(); ++s) {
    const auto hypothesis = bleu_tokens(hypotheses[s], tokenizer);
    const auto reference = bleu_tokens(references[s], tokenizer);
    result.hypothesis_length += hypothesis.size();
    result.reference_length += reference.size();
    for (std::size_t n = 0; n < BleuScore::max_order; ++n) {
      if (hypothesis.size() <= n) break;
      result.totals[n] += hypothesis.size() - n;
      const Counts wanted = count(reference, n + 1);
      for (const auto& [ngram, times] : count(hypothesis, n + 1))
        if (const auto it = wanted.find(ngram); it != wanted.end()) result.matches[n] += std::min(times, it->second);
    }
  }
  const auto hyp_length = static_cast<double>(result.hypothesis_length);
  const auto ref_length = static_cast<double>(result.reference_length);
  if (result.hypothesis_length < result.reference_length)
    result.brevity_penalty = result.hypothesis_length > 0 ? std::exp(1 - ref_length / hyp_length) : 0;
  if (std::all_of(result.matches.begin(), result.matches.end(), [](std::size_t m) { return m == 0; })) return result;
  double smooth = 1;
  for (std::size_t n = 0; n < BleuScore::max_order; ++n) {
    if (result.totals[n] == 0) break;
    const auto total = static_cast<double>(result.totals[n]);
    if (result.matches[n] == 0) {
      smooth *= 2;
      result.precisions[n] = 100 / (smooth * total);
    } else {
      result.precisions[n] = 100 * static_cast<double>(result.matches[n]) / total;
    }
  }
  double logs = 0;
  for (const double p : result.precisions) logs += p == 0 ? -9999999999.0 : std::log(p);  // sacreBLEU's floor
  result.score = result.brevity_penalty * std::exp(logs / BleuScore::max_order);
  return result;
}

/// What must be told beside the number, in sacreBLEU's form.
inline std::string bleu_signature(BleuTokenizer tokenizer) {
  return join("nrefs:1|case:mixed|eff:no|tok:", to_string(tokenizer), "|smooth:exp|version:sparsemoe-",
              SPARSEMOE_VERSION);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

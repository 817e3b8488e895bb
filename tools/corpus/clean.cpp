// SPDX-License-Identifier: Apache-2.0
// clean.cpp -- the functions of clean.hpp, which says what they do.
#include "clean.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "languages.hpp"
#include "sparsemoe/text/input.hpp"

namespace nmt {

std::string to_nfc(std::string_view text) {
  // Below U+0300 nothing combines: in UTF-8, no lead byte from 0xCC on.
  if (std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0xCC; }))
    return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const auto n =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  sparsemoe::require(n >= 0, "cannot normalise text: ", n < 0 ? utf8proc_errmsg(n) : "");
  std::string out(reinterpret_cast<const char*>(composed), static_cast<std::size_t>(n));
  std::free(composed);
  return out;
}

std::string clean_text(std::string_view text) {
  std::string out;
  bool space = false;
  for (std::size_t at = 0; at < text.size();) {
    const auto step = sparsemoe::read_utf8(text, at);
    sparsemoe::require(step.bytes > 0, "text: not valid UTF-8 at byte ", at);
    const char32_t c = step.code;
    if (sparsemoe::is_unicode_space(c) || c == 0x2581) {
      space = true;
    } else if (c != 0xAD && !sparsemoe::is_invisible(c)) {
      if (space && !out.empty()) out += ' ';
      space = false;
      out.append(text, at, step.bytes);
    }
    at += step.bytes;
  }
  return to_nfc(out);
}

void trim_item_end(std::string_view english, std::string& foreign) {
  const auto is_end = [](char c) { return c == ';' || c == ',' || c == '.'; };
  if (english.empty() || is_end(english.back()) || foreign.ends_with("..")) return;
  if (!foreign.empty() && is_end(foreign.back())) foreign.pop_back();
  while (!foreign.empty() && foreign.back() == ' ') foreign.pop_back();
}

bool is_address(std::string_view token) {
  if (token.find("://") != std::string_view::npos || token.find("www.") != std::string_view::npos) return true;
  const auto at = token.find('@');
  if (at != std::string_view::npos && at > 0 && token.find('.', at) != std::string_view::npos) return true;
  return token.size() > 2 && (token[0] == '/' || token.starts_with("~/")) &&
         token.find('/', 2) != std::string_view::npos;
}

TextFacts examine(std::string_view text) {
  TextFacts facts;
  std::string word, number;
  const auto close = [](std::string& run, std::vector<std::string>& list) {
    if (!run.empty()) list.push_back(std::move(run));
    run.clear();
  };
  char32_t before = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto step = sparsemoe::read_utf8(text, at);
    sparsemoe::require(step.bytes > 0, "text: not valid UTF-8 at byte ", at);
    at += step.bytes;
    const char32_t c = step.code;
    ++facts.characters;
    if (c != U' ') ++facts.visible;
    if (c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0xFFFD || (c >= 0xE000 && c <= 0xF8FF)) facts.broken = true;
    if ((before == 0xC3 || before == 0xC2) && c >= 0x80 && c <= 0xBF) facts.broken = true;  // UTF-8 read as Latin-1
    if (before == 0xE2 && c == 0x20AC) facts.broken = true;
    const char32_t lowered = to_lower(c);
    sparsemoe::append_utf8(facts.lower, lowered);
    if (is_letter(c)) {
      ++facts.letters;
      if (is_latin(c)) ++facts.latin;
      if (is_cyrillic(c)) ++facts.cyrillic;
      if (is_wide(c)) ++facts.asian;
      if (is_hangul(c)) ++facts.hangul;
      sparsemoe::append_utf8(word, lowered);
    } else {
      close(word, facts.words);
    }
    if (sparsemoe::is_ascii_digit(c)) {
      number += static_cast<char>(c);
    } else {
      close(number, facts.numbers);
    }
    before = c;
  }
  close(word, facts.words);
  close(number, facts.numbers);
  for (std::size_t at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    std::size_t end = at + 1;
    if (end < text.size() && text[end] == '#') ++end;
    const std::size_t first = end;
    while (end < text.size() && std::isalnum(static_cast<unsigned char>(text[end]))) ++end;
    if (end > first && end < text.size() && text[end] == ';') facts.entity = true;
  }
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find(' ', at), text.size());
    const std::string_view token = text.substr(at, end - at);
    if (is_address(token)) facts.address += count_characters(token);
    // A word for the purpose of length: something with a letter or digit in it.
    if (std::any_of(token.begin(), token.end(),
                    [](char ch) { return (ch & 0x80) || std::isalnum(static_cast<unsigned char>(ch)); }))
      ++facts.tokens;
    at = end + 1;
  }
  return facts;
}

namespace {

double share(std::size_t part, std::size_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::size_t common_numbers(std::vector<std::string> a, std::vector<std::string> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  std::size_t n = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j])
      ++n, ++i, ++j;
    else if (a[i] < b[j])
      ++i;
    else
      ++j;
  }
  return n;
}

}  // namespace

Verdict judge(const TextFacts& english, const TextFacts& foreign, Script script, double ratio, const Limits& limits) {
  if (english.broken || foreign.broken) return Verdict::broken;
  if (english.entity || foreign.entity) return Verdict::entities;
  if (english.characters > limits.max_characters || foreign.characters > limits.max_characters ||
      english.tokens > limits.max_english_words)
    return Verdict::too_long;
  if (english.tokens < limits.min_english_words || foreign.characters == 0) return Verdict::too_short;
  if (share(english.letters, english.visible) < limits.min_letters ||
      share(foreign.letters, foreign.visible) < limits.min_letters)
    return Verdict::no_letters;
  if (share(english.address, english.visible) > limits.max_address) return Verdict::address;
  if (english.lower == foreign.lower) return Verdict::untranslated;
  if (script == Script::latin) {
    const std::unordered_set<std::string_view> known(english.words.begin(), english.words.end());
    std::size_t words = 0, copied = 0;
    for (const auto& word : foreign.words) {
      if (count_characters(word) <= 2) continue;
      ++words;
      if (known.contains(word)) ++copied;
    }
    if (words >= 3 && share(copied, words) >= limits.max_copied) return Verdict::untranslated;
  }
  const double lengths =
      static_cast<double>(foreign.characters + 10) / (ratio * static_cast<double>(english.characters) + 10);
  if (lengths < limits.min_ratio || lengths > limits.max_ratio) return Verdict::length;
  if (const auto most = std::max(english.numbers.size(), foreign.numbers.size()); most > 0) {
    const auto common = common_numbers(english.numbers, foreign.numbers);
    // One number against none is often a numeral written as a word.
    if (std::min(english.numbers.size(), foreign.numbers.size()) > 0 || most > 1)
      if (share(common, most) < limits.min_numbers) return Verdict::numbers;
  }
  switch (script) {
    case Script::latin:
      return share(foreign.latin, foreign.letters) < limits.min_latin ? Verdict::script : Verdict::kept;
    case Script::cyrillic:
      return share(foreign.cyrillic, foreign.letters) < limits.min_cyrillic ? Verdict::script : Verdict::kept;
    case Script::hangul:
      return share(foreign.hangul, foreign.letters) < limits.min_asian ? Verdict::script : Verdict::kept;
    case Script::japanese:
    case Script::chinese:
      return share(foreign.asian, foreign.letters) < limits.min_asian ? Verdict::script : Verdict::kept;
    case Script::other: return Verdict::kept;
  }
  return Verdict::kept;
}

void WordOdds::learn(const std::vector<std::string>& english, const std::vector<std::string>& foreign) {
  for (const auto& word : english) ++counts_[word].english;
  for (const auto& word : foreign) ++counts_[word].foreign;
  english_ += static_cast<double>(english.size());
  foreign_ += static_cast<double>(foreign.size());
}

double WordOdds::mean(const std::vector<std::string>& words) const {
  if (words.size() < 3) return 0;
  double sum = 0;
  for (const auto& word : words) {
    const auto it = counts_.find(word);
    const Counts counts = it == counts_.end() ? Counts{} : it->second;
    sum += std::log((counts.foreign + 1.0) / (foreign_ + 1)) - std::log((counts.english + 1.0) / (english_ + 1));
  }
  return sum / static_cast<double>(words.size());
}

}  // namespace nmt

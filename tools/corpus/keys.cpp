// SPDX-License-Identifier: Apache-2.0
// keys.cpp -- the functions of keys.hpp, which says what they do.
#include "keys.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "clean.hpp"
#include "languages.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace nmt {

bool names_it(std::string_view word, const std::vector<std::string>& names) {
  if (word.size() < 2) return false;
  std::string part(word);
  std::replace(part.begin(), part.end(), '_', '-');
  for (const auto& name : names) {
    for (auto at = name.find(part); at != std::string::npos; at = name.find(part, at + 1)) {
      const auto end = at + part.size();
      const bool starts = at == 0 || name[at - 1] == '-' || (at == 3 && name.starts_with("lib"));
      if (starts &&
          (end == name.size() || name[end] == '-' || sparsemoe::is_ascii_digit(static_cast<unsigned char>(name[end]))))
        return true;
    }
  }
  return false;
}

std::vector<std::string> key_words(std::string_view text, const std::vector<std::string>& names) {
  std::vector<std::string> out;
  const auto put = [&out](std::string& word) {
    if (!word.empty()) out.push_back(std::move(word));
    word.clear();
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find(' ', at), text.size());
    const std::string_view token = text.substr(at, end - at);
    at = end + 1;
    if (is_address(token)) {
      out.emplace_back("url");
      continue;
    }
    std::string lower;
    for (std::size_t i = 0; i < token.size();) {
      const auto step = sparsemoe::read_utf8(token, i);
      sparsemoe::append_utf8(lower, to_lower(step.code));
      i += std::max<std::size_t>(step.bytes, 1);
    }
    std::string_view bare = lower;
    const auto mark = [](char c) { return !(c & 0x80) && !std::isalnum(static_cast<unsigned char>(c)) && c != '+'; };
    while (!bare.empty() && mark(bare.front())) bare.remove_prefix(1);
    while (!bare.empty() && mark(bare.back())) bare.remove_suffix(1);
    if (names_it(bare, names)) {
      out.emplace_back("n");
      continue;
    }
    std::string word;
    for (std::size_t i = 0; i < lower.size();) {
      const auto step = sparsemoe::read_utf8(lower, i);
      if (sparsemoe::is_ascii_digit(step.code)) {
        if (word.empty() || word.back() != '0') word += '0';
      } else if (is_letter(step.code)) {
        word.append(lower, i, step.bytes);
      } else {
        put(word);
      }
      i += std::max<std::size_t>(step.bytes, 1);
    }
    put(word);
  }
  return out;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) (out += word) += ' ';
  return out;
}

std::string text_key(std::string_view text) {
  std::string key = joined(key_words(text, {}));
  return key.empty() ? std::string(text) : key;
}

std::string family_of(std::string_view source) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  for (std::size_t i = 1; i < source.size(); ++i) {
    if (!digit(source[i]) || digit(source[i - 1])) continue;
    std::size_t end = i;
    while (end < source.size() && (digit(source[end]) || source[end] == '.')) ++end;
    if (end < source.size() && source[end] != '-' && source[end] != '+') continue;
    std::size_t cut = i;
    while (cut > 1 && (source[cut - 1] == '-' || source[cut - 1] == '.' || source[cut - 1] == '_')) --cut;
    if (cut >= 2) return std::string(source.substr(0, cut));
  }
  return std::string(source);
}

namespace detail {

std::vector<std::uint64_t> word_grams(const std::vector<std::string>& words) {
  std::vector<std::uint64_t> hashes, out;
  for (const auto& word : words) hashes.push_back(stable_hash(word));
  const std::size_t n = std::min<std::size_t>(3, hashes.size());
  for (std::size_t i = 0; n > 0 && i + n <= hashes.size(); ++i) {
    std::uint64_t h = n;
    for (std::size_t j = 0; j < n; ++j) h = (h ^ hashes[i + j]) * 0x9e3779b97f4a7c15u + (h >> 29);
    out.push_back(h);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace detail

}  // namespace nmt

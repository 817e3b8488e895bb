// keys.hpp -- what makes two segments alike: keys, package families, word 3-grams.
// Main idea: names, digits and punctuation are noise in package descriptions, so texts are compared without them; an
// inverted index over 3-grams compares a stream of texts with a fixed pool. Read next: split.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "clean.hpp"
#include "languages.hpp"

namespace nmt {

/// True when a lower-case word is one of the names or whole parts of one: "fast_image" in librust-fast-image-dev.
inline bool names_it(std::string_view word, const std::vector<std::string>& names) {
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

/// Lower-case words of a text, digits as 0, addresses as "url", the given names as "n", punctuation gone.
inline std::vector<std::string> key_words(std::string_view text, const std::vector<std::string>& names) {
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

inline std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) (out += word) += ' ';
  return out;
}

/// What is the same in two texts that count as the same, everywhere that text is divided or compared: its key words,
/// or, where it has none ("?!", a note of music), the text itself.
inline std::string text_key(std::string_view text) {
  std::string key = joined(key_words(text, {}));
  return key.empty() ? std::string(text) : key;
}

/// The family of a source package: its name up to the first version number, so that gcc-12 and gcc-13-cross are one.
inline std::string family_of(std::string_view source) {
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

/// Hashes of the word 3-grams, each once; a text of fewer words is one gram.
inline std::vector<std::uint64_t> word_grams(const std::vector<std::string>& words) {
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

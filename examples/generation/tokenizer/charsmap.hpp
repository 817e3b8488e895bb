// SPDX-License-Identifier: Apache-2.0
// charsmap.hpp -- SentencePiece's precompiled_charsmap: which characters become which, as a double array over bytes
// and a block of strings. Every index is checked: the bytes come from a file.
// Read next: normalizer.hpp, sentencepiece_file.hpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/io/file.hpp"

namespace generation {

class Charsmap {
 public:
  /// `bytes`: the length of the array in bytes (4, little endian), the array, the strings, each closed by a NUL.
  /// Throws FileError, with `path`, for an array that leads out of itself.
  Charsmap(std::string_view bytes, const std::filesystem::path& path) {
    const auto bad = [&] { sparsemoe::fail_file(path, "its precompiled_charsmap is damaged"); };
    if (bytes.size() < 4) bad();
    const std::uint64_t size = word(bytes.data());
    if (size < 1024 || size % 4 != 0 || size > bytes.size() - 4) bad();
    units_.resize(size / 4);
    for (std::size_t i = 0; i < units_.size(); ++i) units_[i] = word(bytes.data() + 4 + 4 * i);
    strings_ = bytes.substr(4 + size);
    if (strings_.empty() || strings_.back() != '\0') bad();
    if (!closed()) bad();
  }

  /// What the shortest entry that `text` starts with becomes, or nothing. transformers' fast tokenizers ask for whole
  /// grapheme clusters and characters, so the shortest is what they take.
  std::optional<std::string_view> find(std::string_view text) const {
    std::size_t at = offset(units_[0]);
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte == 0) return std::nullopt;
      const std::uint32_t unit = units_[at ^ byte];
      if (label(unit) != byte) return std::nullopt;
      at = (at ^ byte) ^ offset(unit);
      if (has_leaf(unit)) return std::string_view(strings_.data() + value(units_[at]));
    }
    return std::nullopt;
  }

 private:
  static std::uint32_t word(const char* p) {
    const auto byte = [&](int i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(p[i])); };
    return byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
  }
  // The units of a Darts double array.
  static bool has_leaf(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
  static std::uint32_t value(std::uint32_t unit) { return unit & 0x7FFFFFFFu; }
  static std::uint32_t label(std::uint32_t unit) { return unit & 0x800000FFu; }
  static std::size_t offset(std::uint32_t unit) {
    return static_cast<std::size_t>(unit >> 10) << ((unit & 1u << 9) >> 6);
  }

  /// Whether no text leads out of the array, nor to a string that is not there.
  bool closed() const {
    std::vector<bool> seen(units_.size());
    std::vector<std::size_t> open{offset(units_[0])};
    while (!open.empty()) {
      const std::size_t at = open.back();
      open.pop_back();
      if ((at | 255) >= units_.size()) return false;
      if (seen[at]) continue;
      seen[at] = true;
      for (std::size_t byte = 0; byte < 256; ++byte) {
        const std::uint32_t unit = units_[at ^ byte];
        if (label(unit) != byte) continue;
        const std::size_t next = (at ^ byte) ^ offset(unit);
        if (next >= units_.size()) return false;
        if (has_leaf(unit) && value(units_[next]) >= strings_.size()) return false;
        open.push_back(next);
      }
    }
    return true;
  }

  std::vector<std::uint32_t> units_;
  std::string strings_;
};

}  // namespace generation

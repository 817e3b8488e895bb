// SPDX-License-Identifier: Apache-2.0
// utf8.hpp -- strict UTF-8: validate with a byte offset, decode to code points, encode, split like Python's str.
// Everything that counts characters (BLEU, chrF, corpus filters) works on code points, decoded here and nowhere else.
// Read next: input.hpp, bleu.hpp.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One code point read from a byte sequence; `bytes` is 0 where the sequence is not valid UTF-8.
struct Utf8Step {
  char32_t code = 0;
  std::size_t bytes = 0;
};

/// Reads the code point at `at`. Refuses overlong forms, surrogates, values past U+10FFFF and cut-off sequences
/// (Unicode 15, table 3-7).
inline Utf8Step read_utf8(std::string_view text, std::size_t at) noexcept {
  if (at >= text.size()) return {};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(text[at + i])); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {static_cast<char32_t>(lead), 1};
  std::size_t length = 0;
  char32_t code = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {  // C0 and C1 could only start overlong forms
    length = 2;
    code = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    code = lead & 0x0Fu;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    code = lead & 0x07u;
  } else {
    return {};
  }
  if (text.size() - at < length) return {};
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return {};
    code = (code << 6) | (byte(i) & 0x3Fu);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (overlong || surrogate || code > 0x10FFFF) return {};
  return {code, length};
}

/// Byte offset of the first sequence that is not valid UTF-8, or nothing.
inline std::optional<std::size_t> find_invalid_utf8(std::string_view text) noexcept {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text, at);
    if (step.bytes == 0) return at;
    at += step.bytes;
  }
  return std::nullopt;
}

/// Throws Error naming `what` and the byte offset unless `text` is valid UTF-8.
inline void require_utf8(std::string_view text, std::string_view what) {
  if (const auto bad = find_invalid_utf8(text)) fail(what, ": not valid UTF-8 at byte ", *bad);
}

/// Code points of `text`. Throws Error with the byte offset on malformed input.
inline std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text, at);
    require(step.bytes != 0, "text: not valid UTF-8 at byte ", at);
    out.push_back(step.code);
    at += step.bytes;
  }
  return out;
}

/// Appends one code point. Throws Error for surrogates and values past U+10FFFF.
inline void append_utf8(std::string& out, char32_t code) {
  require(code <= 0x10FFFF && !(code >= 0xD800 && code <= 0xDFFF), "cannot encode ", static_cast<unsigned long>(code),
          " as UTF-8: not a Unicode scalar value");
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

/// UTF-8 of a sequence of code points. Throws Error as append_utf8.
inline std::string encode_utf8(std::u32string_view codes) {
  std::string out;
  out.reserve(codes.size());
  for (const char32_t code : codes) append_utf8(out, code);
  return out;
}

/// True where Python's str.isspace() is: what str.split() and str.strip() take for white space, NBSP and the
/// ideographic space included, the zero-width space not.
constexpr bool is_unicode_space(char32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// True for 0-9 only: the class [0-9] of the BLEU tokenizers, whatever other digits Unicode has.
constexpr bool is_ascii_digit(char32_t c) noexcept { return c >= U'0' && c <= U'9'; }

/// The text without white space at its end, as Python's str.rstrip().
inline std::u32string_view strip_right(std::u32string_view text) noexcept {
  while (!text.empty() && is_unicode_space(text.back())) text.remove_suffix(1);
  return text;
}

/// The text without white space at either end, as Python's str.strip().
inline std::u32string_view strip(std::u32string_view text) noexcept {
  text = strip_right(text);
  while (!text.empty() && is_unicode_space(text.front())) text.remove_prefix(1);
  return text;
}

/// The words between white space, as Python's str.split(); the views point into `text`.
inline std::vector<std::u32string_view> split_words(std::u32string_view text) {
  std::vector<std::u32string_view> words;
  for (std::size_t at = 0; at < text.size();) {
    while (at < text.size() && is_unicode_space(text[at])) ++at;
    const std::size_t start = at;
    while (at < text.size() && !is_unicode_space(text[at])) ++at;
    if (at > start) words.push_back(text.substr(start, at - start));
  }
  return words;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

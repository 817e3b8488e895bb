// SPDX-License-Identifier: Apache-2.0
// input.hpp -- text as people send it: what counts as an empty line, and bytes that are no UTF-8. Read next: utf8.hpp.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "sparsemoe/text/utf8.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// True for characters that leave no mark: white space of every kind, zero-width spaces and joiners, direction marks,
/// the byte order mark.
constexpr bool is_invisible(char32_t c) noexcept {
  return is_unicode_space(c) || c == 0x061C || c == 0x180E || (c >= 0x200B && c <= 0x200F) || (c >= 0x2060 && c <= 0x2064) ||
         c == 0xFEFF;
}

/// True if there is nothing to read in `text` (UTF-8): a line of white space is an empty line.
inline bool is_blank(std::string_view text) noexcept {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text, at);
    if (step.bytes == 0 || !is_invisible(step.code)) return false;
    at += step.bytes;
  }
  return true;
}

/// Text with U+FFFD in place of what was no UTF-8.
struct RepairedText {
  std::string text;
  std::size_t replaced = 0;  // characters U+FFFD that it got
};

/// One U+FFFD for every longest part that a character could have begun with, else for the byte: Unicode 15, section
/// 3.9, and what Python's errors="replace" and browsers do.
inline RepairedText repair_utf8(std::string_view text) {
  RepairedText out;
  out.text.reserve(text.size());
  const auto byte = [&](std::size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(text[i])); };
  for (std::size_t at = 0; at < text.size();) {
    if (const Utf8Step step = read_utf8(text, at); step.bytes != 0) {
      out.text.append(text, at, step.bytes);
      at += step.bytes;
      continue;
    }
    out.text += "\xEF\xBF\xBD";
    ++out.replaced;
    const unsigned lead = byte(at++);
    if (lead < 0xC2 || lead > 0xF4) continue;
    const std::size_t rest = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    // The second byte has ranges of its own: no overlong forms, no surrogates, nothing past U+10FFFF.
    unsigned low = lead == 0xE0   ? 0xA0
                   : lead == 0xF0 ? 0x90
                                  : 0x80,
             high = lead == 0xED   ? 0x9F
                    : lead == 0xF4 ? 0x8F
                                   : 0xBF;
    for (std::size_t i = 0; i + 1 <= rest && at < text.size() && byte(at) >= low && byte(at) <= high; ++i) {
      ++at;
      low = 0x80, high = 0xBF;
    }
  }
  return out;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

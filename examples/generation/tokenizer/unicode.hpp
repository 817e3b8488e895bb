// SPDX-License-Identifier: Apache-2.0
// unicode.hpp -- the classes of characters that tokenizers ask for, as Rust's regex and Python's str have them, and
// grapheme clusters. Read next: normalizer.hpp.
#pragma once

#include <utf8proc.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "sparsemoe/text/utf8.hpp"

namespace generation {

/// The code point at `at`; a byte that is not UTF-8 counts as U+FFFD of one byte.
inline sparsemoe::Utf8Step step_at(std::string_view text, std::size_t at) {
  const sparsemoe::Utf8Step step = sparsemoe::read_utf8(text, at);
  return step.bytes != 0 ? step : sparsemoe::Utf8Step{0xFFFD, 1};
}

/// Unicode's White_Space: Rust's char::is_whitespace and \s. Python's str.isspace has U+001C to U+001F too.
constexpr bool is_white_space(char32_t c) { return sparsemoe::is_unicode_space(c) && !(c >= 0x1C && c <= 0x1F); }

/// \w of Rust's regex: letters, marks, decimal digits, connectors and joiners.
inline bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200C || c == 0x200D;
  }
}

/// Bytes of the longest run at the start of `text` whose characters are all `is`.
template <class Is>
std::size_t run_at_start(std::string_view text, Is&& is) {
  std::size_t at = 0;
  while (at < text.size()) {
    const auto step = step_at(text, at);
    if (!is(step.code)) break;
    at += step.bytes;
  }
  return at;
}

/// Where the last character of a text that is not empty starts.
inline std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u) --at;
  return at;
}

/// Bytes of the longest run at the end of `text` whose characters are all `is`.
template <class Is>
std::size_t run_at_end(std::string_view text, Is&& is) {
  std::size_t end = text.size();
  while (end > 0) {
    const std::size_t at = last_character(text.substr(0, end));
    if (!is(step_at(text, at).code)) break;
    end = at;
  }
  return text.size() - end;
}

/// Bytes of the extended grapheme cluster at `at`.
inline std::size_t grapheme_bytes(std::string_view text, std::size_t at) {
  auto step = step_at(text, at);
  std::size_t end = at + step.bytes;
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    const auto next = step_at(text, end);
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(step.code),
                                         static_cast<utf8proc_int32_t>(next.code), &state))
      break;
    step = next;
    end += next.bytes;
  }
  return end - at;
}

/// `text` with every `from`, which is not empty, as `to`.
inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    out += text.substr(at, found == std::string_view::npos ? found : found - at);
    if (found == std::string_view::npos) return out;
    out += to;
    at = found + from.size();
  }
}

}  // namespace generation

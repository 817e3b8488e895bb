// SPDX-License-Identifier: Apache-2.0
// terminal.hpp -- text on its way to a person: nothing that a file, an option or the environment holds may steer the
// terminal. Control characters, marks that turn the direction of writing and bytes that are no UTF-8 become escapes.
// Read next: text/utf8.hpp; run_main.hpp, which prints what ends a program.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// True where a terminal shows the character and does nothing else with it.
constexpr bool is_printable(char32_t c) noexcept {
  if (c < 0x20 || (c >= 0x7F && c < 0xA0)) return false;        // C0, DEL, C1
  if (c == 0x061C || c == 0x200E || c == 0x200F) return false;  // marks of direction
  if (c >= 0x2028 && c <= 0x202E) return false;                 // line and paragraph separator, embeddings, overrides
  if (c >= 0x2066 && c <= 0x206F) return false;                 // isolates and other retired format characters
  if (c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB)) return false;
  return !(c >= 0xE0000 && c <= 0xE007F);  // tags: invisible text
}

enum class Lines { escape, keep };

/// `text` with every character that is not printable as an escape: \n, \t, \x1b, \u202e; a byte that is no UTF-8 as
/// \xff. Lines::keep leaves line feeds as they are, for texts of several lines that are ours.
inline std::string printable(std::string_view text, Lines lines = Lines::escape) {
  std::string out;
  out.reserve(text.size());
  const auto hex = [&](const char* form, unsigned value) {
    char escape[16];
    std::snprintf(escape, sizeof escape, form, value);
    out += escape;
  };
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text, at);
    const std::size_t bytes = step.bytes == 0 ? 1 : step.bytes;
    const auto code = static_cast<unsigned>(step.code);
    if (step.bytes == 0) {
      hex("\\x%02x", static_cast<unsigned char>(text[at]));
    } else if (is_printable(step.code) || (code == '\n' && lines == Lines::keep)) {
      out += text.substr(at, bytes);
    } else if (code == '\n' || code == '\t' || code == '\r') {
      out += code == '\n' ? "\\n" : code == '\t' ? "\\t" : "\\r";
    } else {
      hex(code < 0x80 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
    }
    at += bytes;
  }
  return out;
}

/// One line on standard error, printable. What cannot be written there is lost: there is nowhere else to say it.
template <class... Parts>
void say(const Parts&... parts) {
  std::fputs((printable(join(parts...)) + "\n").c_str(), stderr);
}

/// say("warning: ", ...): something to know about that does not stop the program.
template <class... Parts>
void warn(const Parts&... parts) {
  say("warning: ", parts...);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// parse.cpp -- the functions of parse.hpp, which says what they do.
#include "parse.hpp"

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "languages.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace nmt {

namespace {

/// Calls `each(line, number)` for every line, without its end.
template <class Each>
void for_each_line(std::string_view text, Each each) {
  std::size_t number = 0;
  while (!text.empty()) {
    const auto end = text.find('\n');
    each(text.substr(0, end), ++number);
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
}

}  // namespace

Translations parse_translation(std::string_view file, std::string_view language, std::string_view name) {
  const std::string field = sparsemoe::join("Description-", language, ":");
  Translations out;
  Stanza now;
  bool in_description = false, any = false, described = false;
  std::size_t first = 0;
  const auto finish = [&] {
    if (any) {
      sparsemoe::require(!now.package.empty() && !now.md5.empty(), name, ":", first,
                         ": a stanza without Package or Description-md5");
      if (sparsemoe::find_invalid_utf8(now.text)) {
        ++out.malformed;
      } else if (described) {
        out.stanzas.push_back(std::move(now));
      }
    }
    now = {};
    in_description = any = described = false;
  };
  for_each_line(file, [&](std::string_view line, std::size_t number) {
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) return finish();
    if (line[0] == ' ' || line[0] == '\t') {
      sparsemoe::require(any, name, ":", number, ": a continuation line before any field");
      if (in_description) (now.text += '\n') += line;
      return;
    }
    const auto colon = line.find(':');
    sparsemoe::require(colon != std::string_view::npos, name, ":", number, ": expected 'Field: value'");
    if (!any) first = number;
    any = true;
    in_description = false;
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && value[0] == ' ') value.remove_prefix(1);
    if (line.starts_with("Package:")) {
      now.package = value;
    } else if (line.starts_with("Description-md5:")) {
      now.md5 = value;
    } else if (line.starts_with(field)) {
      now.text = value;
      in_description = described = true;
    }
  });
  finish();
  return out;
}

void parse_sources(std::string_view file, std::unordered_map<std::string, std::string>& sources) {
  std::string package, source;
  const auto finish = [&] {
    if (!package.empty()) sources.emplace(package, source.empty() ? package : source);
    package.clear();
    source.clear();
  };
  for_each_line(file, [&](std::string_view line, std::size_t) {
    if (line.empty()) return finish();
    if (line.starts_with("Package: ")) package = line.substr(9);
    if (line.starts_with("Source: ")) source = line.substr(8, line.find(' ', 8) - 8);  // "name (version)"
  });
  finish();
}

namespace {

// Length of the bullet and the blanks after it at the start of `text`, 0 if there is none. At the normal indent
// "o", "+" and "1." do not count: there they are mostly parts of wrapped sentences.
std::size_t bullet_length(std::string_view text, bool indented) {
  std::size_t n = 0;
  for (const std::string_view mark : {"•", "·", "‣", "◦", "●", "–", "—", "−"})  // dashes: the French teams' bullet
    if (text.starts_with(mark)) n = mark.size();
  if (n == 0 && !text.empty() &&
      (text[0] == '*' || text[0] == '-' || (indented && (text[0] == '+' || text[0] == 'o')))) {
    n = 1;
  } else if (n == 0 && indented) {
    while (n < text.size() && n < 2 && text[n] >= '0' && text[n] <= '9') ++n;
    if (n == 0 || n >= text.size() || (text[n] != '.' && text[n] != ')')) return 0;
    ++n;
  }
  const std::size_t mark = n;
  for (bool blank = true; blank;) {  // a no-break space is usual in French, U+22C5 a no-break space gone wrong
    blank = false;
    for (const std::string_view space : {" ", "\u00a0", "\u22c5", "\u202f"})
      if (text.substr(n).starts_with(space)) n += space.size(), blank = true;
  }
  return mark > 0 && n > mark && n < text.size() ? n : 0;
}

}  // namespace

Description parse_description(std::string_view text) {
  Description out;
  std::vector<Unit> units;
  std::size_t item_indent = 0;  // of the open list item, 0 when none is open
  const auto close_paragraph = [&] {
    if (!units.empty()) out.paragraphs.push_back(std::move(units));
    units.clear();
    item_indent = 0;
  };
  bool open_text = false;
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    if (number == 1) {
      out.short_line = line;
      return;
    }
    std::size_t indent = 0, width = 0;
    for (; indent < line.size() && (line[indent] == ' ' || line[indent] == '\t'); ++indent)
      width += line[indent] == '\t' ? 8 : 1;
    const std::string_view body = line.substr(indent);
    if (body.empty() || (body == "." && indent == 1)) {
      open_text = false;
      return close_paragraph();
    }
    if (const std::size_t bullet = bullet_length(body, width >= 2); bullet > 0) {
      units.push_back({UnitKind::item, {std::string(body.substr(bullet))}});
      item_indent = width;
      open_text = false;
    } else if (item_indent > 0 && width > item_indent) {
      units.back().lines.emplace_back(body);
    } else if (width >= 2) {
      item_indent = 0;
      open_text = false;
    } else {
      item_indent = 0;
      if (!open_text) units.push_back({UnitKind::text, {}});
      units.back().lines.emplace_back(body);
      open_text = true;
    }
  });
  close_paragraph();
  return out;
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// parse.hpp -- reads Translation-XX and Packages files, and takes a description apart into paragraphs and units.
// Main idea: a unit is a run of text lines or one list item, still wrapped as it was; preformatted lines are dropped
// because they are tables, commands and logos. Read next: align.hpp.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nmt {

/// One description: the package that carries it, the md5 of its English, its lines joined with '\n'.
struct Stanza {
  std::string package, md5, text;
};

struct Translations {
  std::vector<Stanza> stanzas;
  std::size_t malformed = 0;  ///< stanzas left out because their text is not UTF-8
};

/// The stanzas of Translation-`language`. `name` is for messages. Throws Error with name:line when the text is not a
/// list of stanzas with Package and Description-md5; a stanza in another language's field is skipped.
Translations parse_translation(std::string_view file, std::string_view language, std::string_view name);

/// Source package of every package in a Packages file; a package without Source is its own.
void parse_sources(std::string_view file, std::unordered_map<std::string, std::string>& sources);

enum class UnitKind : char { text = 'p', item = 'l' };

struct Unit {
  UnitKind kind = UnitKind::text;
  std::vector<std::string> lines;  ///< without indent and bullet
};

struct Description {
  std::string short_line;
  std::vector<std::vector<Unit>> paragraphs;
};

/// Takes a description apart: the short line, then paragraphs between " ." lines. A bulleted line starts a list item,
/// deeper lines continue it, other lines indented by two or more are preformatted and dropped.
Description parse_description(std::string_view text);

}  // namespace nmt

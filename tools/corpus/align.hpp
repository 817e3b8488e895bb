// SPDX-License-Identifier: Apache-2.0
// align.hpp -- from two descriptions to pairs of segments: unwrap lines, match units, split and align sentences.
// Main idea: structure first (paragraphs and list items of both sides must agree in kind), lengths second (Gale and
// Church, 1993, "A program for aligning sentences in bilingual corpora"); whatever looks wrong stays a whole paragraph.
// Read next: clean.hpp.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "languages.hpp"
#include "parse.hpp"

namespace nmt {

/// How often each word occurs inside lines: Korean text was wrapped in the middle of words, and only the words
/// themselves tell where a line end was a space.
using WordCounts = std::unordered_map<std::string, int>;

/// Counts the words inside the lines of one unit, leaving out the first and last word, which may be cut.
void count_words_inside(const Unit& unit, WordCounts& counts);

/// The lines of a unit as one line. `words` serves Korean only.
std::string unwrap(const std::vector<std::string>& lines, Script script, const WordCounts& words);

/// Splits a line after . ! ? and closing marks where white space and then no lower-case letter follow, and after the
/// full-width stops. No sentence is empty; joined (with a space, or none after a full-width stop) they are the line.
std::vector<std::string> split_sentences(std::string_view text);

/// A bead: how many sentences of each side belong together.
struct Bead {
  int english = 0, foreign = 0;
};

/// Beads 1-1, 1-2, 2-1, 2-2 that cover both sides at the lowest cost; empty when none do (1 against 3). `ratio` is how
/// many foreign characters one English character makes.
std::vector<Bead> gale_church(const std::vector<std::size_t>& english, const std::vector<std::size_t>& foreign,
                              double ratio);

/// One segment in two languages. `kind`: s short line, t sentence of a paragraph, p whole paragraph, l list item.
struct Pair {
  std::string english, foreign;
  char kind = 's';
};

/// A description with its units unwrapped and cleaned.
struct FlatDescription {
  struct Line {
    UnitKind kind = UnitKind::text;
    std::string text;
  };
  std::string short_line;
  std::vector<std::vector<Line>> paragraphs;
};

FlatDescription flatten(const Description& description, Script script, const WordCounts& words);

/// The units of both sides that belong together: short line, then paragraph by paragraph where the kinds of their
/// units agree, else along the flat list of units where that agrees, else the short line alone.
std::vector<Pair> align_units(const FlatDescription& english, const FlatDescription& foreign);

/// Splits one aligned paragraph into sentence pairs, or returns it whole when the sentences do not match in length.
void split_paragraph(const Pair& paragraph, Script script, double ratio, std::vector<Pair>& out);

}  // namespace nmt

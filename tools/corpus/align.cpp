// SPDX-License-Identifier: Apache-2.0
// align.cpp -- the functions of align.hpp, which says what they do.
#include "align.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "clean.hpp"
#include "languages.hpp"
#include "parse.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace nmt {

namespace {

char32_t last_code(std::string_view text) {
  std::size_t at = text.size();
  while (at > 0 && (text[at - 1] & 0xC0) == 0x80) --at;
  return at == 0 ? 0 : sparsemoe::read_utf8(text, at - 1).code;
}

std::string_view last_word(std::string_view text) { return text.substr(text.find_last_of(' ') + 1); }

std::string_view first_word(std::string_view text) { return text.substr(0, text.find(' ')); }

int occurrences(const WordCounts& words, std::string_view word) {
  const auto it = words.find(std::string(word));
  return it == words.end() ? 0 : it->second;
}

// True when the end of a line cut a Korean word: the joined word is known and better known than its parts.
bool cuts_word(const WordCounts& words, std::string_view left, std::string_view right) {
  const std::string_view a = last_word(left), b = first_word(right);
  const int whole = occurrences(words, sparsemoe::join(a, b));
  return whole > 0 && whole >= std::min(occurrences(words, a), occurrences(words, b));
}

// "Vor- und Nachteile": after these words a hyphen at a line's end stands for the rest of the word.
bool is_conjunction(std::string_view word) {
  static const std::unordered_set<std::string_view> words = {
      "and", "or", "und", "oder", "bzw.", "og", "eller", "et", "ou", "e", "o", "y", "i", "a", "en", "of", "ja", "tai"};
  return words.contains(word);
}

}  // namespace

void count_words_inside(const Unit& unit, WordCounts& counts) {
  for (const auto& line : unit.lines) {
    std::string_view rest = line;
    std::size_t at = rest.find(' ');
    while (at != std::string_view::npos) {
      rest.remove_prefix(at + 1);
      at = rest.find(' ');
      if (at != std::string_view::npos && at > 0) ++counts[std::string(rest.substr(0, at))];
    }
  }
}

std::string unwrap(const std::vector<std::string>& lines, Script script, const WordCounts& words) {
  std::string out;
  for (const auto& raw : lines) {
    std::string_view line = raw;
    while (!line.empty() && (line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (!out.empty()) {
      const char32_t left = last_code(out), right = sparsemoe::read_utf8(line, 0).code;
      bool space = true;
      if (left == U'-' && out.size() > 1 && out[out.size() - 2] != ' ' && out[out.size() - 2] != '-') {
        space = is_conjunction(first_word(line));
      } else if (script == Script::japanese || script == Script::chinese) {
        space = !(is_wide(left) && is_wide(right));
      } else if (script == Script::hangul && is_hangul(left) && is_hangul(right)) {
        space = !cuts_word(words, out, line);
      }
      if (space) out += ' ';
    }
    out += line;
  }
  return out;
}

namespace {

// Abbreviations of the larger languages whose full stop hardly ever ends a sentence.
bool is_abbreviation(std::string_view word) {
  static const std::unordered_set<std::string_view> known = {
      "e.g",    "i.e",   "eg",    "ie",   "vs",     "cf",  "dr",  "mr",   "mrs",  "ms",   "st",    "no",   "nr",
      "inc",    "ltd",   "co",    "corp", "approx", "fig", "al",  "resp", "incl", "ver",  "vol",   "ch",   "sec",
      "jr",     "prof",  "z.b",   "bzw",  "usw",    "ca",  "d.h", "u.a",  "z.t",  "evtl", "ggf",   "inkl", "sog",
      "vgl",    "u.s.w", "f.eks", "bl.a", "dvs",    "osv", "mv",  "m.m",  "m.v",  "f.x",  "p.ex",  "p",    "ex",
      "c.-à-d", "es",    "ecc",   "ad",   "p.es",   "np",  "tzn", "tj",   "itp",  "m.in", "tzw",   "ew",   "např",
      "napr",   "tzv",   "atd",   "apod", "popř",   "т.е", "т.д", "т.п",  "т.к",  "напр", "тобто", "нпр",  "p.ej",
      "ej",     "bijv",  "esim",  "ts",   "mm",     "nk",  "sr",  "sra",  "www"};
  std::string lower;
  for (const char32_t c : sparsemoe::decode_utf8(word)) sparsemoe::append_utf8(lower, to_lower(c));
  while (!lower.empty() && (lower[0] == '(' || lower[0] == '"' || lower[0] == '\'' || lower[0] == '['))
    lower.erase(0, 1);
  if (lower.size() == 1 && lower[0] >= 'a' && lower[0] <= 'z') return true;  // an initial
  return known.contains(lower);
}

}  // namespace

std::vector<std::string> split_sentences(std::string_view text) {
  std::vector<std::string> out;
  std::size_t start = 0;
  const auto take = [&](std::size_t end) {
    std::string_view piece = text.substr(start, end - start);
    while (!piece.empty() && piece[0] == ' ') piece.remove_prefix(1);
    while (!piece.empty() && piece.back() == ' ') piece.remove_suffix(1);
    if (!piece.empty()) out.emplace_back(piece);
    start = end;
  };
  const auto closing = [](char32_t c) {
    return c == U'"' || c == U'\'' || c == U')' || c == U']' || c == U'»' || c == U'”' || c == U'’' || c == U'“' ||
           c == U'」' || c == U'』' || c == U'）';
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto step = sparsemoe::read_utf8(text, at);
    sparsemoe::require(step.bytes > 0, "text: not valid UTF-8 at byte ", at);
    const std::size_t mark = at;
    at += step.bytes;
    const bool wide_stop = step.code == U'。' || step.code == U'！' || step.code == U'？';
    if (!wide_stop && step.code != U'.' && step.code != U'!' && step.code != U'?') continue;
    std::size_t end = at;
    while (true) {
      const auto next = sparsemoe::read_utf8(text, end);
      if (next.bytes == 0 || !closing(next.code)) break;
      end += next.bytes;
    }
    if (wide_stop) {
      take(end);
      at = end;
      continue;
    }
    if (end >= text.size() || text[end] != ' ') continue;
    std::size_t ahead = end;
    char32_t next = 0;
    while (ahead < text.size()) {
      const auto peek = sparsemoe::read_utf8(text, ahead);
      next = peek.code;
      if (next != U' ' && next != U'(' && next != U'"' && next != U'\'' && next != U'«' && next != U'»' &&
          next != U'„' && next != U'“' && next != U'[' && next != 0xA0)
        break;
      ahead += peek.bytes;
    }
    if (ahead >= text.size() || is_lower(next)) continue;
    if (step.code == U'.' && is_abbreviation(last_word(text.substr(start, mark - start)))) continue;
    take(end);
    at = end;
  }
  take(text.size());
  return out;
}

std::vector<Bead> gale_church(const std::vector<std::size_t>& english, const std::vector<std::size_t>& foreign,
                              double ratio) {
  struct Kind {
    int e, f;
    double prior;
  };
  // Table 5 of the paper without omissions; variance 6.8 per character, section 3.1.
  static constexpr std::array<Kind, 4> kinds = {{{1, 1, 0.89}, {2, 1, 0.0445}, {1, 2, 0.0445}, {2, 2, 0.011}}};
  constexpr double variance = 6.8, infinity = std::numeric_limits<double>::infinity();
  const std::size_t n = english.size(), m = foreign.size();
  std::vector<double> best((n + 1) * (m + 1), infinity);
  std::vector<int> from((n + 1) * (m + 1), -1);
  best[0] = 0;
  for (std::size_t i = 0; i <= n; ++i) {
    for (std::size_t j = 0; j <= m; ++j) {
      for (std::size_t k = 0; k < kinds.size(); ++k) {
        const auto [e, f, prior] = kinds[k];
        const auto ue = static_cast<std::size_t>(e), uf = static_cast<std::size_t>(f);
        if (i < ue || j < uf || best[(i - ue) * (m + 1) + j - uf] == infinity) continue;
        double le = 0, lf = 0;
        for (std::size_t s = 1; s <= ue; ++s) le += static_cast<double>(english[i - s]);
        for (std::size_t s = 1; s <= uf; ++s) lf += static_cast<double>(foreign[j - s]);
        const double expected = le * ratio;
        const double delta = (lf - expected) / std::sqrt(variance * std::max(1.0, (expected + lf) / 2));
        const double tail = std::max(1e-300, std::erfc(std::abs(delta) / std::sqrt(2.0)));
        const double cost = best[(i - ue) * (m + 1) + j - uf] - std::log(tail) - std::log(prior);
        if (cost < best[i * (m + 1) + j]) {
          best[i * (m + 1) + j] = cost;
          from[i * (m + 1) + j] = static_cast<int>(k);
        }
      }
    }
  }
  std::vector<Bead> beads;
  if (best[n * (m + 1) + m] == infinity) return beads;
  for (std::size_t i = n, j = m; i + j > 0;) {
    const Kind& kind = kinds[static_cast<std::size_t>(from[i * (m + 1) + j])];
    beads.insert(beads.begin(), {kind.e, kind.f});
    i -= static_cast<std::size_t>(kind.e);
    j -= static_cast<std::size_t>(kind.f);
  }
  return beads;
}

FlatDescription flatten(const Description& description, Script script, const WordCounts& words) {
  FlatDescription out;
  out.short_line = clean_text(description.short_line);
  for (const auto& paragraph : description.paragraphs) {
    auto& lines = out.paragraphs.emplace_back();
    for (const auto& unit : paragraph) lines.push_back({unit.kind, clean_text(unwrap(unit.lines, script, words))});
  }
  return out;
}

std::vector<Pair> align_units(const FlatDescription& english, const FlatDescription& foreign) {
  using Line = FlatDescription::Line;
  std::vector<Pair> out;
  out.push_back({english.short_line, foreign.short_line, 's'});
  const auto same_kinds = [](const std::vector<Line>& a, const std::vector<Line>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const Line& x, const Line& y) { return x.kind == y.kind; });
  };
  const auto add = [&](const std::vector<Line>& a, const std::vector<Line>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
      if (!a[i].text.empty() && !b[i].text.empty()) out.push_back({a[i].text, b[i].text, static_cast<char>(a[i].kind)});
  };
  const auto flat = [](const FlatDescription& d) {
    std::vector<Line> lines;
    for (const auto& paragraph : d.paragraphs) lines.insert(lines.end(), paragraph.begin(), paragraph.end());
    return lines;
  };
  const auto a = flat(english), b = flat(foreign);
  if (same_kinds(a, b)) {
    add(a, b);
  } else if (english.paragraphs.size() == foreign.paragraphs.size()) {
    for (std::size_t i = 0; i < english.paragraphs.size(); ++i)
      if (same_kinds(english.paragraphs[i], foreign.paragraphs[i])) add(english.paragraphs[i], foreign.paragraphs[i]);
  }
  return out;
}

void split_paragraph(const Pair& paragraph, Script script, double ratio, std::vector<Pair>& out) {
  const auto english = split_sentences(paragraph.english), foreign = split_sentences(paragraph.foreign);
  const auto whole = [&] { out.push_back({paragraph.english, paragraph.foreign, 'p'}); };
  if (english.size() < 2 || foreign.size() < 2) return whole();
  std::vector<std::size_t> english_lengths, foreign_lengths;
  for (const auto& s : english) english_lengths.push_back(count_characters(s));
  for (const auto& s : foreign) foreign_lengths.push_back(count_characters(s));
  const auto beads = gale_church(english_lengths, foreign_lengths, ratio);
  if (beads.size() < 2) return whole();
  const bool tight = script == Script::japanese || script == Script::chinese;
  std::vector<Pair> pieces;
  std::size_t e = 0, f = 0;
  for (const Bead bead : beads) {
    Pair piece{"", "", 't'};
    for (int i = 0; i < bead.english; ++i, ++e) (piece.english += i > 0 ? " " : "") += english[e];
    for (int i = 0; i < bead.foreign; ++i, ++f) (piece.foreign += i > 0 && !tight ? " " : "") += foreign[f];
    const double share = static_cast<double>(count_characters(piece.foreign) + 10) /
                         (ratio * static_cast<double>(count_characters(piece.english)) + 10);
    if (share < 0.55 || share > 1.8) return whole();
    pieces.push_back(std::move(piece));
  }
  out.insert(out.end(), std::make_move_iterator(pieces.begin()), std::make_move_iterator(pieces.end()));
}

}  // namespace nmt

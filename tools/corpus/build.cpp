// SPDX-License-Identifier: Apache-2.0
// build.cpp -- the functions of build.hpp, which says what they do.
#include "build.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "align.hpp"
#include "archive.hpp"
#include "clean.hpp"
#include "fetch.hpp"
#include "parse.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "split.hpp"

namespace nmt {

namespace {

/// The English side of one description, and where it comes from.
struct EnglishEntry {
  std::string text;
  std::vector<std::string> packages;
  FlatDescription flat;
  bool ready = false;
};

using EnglishTable = std::unordered_map<std::string, EnglishEntry>;  // by md5

std::vector<std::string> sorted_unique(std::vector<std::string> list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return list;
}

// Chooses the most frequent of several translations, then the shortest, then the first in order.
const std::string& choose(const std::map<std::string, int>& translations) {
  return std::min_element(translations.begin(), translations.end(),
                          [](const auto& a, const auto& b) {
                            if (a.second != b.second) return a.second > b.second;
                            if (a.first.size() != b.first.size()) return a.first.size() < b.first.size();
                            return a.first < b.first;
                          })
      ->first;
}

/// What the descriptions of one language say about one English segment.
struct Merged {
  std::map<std::string, int> translations;
  std::map<char, int> kinds;
  std::vector<const EnglishEntry*> entries;
};

// Aligned pairs of one language with the description each comes from.
std::vector<std::pair<Pair, const EnglishEntry*>> align_language(
    const std::vector<std::pair<std::string, std::string>>& texts, EnglishTable& english, Script script,
    Funnel& funnel) {
  std::vector<std::pair<Description, EnglishEntry*>> described;
  WordCounts words;
  for (const auto& [md5, text] : texts) {
    described.emplace_back(parse_description(text), &english.at(md5));
    if (script != Script::hangul) continue;
    for (const auto& paragraph : described.back().first.paragraphs)
      for (const auto& unit : paragraph) count_words_inside(unit, words);
  }
  std::vector<std::pair<Pair, const EnglishEntry*>> units;
  double foreign_characters = 0, english_characters = 0;
  for (auto& [description, entry] : described) {
    if (!entry->ready) {
      entry->flat = flatten(parse_description(entry->text), Script::latin, {});
      entry->ready = true;
    }
    funnel.paragraphs += description.paragraphs.size();
    for (auto& pair : align_units(entry->flat, flatten(description, script, words))) {
      if (pair.english.empty() || pair.foreign.empty()) continue;
      if (pair.kind == 'l') trim_item_end(pair.english, pair.foreign);
      if (pair.english != pair.foreign) {
        foreign_characters += static_cast<double>(count_characters(pair.foreign));
        english_characters += static_cast<double>(count_characters(pair.english));
      }
      units.emplace_back(std::move(pair), entry);
    }
  }
  funnel.units = units.size();
  if (english_characters > 0) funnel.ratio = foreign_characters / english_characters;
  std::vector<std::pair<Pair, const EnglishEntry*>> out;
  std::vector<Pair> pieces;
  for (auto& [pair, entry] : units) {
    if (pair.kind != 'p') {
      out.emplace_back(std::move(pair), entry);
      continue;
    }
    pieces.clear();
    split_paragraph(pair, script, funnel.ratio, pieces);
    for (auto& piece : pieces) out.emplace_back(std::move(piece), entry);
  }
  funnel.segments = out.size();
  return out;
}

}  // namespace

std::vector<Segment> build_segments(const FetchOptions& fetch, std::string_view kinds, const Limits& limits,
                                    std::map<std::string, Funnel>& funnels) {
  EnglishTable english;
  std::unordered_map<std::string, std::string> source_of;
  const std::vector<std::string> newest_first(fetch.suites.rbegin(), fetch.suites.rend());
  std::map<std::string, SuiteLists> lists;
  const auto translation_of = [](const std::string& language) { return "main/i18n/Translation-" + language; };
  for (const auto& suite : newest_first) {
    const auto& files =
        lists.emplace(suite, SuiteLists(fs::absolute(fetch.work) / suite / "lists", suite, fetch.keyring))
            .first->second;
    sparsemoe::require(files.has(translation_of("en")), suite, ": no Translation-en in ", fetch.work.string(),
                       ": is it a suite of this archive?");
    for (auto& stanza :
         parse_translation(files.read(translation_of("en")), "en", suite + "/" + translation_of("en")).stanzas) {
      auto& entry = english[stanza.md5];
      if (entry.text.empty()) entry.text = std::move(stanza.text);
      entry.packages.push_back(std::move(stanza.package));
    }
    const auto packages = files.find("main/binary-", "/Packages");
    if (!packages.empty()) parse_sources(files.read(packages), source_of);
    sparsemoe::say(suite, ": ", english.size(), " English descriptions so far");
  }
  for (auto& [md5, entry] : english) entry.packages = sorted_unique(std::move(entry.packages));

  std::vector<Segment> segments;
  std::vector<std::vector<const EnglishEntry*>> entries;
  std::unordered_map<std::string, std::size_t> position;
  const std::size_t columns = fetch.languages.size() + 1;
  for (std::size_t l = 0; l < fetch.languages.size(); ++l) {
    const std::string& language = fetch.languages[l];
    const Script script = script_of(language);
    Funnel& funnel = funnels[language];
    std::map<std::string, std::string> by_md5;  // ordered, so that every run does the same
    bool found = false;
    for (const auto& suite : newest_first) {
      const SuiteLists& files = lists.at(suite);
      if (!files.has(translation_of(language))) continue;
      found = true;
      auto translations =
          parse_translation(files.read(translation_of(language)), language, suite + "/" + translation_of(language));
      funnel.malformed += translations.malformed;
      for (auto& stanza : translations.stanzas)
        if (english.contains(stanza.md5)) by_md5.emplace(std::move(stanza.md5), std::move(stanza.text));
    }
    sparsemoe::require(found, "no Translation-", language, " in any suite: is '", language,
                       "' a language of the archive?");
    funnel.descriptions = by_md5.size();
    const std::vector<std::pair<std::string, std::string>> texts(by_md5.begin(), by_md5.end());
    by_md5.clear();
    auto pairs = align_language(texts, english, script, funnel);

    // The learnt filter needs clean text to learn from, so the others come first.
    WordOdds odds;
    const bool spaced = script != Script::japanese && script != Script::chinese;
    std::vector<std::vector<std::string>> words(pairs.size());
    std::vector<Verdict> verdicts(pairs.size());
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const Pair& pair = pairs[i].first;
      const TextFacts a = examine(pair.english);
      TextFacts b = examine(pair.foreign);
      verdicts[i] = judge(a, b, script, funnel.ratio, limits);
      if (verdicts[i] != Verdict::kept || !spaced) continue;
      odds.learn(a.words, b.words);
      words[i] = std::move(b.words);
    }
    std::map<std::string, Merged> merged;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      auto& [pair, entry] = pairs[i];
      if (verdicts[i] == Verdict::kept && odds.mean(words[i]) < limits.min_log_odds) verdicts[i] = Verdict::foreign;
      ++funnel.verdicts[static_cast<std::size_t>(verdicts[i])];
      if (verdicts[i] != Verdict::kept || kinds.find(pair.kind) == std::string_view::npos) continue;
      ++funnel.passed;
      auto& target = merged[pair.english];
      ++target.translations[pair.foreign];
      ++target.kinds[pair.kind];
      if (target.entries.empty() || target.entries.back() != entry) target.entries.push_back(entry);
    }
    funnel.unique = merged.size();
    for (auto& [text, target] : merged) {
      const auto [it, is_new] = position.emplace(text, segments.size());
      if (is_new) {
        segments.emplace_back();
        entries.emplace_back();
        segments.back().text.resize(columns);
        segments.back().text[0] = text;
        segments.back().kind =
            std::max_element(target.kinds.begin(), target.kinds.end(), [](const auto& a, const auto& b) {
              return a.second < b.second;
            })->first;
      }
      segments[it->second].text[l + 1] = choose(target.translations);
      auto& list = entries[it->second];
      list.insert(list.end(), target.entries.begin(), target.entries.end());
    }
    sparsemoe::say(language, ": ", funnel.descriptions, " descriptions, ", funnel.segments, " segments, ",
                   funnel.passed, " pass, ", funnel.unique, " unique");
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    auto& list = entries[i];
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    for (const auto* entry : list) {
      for (const auto& package : entry->packages) {
        const auto it = source_of.find(package);
        segments[i].sources.push_back(it == source_of.end() ? package : it->second);
        if (list.size() <= 50) segments[i].names.push_back(package);  // boilerplate names no package
      }
    }
    segments[i].sources = sorted_unique(std::move(segments[i].sources));
    if (list.size() <= 50)
      segments[i].names.insert(segments[i].names.end(), segments[i].sources.begin(), segments[i].sources.end());
    segments[i].names = sorted_unique(std::move(segments[i].names));
  }
  return segments;
}

}  // namespace nmt

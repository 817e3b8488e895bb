// SPDX-License-Identifier: Apache-2.0
// split.cpp -- the functions of split.hpp, which says what they do.
#include "split.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "clean.hpp"
#include "keys.hpp"
#include "languages.hpp"
#include "read_corpus.hpp"
#include "sparsemoe/text/language.hpp"

namespace nmt {

Part part_of_family(std::string_view family, int scarcity, std::uint64_t seed) {
  static constexpr double test[] = {0.015, 0.12, 0.32}, dev[] = {0.01, 0.05, 0.06};
  const double u = stable_uniform(family, seed);
  if (u < test[scarcity]) return Part::test;
  return u >= 1 - dev[scarcity] ? Part::dev : Part::train;
}

int scarcity_of(std::string_view language) {
  using sparsemoe::same_language;
  for (const char* l : {"zh_CN", "pt", "es", "cs"})
    if (same_language(language, l)) return 1;
  for (const char* l : {"da", "it", "fr", "de", "pt_BR", "sk", "pl", "ja", "ko", "ru", "uk"})
    if (same_language(language, l)) return 0;
  return 2;
}

namespace {

std::size_t languages_in(const Segment& s) {
  return static_cast<std::size_t>(
      std::count_if(s.text.begin() + 1, s.text.end(), [](const auto& t) { return !t.empty(); }));
}

// A template needs a common word: one of rare words only would stand for unrelated texts.
bool is_telling(const std::vector<std::string>& words) {
  return std::any_of(words.begin(), words.end(), [](const std::string& word) { return word != "X"; });
}

}  // namespace

Corpus split_segments(std::vector<Segment>& segments, const std::vector<std::string>& languages,
                      const SplitOptions& options, SplitReport& report) {
  std::sort(segments.begin(), segments.end(), [](const auto& a, const auto& b) { return a.text[0] < b.text[0]; });
  std::vector<int> scarce;  // of a language
  for (const auto& language : languages) scarce.push_back(scarcity_of(language));
  std::unordered_map<std::string, int> scarcity;  // of a family: that of its scarcest language
  for (const auto& s : segments) {
    int most = 0;
    for (std::size_t l = 1; l < languages.size(); ++l)
      if (!s.text[l].empty()) most = std::max(most, scarce[l]);
    for (const auto& source : s.sources) {
      int& entry = scarcity[family_of(source)];
      entry = std::max(entry, most);
    }
  }
  std::unordered_map<std::string, Part> parts;
  for (const auto& [family, level] : scarcity) parts[family] = part_of_family(family, level, options.seed);

  const std::size_t n = segments.size();
  std::vector<Part> part(n);
  std::vector<std::vector<std::string>> keys(n);
  std::vector<std::uint64_t> order(n);
  std::unordered_map<std::string, std::uint32_t> word_ids;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> word_family;
  std::unordered_map<std::string, std::uint32_t> family_ids;
  for (std::size_t i = 0; i < n; ++i) {
    Segment& s = segments[i];
    bool train = s.sources.empty(), dev = false;
    for (const auto& source : s.sources) {
      const Part p = parts.at(family_of(source));
      train = train || p == Part::train;
      dev = dev || p == Part::dev;
    }
    part[i] = train ? Part::train : dev ? Part::dev : Part::test;
    // What it shares with a family of another split must not tie that family to this one.
    std::erase_if(s.sources, [&](const auto& source) { return parts.at(family_of(source)) != part[i]; });
    keys[i] = key_words(s.text[0], s.names);
    order[i] = stable_hash(s.text[0], options.seed + 1);
    for (const auto& source : s.sources) {
      const auto f = family_ids.emplace(family_of(source), static_cast<std::uint32_t>(family_ids.size())).first->second;
      for (const auto& word : keys[i])
        word_family.emplace_back(word_ids.emplace(word, static_cast<std::uint32_t>(word_ids.size())).first->second, f);
    }
  }
  std::sort(word_family.begin(), word_family.end());
  word_family.erase(std::unique(word_family.begin(), word_family.end()), word_family.end());
  std::vector<std::size_t> families_with(word_ids.size());
  for (const auto& entry : word_family) ++families_with[entry.first];
  word_family = {};
  const auto make_template = [&](const std::vector<std::string>& words) {
    std::vector<std::string> out;
    for (const auto& word : words) {
      const auto it = word_ids.find(word);
      const bool common = it != word_ids.end() && families_with[it->second] >= options.template_families;
      if (common && word != "n") {
        out.push_back(word);
      } else if (out.empty() || out.back() != "X") {
        out.emplace_back("X");  // a run of rare words is one name, and a name is rare
      }
    }
    return out;
  };

  // Caps. Segments in more languages come first, so that what stays serves most.
  std::vector<std::size_t> by_use(n);
  for (std::size_t i = 0; i < n; ++i) by_use[i] = i;
  std::vector<std::size_t> ways(n);
  for (std::size_t i = 0; i < n; ++i) ways[i] = languages_in(segments[i]);
  std::sort(by_use.begin(), by_use.end(), [&](auto a, auto b) {
    return ways[a] != ways[b] ? ways[a] > ways[b] : order[a] != order[b] ? order[a] < order[b] : a < b;
  });
  std::unordered_map<std::string, std::vector<std::size_t>> used;
  std::unordered_set<std::string> train_keys, train_templates, train_english;
  std::vector<std::unordered_set<std::string>> train_targets(languages.size());
  const auto plain = [](std::string_view text) { return text_key(text); };
  for (const std::size_t i : by_use) {
    if (part[i] != Part::train) continue;
    Segment& s = segments[i];
    const auto words = make_template(keys[i]);
    const std::string key = "k" + joined(keys[i]), pattern = is_telling(words) ? "t" + joined(words) : "";
    auto count_of = [&](const std::string& name) -> std::vector<std::size_t>& {
      auto& counts = used[name];
      counts.resize(languages.size());
      return counts;
    };
    bool any = false;
    for (std::size_t l = 1; l < languages.size(); ++l) {
      if (s.text[l].empty()) continue;
      if (count_of(key)[l] >= options.same_key || (!pattern.empty() && count_of(pattern)[l] >= options.same_template)) {
        s.text[l].clear();
        ++report.capped[languages[l]];
        continue;
      }
      ++count_of(key)[l];
      if (!pattern.empty()) ++count_of(pattern)[l];
      train_targets[l].insert(plain(s.text[l]));
      any = true;
    }
    if (!any) continue;
    train_keys.insert(key);
    if (!pattern.empty()) train_templates.insert(pattern);
    train_english.insert(plain(s.text[0]));
  }
  used.clear();

  // Dev and test: out with everything that train gives away.
  std::vector<std::size_t> pool;
  for (std::size_t i = 0; i < n; ++i) {
    if (part[i] == Part::train || ways[i] == 0) continue;
    if (part[i] == Part::test) ++report.pool;
    const auto& s = segments[i];
    const auto words = examine(s.text[0]).tokens;
    if (words < options.min_words || words > options.max_words) continue;
    const auto pattern = make_template(keys[i]);
    if (train_keys.contains("k" + joined(keys[i])) || train_english.contains(plain(s.text[0])) ||
        (is_telling(pattern) && train_templates.contains("t" + joined(pattern))))
      continue;
    bool target = false;
    for (std::size_t l = 1; l < languages.size(); ++l)
      target = target || (!s.text[l].empty() && train_targets[l].contains(plain(s.text[l])));
    if (!target) pool.push_back(i);
  }
  std::vector<char> near(pool.size(), 0);
  for (const bool named : {true, false}) {
    detail::GramIndex index;
    const auto words_of = [&](std::size_t i) { return named ? key_words(segments[i].text[0], {}) : keys[i]; };
    for (const auto i : pool) index.add(words_of(i));
    for (std::size_t i = 0; i < n; ++i) {
      if (part[i] != Part::train || languages_in(segments[i]) == 0) continue;
      index.compare(words_of(i), [&](std::uint32_t member, double jaccard, double contained) {
        if (jaccard >= options.max_jaccard || contained >= options.max_containment) near[member] = 1;
      });
    }
  }
  std::vector<std::size_t> kept;
  for (std::size_t k = 0; k < pool.size(); ++k)
    if (!near[k]) kept.push_back(pool[k]);
  pool = std::move(kept);

  // Choice per language: the most multiway rows first, the rest by hash. Test before dev, which must not repeat it.
  std::unordered_set<std::string> test_english;
  std::vector<std::unordered_set<std::string>> test_targets(languages.size());
  for (const Part held : {Part::test, Part::dev}) {
    std::vector<std::size_t> rows;
    for (const auto i : pool) {
      if (part[i] != held) continue;
      const auto& s = segments[i];
      bool repeats = test_english.contains(plain(s.text[0]));
      for (std::size_t l = 1; l < languages.size(); ++l)
        repeats = repeats || (!s.text[l].empty() && test_targets[l].contains(plain(s.text[l])));
      if (!repeats) rows.push_back(i);
    }
    if (held == Part::test) report.remaining = rows.size();
    const std::size_t most = held == Part::test ? options.test : options.dev;
    const auto by_hash = [&](auto a, auto b) { return order[a] != order[b] ? order[a] < order[b] : a < b; };
    for (std::size_t l = 1; l < languages.size(); ++l) {
      std::vector<std::size_t> mine;
      for (const auto i : rows)
        if (!segments[i].text[l].empty()) mine.push_back(i);
      if (mine.size() > most) {
        std::sort(mine.begin(), mine.end(),
                  [&](auto a, auto b) { return ways[a] != ways[b] ? ways[a] > ways[b] : by_hash(a, b); });
        const auto first = static_cast<std::size_t>(options.multiway * static_cast<double>(most));
        std::sort(mine.begin() + static_cast<std::ptrdiff_t>(first), mine.end(), by_hash);
        for (std::size_t k = most; k < mine.size(); ++k) segments[mine[k]].text[l].clear();
        mine.resize(most);
      }
      if (held == Part::test)
        for (const auto i : mine) {
          test_english.insert(plain(segments[i].text[0]));
          test_targets[l].insert(plain(segments[i].text[l]));
        }
    }
    if (held == Part::dev) {
      std::vector<char> is_row(n, 0);
      for (const auto i : rows) is_row[i] = 1;
      for (std::size_t i = 0; i < n; ++i)
        if (part[i] == Part::dev && !is_row[i]) std::fill(segments[i].text.begin() + 1, segments[i].text.end(), "");
    }
  }
  {
    std::vector<char> in_pool(n, 0);
    for (const auto i : pool) in_pool[i] = 1;
    for (std::size_t i = 0; i < n; ++i)
      if (part[i] != Part::train && !in_pool[i]) std::fill(segments[i].text.begin() + 1, segments[i].text.end(), "");
  }

  Corpus corpus;
  corpus.languages = languages;
  for (const auto& [name, which] : {std::pair{"train", Part::train}, {"dev", Part::dev}, {"test", Part::test}}) {
    SplitRows& rows = corpus.splits[name];
    for (const auto& language : languages) rows.text[language];
    for (std::size_t i = 0; i < n; ++i) {
      Segment& s = segments[i];
      if (part[i] != which || languages_in(s) == 0) continue;
      const auto id = static_cast<std::uint32_t>(rows.ids.size());
      rows.ids.push_back(id);
      rows.kinds.push_back(s.kind);
      std::string sources;
      for (std::size_t k = 0; k < s.sources.size() && k < 3; ++k) sources += (k > 0 ? " " : "") + s.sources[k];
      rows.sources.push_back(std::move(sources));
      for (std::size_t l = 0; l < languages.size(); ++l) {
        if (s.text[l].empty()) continue;
        rows.text[languages[l]].ids.push_back(id);
        rows.text[languages[l]].lines.push_back(std::move(s.text[l]));
      }
    }
  }
  return corpus;
}

}  // namespace nmt

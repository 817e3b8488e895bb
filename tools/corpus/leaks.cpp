// SPDX-License-Identifier: Apache-2.0
// leaks.cpp -- the functions of leaks.hpp, which says what they do.
#include "leaks.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "keys.hpp"
#include "read_corpus.hpp"
#include "split.hpp"

namespace nmt {

Leaks check_leaks(const Corpus& corpus, const SplitOptions& options) {
  Leaks leaks;
  const std::string& pivot = corpus.languages.at(0);
  const std::vector<std::string> names = {"train", "dev", "test"};
  const auto words = [](const std::string& text) { return key_words(text, {}); };
  for (std::size_t b = 1; b < names.size(); ++b) {
    if (!corpus.splits.contains(names[b])) continue;
    const SplitRows& held = corpus.split(names[b]);
    for (std::size_t a = 0; a < b; ++a) {
      if (!corpus.splits.contains(names[a])) continue;
      const SplitRows& seen = corpus.split(names[a]);
      std::unordered_set<std::string> families;
      const auto for_each_family = [](const SplitRows& rows, auto each) {
        for (const auto& list : rows.sources)
          for (std::size_t at = 0; at < list.size();) {
            const auto end = std::min(list.find(' ', at), list.size());
            each(family_of(std::string_view(list).substr(at, end - at)));
            at = end + 1;
          }
      };
      for_each_family(seen, [&](std::string f) { families.insert(std::move(f)); });
      std::unordered_set<std::string> shared;
      for_each_family(held, [&](std::string f) {
        if (families.contains(f)) shared.insert(std::move(f));
      });
      leaks.families += shared.size();
      for (const auto& language : corpus.languages) {
        const auto x = seen.text.find(language), y = held.text.find(language);
        if (x == seen.text.end() || y == held.text.end()) continue;
        const std::unordered_set<std::string_view> exact(x->second.lines.begin(), x->second.lines.end());
        std::unordered_set<std::string> normal;
        for (const auto& line : x->second.lines) normal.insert(text_key(line));
        for (const auto& line : y->second.lines) {
          const bool same = normal.contains(text_key(line));
          if (language == pivot) {
            leaks.english += exact.contains(line);
            leaks.normalised += same;
          } else {
            leaks.targets += same;
          }
        }
      }
    }
    const auto held_pivot = held.text.find(pivot), train_pivot = corpus.split("train").text.find(pivot);
    if (held_pivot == held.text.end() || train_pivot == corpus.split("train").text.end()) continue;
    detail::GramIndex index;
    for (const auto& line : held_pivot->second.lines) index.add(words(line));
    std::vector<double> best(held_pivot->second.size()), inside(best.size());
    for (const auto& line : train_pivot->second.lines)
      index.compare(words(line), [&](std::uint32_t member, double jaccard, double contained) {
        best[member] = std::max(best[member], jaccard);
        inside[member] = std::max(inside[member], contained);
      });
    double sum = 0;
    for (std::size_t i = 0; i < best.size(); ++i) {
      leaks.near += best[i] >= options.max_jaccard || inside[i] >= options.max_containment;
      sum += best[i];
    }
    if (names[b] == "test" && !best.empty()) leaks.mean_best_jaccard = sum / static_cast<double>(best.size());
  }
  return leaks;
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// hold_out.cpp -- the functions of hold_out.hpp, which says what they do.
#include "hold_out.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "import.hpp"
#include "keys.hpp"
#include "languages.hpp"
#include "split.hpp"

namespace nmt {

Corpus split_parallel(const ParallelText& text, const SplitOptions& options, HoldOutReport& report) {
  const std::size_t n = text.rows.size();
  const auto use = [&text](std::size_t i) { return text.use.empty() ? RowUse::any : text.use[i]; };
  const auto for_each_key = [&text](std::size_t i, auto each) {
    for (std::size_t l = 0; l < text.rows[i].size(); ++l)
      if (!text.rows[i][l].empty()) each(sparsemoe::join(l, ' ', text_key(text.rows[i][l])));
  };
  std::vector<char> out(n, 0);
  std::unordered_set<std::string> brought;
  bool own_dev = false, own_test = false;
  for (const RowUse now : {RowUse::test, RowUse::dev, RowUse::any}) {
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < n; ++i) {
      if (use(i) != now) continue;
      own_test = own_test || now == RowUse::test;
      own_dev = own_dev || now == RowUse::dev;
      if (!brought.empty()) for_each_key(i, [&](const std::string& key) { out[i] = out[i] || brought.contains(key); });
      report.shared += out[i] != 0;
      report.shared_dev += out[i] != 0 && now == RowUse::dev;
      if (now != RowUse::any) for_each_key(i, [&](std::string key) { keys.push_back(std::move(key)); });
    }
    brought.insert(keys.begin(), keys.end());
  }

  std::vector<std::size_t> parent(n);  // union-find over texts
  std::iota(parent.begin(), parent.end(), std::size_t{0});
  const auto root = [&parent](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::unordered_map<std::string, std::size_t> first;
  std::unordered_set<std::string> rows_seen;
  const auto free = [&](std::size_t i) { return use(i) == RowUse::any && !out[i]; };
  std::vector<char> repeat(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    if (!free(i)) continue;
    ++report.free;
    std::string whole;
    for (const auto& cell : text.rows[i]) (whole += cell) += '\t';
    for_each_key(i, [&](const std::string& key) {
      const auto [it, is_new] = first.emplace(key, i);
      if (!is_new) parent[std::max(root(i), root(it->second))] = std::min(root(i), root(it->second));
    });
    repeat[i] = !rows_seen.insert(whole).second;
    report.repeated += repeat[i] != 0;
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> groups;
  std::vector<std::size_t> sizes(n);
  for (std::size_t i = 0; i < n; ++i) {
    if (!free(i)) continue;
    if (root(i) == i) groups.emplace_back(stable_hash(text.rows[i][0], options.seed + 3), i);
    report.largest = std::max(report.largest, ++sizes[root(i)]);
  }
  std::sort(groups.begin(), groups.end());
  report.most = report.free / 20;
  std::size_t tests = own_test ? 0 : std::min(options.test, report.most);
  std::size_t devs = own_dev ? 0 : std::min(options.dev, report.most);
  std::unordered_map<std::size_t, Part> held;
  for (const auto& group : groups) {
    const std::size_t size = sizes[group.second];  // a group too large for what is left to hold out is trained on
    std::size_t& left = size <= tests ? tests : devs;
    if (size > left) continue;
    held[group.second] = size <= tests ? Part::test : Part::dev;
    left -= size;
  }

  const auto part_of = [&](std::size_t i) {
    if (use(i) != RowUse::any) return use(i) == RowUse::dev ? Part::dev : Part::test;
    const auto it = held.find(root(i));
    return it == held.end() ? Part::train : it->second;
  };
  Corpus corpus;
  corpus.languages = text.languages;
  for (const auto& [name, which] : {std::pair{"train", Part::train}, {"dev", Part::dev}, {"test", Part::test}}) {
    SplitRows& rows = corpus.splits[name];
    for (const auto& language : text.languages) rows.text[language];
    for (std::size_t i = 0; i < n; ++i) {
      if (out[i] || repeat[i] || part_of(i) != which) continue;
      const auto id = static_cast<std::uint32_t>(rows.ids.size());
      rows.ids.push_back(id);
      rows.kinds.push_back('t');
      rows.sources.emplace_back();
      for (std::size_t l = 0; l < text.rows[i].size(); ++l) {
        if (text.rows[i][l].empty()) continue;
        rows.text[text.languages[l]].ids.push_back(id);
        rows.text[text.languages[l]].lines.push_back(text.rows[i][l]);
      }
    }
  }
  return corpus;
}

std::string why_empty(const char* set, std::size_t wanted, const HoldOutReport& report) {
  const std::string way = sparsemoe::join("; bring one by --", set, "-pair or --", set, "-tsv");
  if (wanted == 0) return sparsemoe::join("no ", set, " rows, as asked");
  if (report.most == 0)
    return sparsemoe::join("no ", set, " rows: a twentieth of the rows is held out, and there are only ",
                           report.free - report.repeated, way);
  return sparsemoe::join(
      "no ", set, " rows: rows that share a text (but for numbers, case and punctuation) are held out ",
      "together, at most ", std::min(wanted, report.most), ", and the largest such group has ", report.largest,
      " of the ", report.free, " rows", report.repeated > 0 ? ", repeats included" : "", way);
}

}  // namespace nmt

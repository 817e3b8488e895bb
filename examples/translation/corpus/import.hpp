// import.hpp -- turns users' own parallel text into the same kind of corpus.
// Main idea: strict reading (one sentence with file:line for the first thing wrong), no judgement of the text: only
// white space, NFC and exact repeats are touched. Read next: write.hpp.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "clean.hpp"
#include "read_corpus.hpp"
#include "split.hpp"

namespace nmt {

/// Parallel lines of users; `languages` name the columns, the first is the pivot.
struct ParallelText {
  std::vector<std::string> languages;
  std::vector<std::vector<std::string>> rows;
};

namespace detail {

inline std::vector<std::string> read_lines(const fs::path& path) {
  const std::string text = read_file(path);
  std::vector<std::string> lines;
  std::size_t start = 0;
  while (start < text.size()) {
    const auto end = std::min(text.find('\n', start), text.size());
    std::string_view line = std::string_view(text).substr(start, end - start);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (lines.empty() && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);  // byte order mark
    const std::string where = sparsemoe::join(path.string(), ":", lines.size() + 1);
    sparsemoe::require_utf8(line, where);
    sparsemoe::require(line.find('\0') == std::string_view::npos, where, ": a NUL byte: is this a text file?");
    lines.emplace_back(line);
    start = end + 1;
  }
  return lines;
}

inline std::vector<std::string> split_tabs(std::string_view line) {
  std::vector<std::string> fields;
  for (std::size_t start = 0; start <= line.size();) {
    const auto stop = std::min(line.find('\t', start), line.size());
    fields.emplace_back(line.substr(start, stop - start));
    start = stop + 1;
  }
  return fields;
}

}  // namespace detail

/// Reads a TSV file whose first line names the languages. A row may leave cells empty, but not the first and not all
/// others. Throws Error with file:line for anything else.
inline ParallelText read_parallel_tsv(const fs::path& path) {
  const auto lines = detail::read_lines(path);
  sparsemoe::require(!lines.empty(), path.string(), ": empty file, expected a header line of language codes");
  ParallelText out;
  out.languages = detail::split_tabs(lines[0]);
  sparsemoe::require(out.languages.size() >= 2, path.string(),
                     ":1: expected two or more language codes separated by tabs");
  for (std::size_t i = 0; i < out.languages.size(); ++i) {
    try {
      require_language_code(out.languages[i]);
    } catch (const sparsemoe::Error& problem) {
      sparsemoe::fail(path.string(), ":1: ", problem.what());
    }
    sparsemoe::require(std::count(out.languages.begin(), out.languages.end(), out.languages[i]) == 1, path.string(),
                       ":1: ", out.languages[i], " names two columns");
  }
  for (std::size_t n = 1; n < lines.size(); ++n) {
    auto fields = detail::split_tabs(lines[n]);
    const std::string where = sparsemoe::join(path.string(), ":", n + 1);
    sparsemoe::require(fields.size() == out.languages.size(), where, ": ", fields.size(), " columns, the header has ",
                       out.languages.size());
    for (auto& field : fields) field = clean_text(field);
    sparsemoe::require(!fields[0].empty(), where, ": no text in ", out.languages[0]);
    sparsemoe::require(std::any_of(fields.begin() + 1, fields.end(), [](const auto& f) { return !f.empty(); }), where,
                       ": no translation");
    out.rows.push_back(std::move(fields));
  }
  sparsemoe::require(!out.rows.empty(), path.string(), ": a header and no text");
  return out;
}

/// Reads two plain files, line by line translations of each other. Throws Error with file:line for empty lines and
/// malformed UTF-8, and when the files differ in length.
inline ParallelText read_parallel_files(const fs::path& source, const fs::path& target,
                                        const std::string& source_language, const std::string& target_language) {
  require_language_code(source_language);
  require_language_code(target_language);
  sparsemoe::require(source_language != target_language, "--source and --target are both ", source_language);
  auto a = detail::read_lines(source), b = detail::read_lines(target);
  sparsemoe::require(a.size() == b.size(), source.string(), ":", std::min(a.size(), b.size()) + 1, ": ",
                     source.string(), " has ", a.size(), " lines and ", target.string(), " has ", b.size());
  sparsemoe::require(!a.empty(), source.string(), ": empty file");
  ParallelText out{{source_language, target_language}, {}};
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::vector<std::string> row = {clean_text(a[i]), clean_text(b[i])};
    sparsemoe::require(!row[0].empty(), source.string(), ":", i + 1, ": empty line");
    sparsemoe::require(!row[1].empty(), target.string(), ":", i + 1, ": empty line");
    out.rows.push_back(std::move(row));
  }
  return out;
}

/// Divides users' text: a fixed hash orders the groups of rows that share a source or a target after normalisation; up
/// to `options.test` and `options.dev` rows, but at most a twentieth each, are held out, whole groups only.
/// Exact repeats are dropped. Nothing is filtered.
inline Corpus split_parallel(const ParallelText& text, const SplitOptions& options) {
  // Rows that share a normalised text in any language belong together: union-find over texts.
  std::vector<std::size_t> parent(text.rows.size());
  std::iota(parent.begin(), parent.end(), std::size_t{0});
  const auto root = [&parent](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::unordered_map<std::string, std::size_t> first;
  std::unordered_set<std::string> rows_seen;
  std::vector<char> repeat(text.rows.size(), 0);
  for (std::size_t i = 0; i < text.rows.size(); ++i) {
    std::string whole;
    for (std::size_t l = 0; l < text.languages.size(); ++l) {
      (whole += text.rows[i][l]) += '\t';
      if (text.rows[i][l].empty()) continue;
      auto key = joined(key_words(text.rows[i][l], {}));
      if (key.empty()) key = text.rows[i][l];
      const auto [it, is_new] = first.emplace(sparsemoe::join(l, ' ', key), i);
      if (!is_new) parent[std::max(root(i), root(it->second))] = std::min(root(i), root(it->second));
    }
    repeat[i] = !rows_seen.insert(whole).second;
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> groups;
  for (std::size_t i = 0; i < text.rows.size(); ++i)
    if (root(i) == i) groups.emplace_back(stable_hash(text.rows[i][0], options.seed + 3), i);
  std::sort(groups.begin(), groups.end());
  std::vector<std::size_t> sizes(text.rows.size());
  for (std::size_t i = 0; i < text.rows.size(); ++i) ++sizes[root(i)];
  const std::size_t share = text.rows.size() / 20;
  std::size_t tests = std::min(options.test, share), devs = std::min(options.dev, share);
  std::unordered_map<std::size_t, Part> held;
  for (const auto& group : groups) {
    const std::size_t size = sizes[group.second];  // a group too large for what is left to hold out is trained on
    std::size_t& left = size <= tests ? tests : devs;
    if (size > left) continue;
    held[group.second] = size <= tests ? Part::test : Part::dev;
    left -= size;
  }
  Corpus corpus;
  corpus.languages = text.languages;
  for (const auto& [name, which] : {std::pair{"train", Part::train}, {"dev", Part::dev}, {"test", Part::test}}) {
    SplitRows& rows = corpus.splits[name];
    for (const auto& language : text.languages) rows.text[language];
    for (std::size_t i = 0; i < text.rows.size(); ++i) {
      const auto it = held.find(root(i));
      if (repeat[i] || (it == held.end() ? Part::train : it->second) != which) continue;
      const auto id = static_cast<std::uint32_t>(rows.ids.size());
      rows.ids.push_back(id);
      rows.kinds.push_back('t');
      rows.sources.emplace_back();
      for (std::size_t l = 0; l < text.languages.size(); ++l) {
        if (text.rows[i][l].empty()) continue;
        rows.text[text.languages[l]].ids.push_back(id);
        rows.text[text.languages[l]].lines.push_back(text.rows[i][l]);
      }
    }
  }
  return corpus;
}

}  // namespace nmt

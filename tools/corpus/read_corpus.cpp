// SPDX-License-Identifier: Apache-2.0
// read_corpus.cpp -- the functions of read_corpus.hpp, which says what they do.
#include "read_corpus.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "clean.hpp"
#include "languages.hpp"
#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/json.hpp"
#include "sparsemoe/text/language.hpp"
#include "sparsemoe/text/utf8.hpp"
#include "text_file.hpp"

namespace nmt {

namespace {

std::uint32_t read_id(std::string_view digits, const std::string& where) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
  sparsemoe::require(error == std::errc{} && end == digits.data() + digits.size(), where, ": '", digits,
                     "' is not an id: expected decimal digits");
  return id;
}

// The file, or the one with .xz or .gz; empty where there is none.
fs::path find_text(const fs::path& path) {
  for (const char* packing : {"", ".xz", ".gz"}) {
    fs::path packed = path;
    packed += packing;
    if (is_there(packed)) return packed;
  }
  return {};
}

/// Calls `each(id, fields after it, where)` for every line of a TSV file; checks UTF-8, columns and order of ids.
template <class Each>
void for_each_row(const fs::path& path, std::size_t columns, Each each) {
  const std::string text = read_text(path);
  std::size_t number = 0, at = 0;
  std::int64_t before = -1;
  while (at < text.size()) {
    const auto end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    const std::string where = sparsemoe::join(path.string(), ":", ++number);
    sparsemoe::require_utf8(line, where);
    std::vector<std::string_view> fields;
    for (std::size_t start = 0; start <= line.size();) {
      const auto stop = std::min(line.find('\t', start), line.size());
      fields.push_back(line.substr(start, stop - start));
      start = stop + 1;
    }
    sparsemoe::require(fields.size() == columns, where, ": ", fields.size(), " columns, expected ", columns);
    const auto id = read_id(fields[0], where);
    sparsemoe::require(static_cast<std::int64_t>(id) > before, where, ": id ", id, " does not ascend");
    before = id;
    each(id, fields, where);
  }
}

}  // namespace

SplitRows load_split(const fs::path& folder, const std::vector<std::string>& languages,
                     const std::vector<std::string>& files) {
  SplitRows out;
  const auto sources = find_text(folder / "sources.tsv");
  sparsemoe::require(!sources.empty(), (folder / "sources.tsv").string(), ": no such file");
  for_each_row(sources, 3, [&](std::uint32_t id, const auto& fields, const std::string& where) {
    sparsemoe::require(fields[1].size() == 1, where, ": '", fields[1], "' is not a kind: expected one letter");
    out.ids.push_back(id);
    out.kinds.push_back(fields[1][0]);
    out.sources.emplace_back(fields[2]);
  });
  for (std::size_t l = 0; l < languages.size(); ++l) {
    const auto path = find_text(folder / (files[l] + ".tsv"));
    if (path.empty()) continue;  // a language may lack a split
    Texts& texts = out.text[languages[l]];
    for_each_row(path, 2, [&](std::uint32_t id, const auto& fields, const std::string& where) {
      sparsemoe::require(std::binary_search(out.ids.begin(), out.ids.end(), id), where, ": id ", id,
                         " is not in sources.tsv");
      texts.ids.push_back(id);
      texts.lines.push_back(clean_text(fields[1]));
      sparsemoe::require(!texts.lines.back().empty(), where, ": empty text");
    });
  }
  return out;
}

namespace {

// The languages of a corpus directory, the pivot first. Throws Error naming the file that does not say.
std::vector<std::string> languages_of(const fs::path& path) {
  std::vector<std::string> found;
  const auto about = path / "corpus.json";
  if (is_there(about)) {
    const sparsemoe::Json json = sparsemoe::read_json(about);
    const auto list = json.is_object() ? json.find("languages") : json.end();
    const bool good = json.is_object() && list != json.end() && list->is_array() &&
                      std::all_of(list->begin(), list->end(), [](const auto& l) { return l.is_string(); });
    sparsemoe::require(good, about.string(), ": \"languages\" must be a list of language codes");
    found = list->get<std::vector<std::string>>();  // keeps the order of the languages, and with it the pivot
    for (const auto& name : found) {
      try {
        require_language_name(name);  // they become file names
      } catch (const sparsemoe::Error& problem) {
        sparsemoe::fail_file(about, problem.what());
      }
    }
  } else {
    for (const auto& entry : sparsemoe::list_directory(path / "train")) {
      const std::string name = without_packing(entry.path().filename()).string();
      if (name.ends_with(".tsv") && name != "sources.tsv") found.push_back(name.substr(0, name.size() - 4));
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    std::stable_partition(found.begin(), found.end(),
                          [](const std::string& l) { return sparsemoe::same_language(l, "en"); });
  }
  sparsemoe::require(!found.empty(), (path / "train").string(), ": no XX.tsv or XX.tsv.xz");
  return found;
}

// Holds what was read against counts.json, where the corpus has one: a file that was cut between two lines looks
// whole.
void check_counts(const fs::path& path, const Corpus& corpus, const std::vector<std::string>& files) {
  const auto file = path / "counts.json";
  if (!is_there(file)) return;
  const sparsemoe::Json counts = sparsemoe::read_json(file);
  sparsemoe::require(counts.is_object(), file.string(), ": expected an object");
  const auto of = [](const sparsemoe::Json& in, const std::string& key) {
    return in.is_object() && in.contains(key) ? in[key] : sparsemoe::Json();
  };
  for (std::size_t l = 0; l < files.size(); ++l) {
    sparsemoe::Json splits = of(of(counts, "pairs"), files[l]);
    for (const std::string& pivot : {std::string("english"), std::string("pivot"), files[l]})
      if (splits.is_null()) splits = of(counts, pivot);
    for (const auto& [name, rows] : corpus.splits) {
      const sparsemoe::Json wanted = of(splits, name);
      const auto texts = rows.text.find(corpus.languages[l]);
      const std::size_t has = texts == rows.text.end() ? 0 : texts->second.size();
      if (wanted.is_number_unsigned() && wanted.get<std::size_t>() != has)
        sparsemoe::fail_file(path / name / (files[l] + ".tsv"), "has ", has, " rows, counts.json says ",
                             wanted.get<std::size_t>(),
                             ": was it cut? (Remove counts.json if it was changed on purpose)");
    }
  }
}

}  // namespace

Corpus load_corpus(const fs::path& path, std::vector<std::string> languages, const fs::path& tokenizer) {
  std::error_code ignored;
  sparsemoe::require(fs::is_directory(path, ignored), path.string(), ": no such directory");
  sparsemoe::require(fs::is_directory(path / "train", ignored), path.string(), ": not a corpus: it has no train/");
  const std::vector<std::string> found = languages_of(path);
  if (languages.empty()) languages = found;
  std::vector<std::string> files;
  for (const auto& language : languages) {
    const std::string file = sparsemoe::find_language(language, found);
    std::string known;
    for (const auto& name : found) known += (known.empty() ? "" : ", ") + name;
    sparsemoe::require(!file.empty(), path.string(), ": the corpus has no language '", language, "'; it has ", known);
    const auto twice = std::find(files.begin(), files.end(), file);
    sparsemoe::require(twice == files.end(), path.string(), ": '",
                       languages[static_cast<std::size_t>(twice - files.begin())], "' and '", language,
                       "' are one language of the corpus, ", file);
    files.push_back(file);
  }
  Corpus corpus;
  corpus.languages = languages;
  for (const char* name : {"train", "dev", "test"})
    if (fs::is_directory(path / name, ignored)) corpus.splits[name] = load_split(path / name, languages, files);
  check_counts(path, corpus, files);
  sparsemoe::require(!corpus.split("train").ids.empty(), path.string(), ": the corpus has no rows in train");
  corpus.tokenizer = tokenizer;
  if (tokenizer.empty()) {
    for (const char* name : {"spm.model", "spm8k.model"})
      if (corpus.tokenizer.empty() && is_there(path / name)) corpus.tokenizer = path / name;
  } else {
    sparsemoe::require(is_there(tokenizer), tokenizer.string(), ": no such file");
  }
  return corpus;
}

}  // namespace nmt

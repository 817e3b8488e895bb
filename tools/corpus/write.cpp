// SPDX-License-Identifier: Apache-2.0
// write.cpp -- the functions of write.hpp, which says what they do.
#include "write.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "read_corpus.hpp"
#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/text/language.hpp"

namespace nmt {

void write_file(const fs::path& path, std::string_view text) {
  auto file = sparsemoe::File::create(path);
  file.write_all(text);
  file.close();
}

void write_corpus(const Corpus& corpus, const CorpusAbout& about, const fs::path& folder) {
  using nlohmann::ordered_json;
  ordered_json pairs = ordered_json::object(), pivot = ordered_json::object(), names = ordered_json::array();
  for (const char* name : {"train", "dev", "test"}) {
    const auto it = corpus.splits.find(name);
    if (it == corpus.splits.end()) continue;
    names.push_back(name);
    const SplitRows& rows = it->second;
    fs::create_directories(folder / name);
    const auto line = [](std::string& out, std::uint32_t id, std::initializer_list<std::string_view> fields) {
      const std::string digits = std::to_string(id);
      out.append(digits.size() < 6 ? 6 - digits.size() : 0, '0') += digits;
      for (const auto field : fields) (out += '\t') += field;
      out += '\n';
    };
    std::string text;
    for (std::size_t i = 0; i < rows.ids.size(); ++i)
      line(text, rows.ids[i], {std::string_view(&rows.kinds[i], 1), rows.sources[i]});
    write_file(folder / name / "sources.tsv", text);
    for (const auto& [language, texts] : rows.text) {
      text.clear();
      for (std::size_t i = 0; i < texts.size(); ++i) line(text, texts.ids[i], {texts.lines[i]});
      write_file(folder / name / (language + ".tsv"), text);
    }
    for (const auto& language : corpus.languages) {
      const auto found = rows.text.find(language);
      const std::size_t n = found == rows.text.end() ? 0 : found->second.size();
      (language == corpus.languages[0] ? pivot : pairs[language])[name] = n;
    }
  }
  ordered_json counts;
  counts["suites"] = about.suites;
  counts["pairs"] = pairs;
  counts[sparsemoe::same_language(corpus.languages[0], "en") ? "english" : "pivot"] = pivot;
  write_file(folder / "counts.json", counts.dump(1) + "\n");
  ordered_json description;
  description["format"] = 1;
  description["made_by"] = "sparsemoe " SPARSEMOE_VERSION;
  description["source"] = about.source;
  description["suites"] = about.suites;
  description["languages"] = corpus.languages;
  description["splits"] = names;
  description["kinds"] = about.kinds;
  description["seed"] = about.seed;
  if (about.vocabulary > 0) description["tokenizer"] = {{"file", "spm.model"}, {"vocabulary", about.vocabulary}};
  write_file(folder / "corpus.json", description.dump(1) + "\n");
}

fs::path NewDirectory::checked(const fs::path& target, bool replace) {
  sparsemoe::require(!target.empty(), "--out names no directory");
  std::error_code error;
  fs::path path = fs::absolute(target).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (is_there(path)) {
    const bool empty = fs::is_directory(path, error) && fs::is_empty(path, error);
    sparsemoe::require(empty || replace, path.string(),
                       " exists: choose another --out, or --force to replace a corpus");
    sparsemoe::require(empty || is_there(path / "corpus.json"), path.string(),
                       " is not a corpus (no corpus.json): it will not be replaced");
  }
  fs::create_directories(path.parent_path(), error);
  if (error) sparsemoe::fail_file(path.parent_path(), "cannot be made: ", error.message());
  return path;
}

}  // namespace nmt

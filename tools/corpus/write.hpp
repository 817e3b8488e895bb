// write.hpp -- writes a corpus directory so that it is there whole or not at all.
// Main idea: everything goes into a directory of its own beside the target, which is synced and renamed at the end; on
// an error it is removed. Read next: read_corpus.hpp, the reader of the same files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "read_corpus.hpp"
#include "sparsemoe/io/directory.hpp"

namespace nmt {

/// A corpus being built: AtomicDirectory with the rules of --out.
class NewDirectory {
 public:
  /// Throws Error when `target` exists and is neither empty nor, with `replace`, a corpus.
  NewDirectory(const fs::path& target, bool replace) : made_(checked(target, replace)) {}

  const fs::path& path() const { return made_.path(); }

  /// Syncs everything and gives the directory its name. Throws Error when the system refuses.
  void commit() { made_.commit(sparsemoe::Existing::replace); }

 private:
  static fs::path checked(const fs::path& target, bool replace) {
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

  sparsemoe::AtomicDirectory made_;
};

/// A file of a directory that is being built. Throws FileError.
inline void write_file(const fs::path& path, std::string_view text) {
  auto file = sparsemoe::File::create(path);
  file.write_all(text);
  file.close();
}

/// Where a corpus comes from, for corpus.json.
struct CorpusAbout {
  std::string source;               ///< "ddtp", or the name of the user's file
  std::vector<std::string> suites;  ///< empty for users' own text
  std::string kinds = "stpl";
  std::uint64_t seed = 0;
  int vocabulary = 0;  ///< 0: no tokenizer
};

/// Writes DIR/{train,dev,test}/XX.tsv and sources.tsv, counts.json and corpus.json. Holds no date, so the same input
/// gives the same bytes.
inline void write_corpus(const Corpus& corpus, const CorpusAbout& about, const fs::path& folder) {
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

}  // namespace nmt

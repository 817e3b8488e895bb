// SPDX-License-Identifier: Apache-2.0
// read_corpus.hpp -- a corpus in memory, and the reader of a corpus directory.
// Main idea: a row is one segment in several languages; its id joins the files of a split. Plain .tsv, .tsv.xz or
// .tsv.gz. Read next: write.hpp, which makes the directory; text/bleu.hpp for scoring what a model makes of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "text_file.hpp"

namespace nmt {

/// The texts of one language in one split, by ascending id.
struct Texts {
  std::vector<std::uint32_t> ids;
  std::vector<std::string> lines;

  std::size_t size() const { return ids.size(); }

  /// The text of a row, null where the row has none in this language.
  const std::string* find(std::uint32_t id) const {
    const auto it = std::lower_bound(ids.begin(), ids.end(), id);
    return it == ids.end() || *it != id ? nullptr : &lines[static_cast<std::size_t>(it - ids.begin())];
  }
};

/// Two texts of one row. The pointers live as long as the corpus.
struct TextPair {
  std::uint32_t id = 0;
  const std::string* source = nullptr;
  const std::string* target = nullptr;
};

/// One split. `ids`, `kinds` and `sources` are parallel, by ascending id.
struct SplitRows {
  std::map<std::string, Texts> text;  ///< by language
  std::vector<std::uint32_t> ids;
  std::vector<char> kinds;           ///< s short line, t sentence, p paragraph, l list item
  std::vector<std::string> sources;  ///< up to three source packages, separated by a space

  /// The kind of a row. Throws Error for an id that is not in the split.
  char kind(std::uint32_t id) const {
    const auto it = std::lower_bound(ids.begin(), ids.end(), id);
    sparsemoe::require(it != ids.end() && *it == id, "no row ", id, " in this split");
    return kinds[static_cast<std::size_t>(it - ids.begin())];
  }

  /// The rows that have both languages, by id; empty when the split lacks one of them.
  std::vector<TextPair> pairs(const std::string& source, const std::string& target) const {
    std::vector<TextPair> out;
    const auto a = text.find(source), b = text.find(target);
    if (a == text.end() || b == text.end()) return out;
    for (std::size_t i = 0, j = 0; i < a->second.size() && j < b->second.size();) {
      const auto x = a->second.ids[i], y = b->second.ids[j];
      if (x == y) out.push_back({x, &a->second.lines[i], &b->second.lines[j]});
      if (x <= y) ++i;
      if (y <= x) ++j;
    }
    return out;
  }
};

struct Corpus {
  std::vector<std::string> languages;       ///< the pivot (English) first
  std::map<std::string, SplitRows> splits;  ///< "train", "dev", "test": those that exist
  fs::path tokenizer;                       ///< empty when the directory has none

  /// Throws Error for a split the corpus does not have.
  const SplitRows& split(const std::string& name) const {
    const auto it = splits.find(name);
    sparsemoe::require(it != splits.end(), "the corpus has no split '", name, "'");
    return it->second;
  }
};

/// Reads one split of a corpus directory in the given languages; `files` are their names there. Texts are cleaned
/// (clean.hpp), whoever wrote them.
/// Throws Error with file:line for malformed UTF-8, wrong columns, ids that do not ascend or are not in sources.tsv.
SplitRows load_split(const fs::path& folder, const std::vector<std::string>& languages,
                     const std::vector<std::string>& files);

/// Reads a corpus directory. `languages` empty: all; else by any code of theirs, and the corpus has them under the
/// names given. `tokenizer` empty: spm.model, else spm8k.model in the directory.
/// Throws Error naming the file when the directory is none, has no rows, or as load_split.
Corpus load_corpus(const fs::path& path, std::vector<std::string> languages = {}, const fs::path& tokenizer = {});

}  // namespace nmt

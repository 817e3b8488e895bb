// SPDX-License-Identifier: Apache-2.0
// write.hpp -- writes a corpus directory so that it is there whole or not at all.
// Main idea: everything goes into a directory of its own beside the target, which is synced and renamed at the end; on
// an error it is removed. Read next: read_corpus.hpp, the reader of the same files.
#pragma once

#include <cstdint>
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
  static fs::path checked(const fs::path& target, bool replace);

  sparsemoe::AtomicDirectory made_;
};

/// A file of a directory that is being built. Throws FileError.
void write_file(const fs::path& path, std::string_view text);

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
void write_corpus(const Corpus& corpus, const CorpusAbout& about, const fs::path& folder);

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// import.hpp -- reads users' own parallel text: TSV files and pairs of line-by-line files, as they come from the web.
// Main idea: rows that cannot be used are left out and counted by reason, never changed; with `strict` the first one
// ends it with file:line. What fits no row (files of unequal length, no header) is always an Error. Read next:
// hold_out.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/error.hpp"
#include "text_file.hpp"

namespace nmt {

/// Where a row may go: users can bring development and test sets of their own.
enum class RowUse { any, dev, test };

/// Parallel lines of users; `languages` name the columns, the first is the pivot. A row has as many texts, cleaned;
/// an empty one means none in that language.
struct ParallelText {
  std::vector<std::string> languages;
  std::vector<std::vector<std::string>> rows;
  std::vector<RowUse> use;  ///< of each row; empty: any
};

/// Why a row was left out; `kept` when it was not.
enum class RowFault { kept, columns, encoding, nul, empty, too_long, identical };

inline constexpr std::array<std::string_view, 7> row_fault_names = {
    "kept", "with other columns than the header", "not UTF-8", "with a NUL byte", "empty", "over-long", "identical"};

struct ImportOptions {
  bool strict = false;                 ///< the first row that cannot be used is an Error
  bool drop_identical = false;         ///< leave out translations that are their source
  std::size_t max_characters = 20000;  ///< of one text; 0: any
};

/// Rows by fault, and the first place of each.
struct RowCounts {
  std::size_t read = 0;
  std::array<std::size_t, row_fault_names.size()> of{};
  std::array<std::string, row_fault_names.size()> first;

  /// "3 rows read: 2 kept, 1 empty"; `repeated` of the kept ones are repeats.
  std::string summary(std::size_t repeated = 0) const;
};

/// Reads files into one ParallelText.
class ParallelReader {
 public:
  explicit ParallelReader(const ImportOptions& options) : options_(options) {}

  /// A TSV file whose first line names the languages. A row may leave cells empty, but not the pivot and not all
  /// others. Throws Error for a file without such a line.
  void read_tsv(const fs::path& path, RowUse use);

  /// Two files, line by line translations of each other. Throws Error when they differ in length or are empty.
  void read_pair(const fs::path& source, const fs::path& target, const std::string& source_language,
                 const std::string& target_language, RowUse use);

  const RowCounts& counts() const { return counts_; }

  /// What was read. Throws Error when no row is left.
  ParallelText take();

 private:
  /// The column of a language, by any of its codes; a new one at the end. Held-out sets bring no new language.
  std::size_t column(const std::string& name, RowUse use);

  void fault(RowFault kind, const std::string& where, const std::string& sentence);

  bool bad_bytes(std::string_view line, const std::string& where);

  /// `where` is the pivot's place, `others` that of the translations.
  void add(std::vector<std::string> row, const std::string& where, const std::string& others, RowUse use);

  ImportOptions options_;
  ParallelText out_;
  RowCounts counts_;
};

}  // namespace nmt

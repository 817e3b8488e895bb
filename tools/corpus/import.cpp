// SPDX-License-Identifier: Apache-2.0
// import.cpp -- the functions of import.hpp, which says what they do.
#include "import.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "clean.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "sparsemoe/text/language.hpp"
#include "sparsemoe/text/utf8.hpp"
#include "text_file.hpp"

namespace nmt {

namespace {

// The lines of a text, without their ends, CR LF or LF, and without a byte order mark.
std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  for (std::size_t start = 0; start < text.size();) {
    const auto end = std::min(text.find('\n', start), text.size());
    std::string_view line = text.substr(start, end - start);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines.push_back(line);
    start = end + 1;
  }
  return lines;
}

std::vector<std::string_view> split_tabs(std::string_view line) {
  std::vector<std::string_view> fields;
  for (std::size_t start = 0; start <= line.size();) {
    const auto stop = std::min(line.find('\t', start), line.size());
    fields.push_back(line.substr(start, stop - start));
    start = stop + 1;
  }
  return fields;
}

}  // namespace

std::string RowCounts::summary(std::size_t repeated) const {
  std::string out = sparsemoe::join(read, " rows read: ", of[0] - repeated, " kept"), places;
  for (std::size_t f = 1; f < of.size(); ++f) {
    if (of[f] == 0) continue;
    out += sparsemoe::join(", ", of[f], " ", row_fault_names[f]);
    places += sparsemoe::join(places.empty() ? "" : ", ", first[f], " ", row_fault_names[f]);
  }
  if (repeated > 0) out += sparsemoe::join(", ", repeated, " repeated");
  return out + (places.empty() ? "" : "; the first: " + places);
}

void ParallelReader::read_tsv(const fs::path& path, RowUse use) {
  const std::string text = read_text(path);
  const auto lines = lines_of(text);
  sparsemoe::require(!lines.empty(), path.string(), ": empty file, expected a header line of language codes");
  const auto header = split_tabs(lines[0]);
  sparsemoe::require(header.size() >= 2, path.string(), ":1: expected two or more language codes separated by tabs");
  std::vector<std::size_t> columns;
  bool words = true;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const std::string name(header[i]);
    try {
      require_language_name(name);
      for (std::size_t j = 0; j < i; ++j)
        if (sparsemoe::same_language(header[j], name))
          sparsemoe::fail(header[j] == name ? "" : std::string(header[j]) + " and ", name, " names two columns");
      columns.push_back(column(name, use));
    } catch (const sparsemoe::Error& problem) {
      sparsemoe::fail(path.string(), ":1: ", problem.what());
    }
    words = words && looks_like_a_word(name);
  }
  if (words)
    sparsemoe::say("warning: ", path.string(), ":1: ", header[0], " and ", header[1],
                   " are taken for names of languages; if this line is text, put a line of language codes before it");
  sparsemoe::require(lines.size() > 1, path.string(), ": a header and no text");
  for (std::size_t n = 1; n < lines.size(); ++n) {
    const std::string where = sparsemoe::join(path.string(), ":", n + 1);
    if (bad_bytes(lines[n], where)) continue;
    const auto fields = split_tabs(lines[n]);
    if (fields.size() != columns.size()) {
      fault(RowFault::columns, where, sparsemoe::join(fields.size(), " columns, the header has ", columns.size()));
      continue;
    }
    std::vector<std::string> row(out_.languages.size());
    for (std::size_t i = 0; i < fields.size(); ++i) row[columns[i]] = clean_text(fields[i]);
    add(std::move(row), where, where, use);
  }
}

void ParallelReader::read_pair(const fs::path& source, const fs::path& target, const std::string& source_language,
                               const std::string& target_language, RowUse use) {
  require_language_name(source_language);
  require_language_name(target_language);
  sparsemoe::require(!sparsemoe::same_language(source_language, target_language), source.string(), " and ",
                     target.string(), " are both ", source_language);
  const std::string a = read_text(source), b = read_text(target);
  const auto x = lines_of(a), y = lines_of(b);
  sparsemoe::require(x.size() == y.size(), source.string(), ":", std::min(x.size(), y.size()) + 1, ": ",
                     source.string(), " has ", x.size(), " lines and ", target.string(), " has ", y.size());
  sparsemoe::require(!x.empty(), source.string(), ": empty file");
  const std::size_t from = column(source_language, use), to = column(target_language, use);
  sparsemoe::require(from == 0 || to == 0, source.string(), " and ", target.string(), ": neither is ",
                     out_.languages[0], ", the first language of the corpus");
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::string at = sparsemoe::join(source.string(), ":", i + 1),
                      to_at = sparsemoe::join(target.string(), ":", i + 1);
    if (bad_bytes(x[i], at) || bad_bytes(y[i], to_at)) continue;
    std::vector<std::string> row(out_.languages.size());
    row[from] = clean_text(x[i]);
    row[to] = clean_text(y[i]);
    add(std::move(row), from == 0 ? at : to_at, from == 0 ? to_at : at, use);
  }
}

ParallelText ParallelReader::take() {
  sparsemoe::require(counts_.of[0] > 0, "no row is left: ", counts_.summary());
  for (auto& row : out_.rows) row.resize(out_.languages.size());  // languages may have come after it
  return std::move(out_);
}

std::size_t ParallelReader::column(const std::string& name, RowUse use) {
  const auto it = std::find_if(out_.languages.begin(), out_.languages.end(),
                               [&](const std::string& known) { return sparsemoe::same_language(known, name); });
  if (it != out_.languages.end()) return static_cast<std::size_t>(it - out_.languages.begin());
  sparsemoe::require(use == RowUse::any, "the training text has no language '", name, "'");
  out_.languages.push_back(name);
  return out_.languages.size() - 1;
}

void ParallelReader::fault(RowFault kind, const std::string& where, const std::string& sentence) {
  sparsemoe::require(!options_.strict, where, ": ", sentence);
  const auto i = static_cast<std::size_t>(kind);
  ++counts_.read;
  if (counts_.of[i]++ == 0) counts_.first[i] = where;
}

bool ParallelReader::bad_bytes(std::string_view line, const std::string& where) {
  if (const auto at = sparsemoe::find_invalid_utf8(line)) {
    fault(RowFault::encoding, where, sparsemoe::join("not valid UTF-8 at byte ", *at));
    return true;
  }
  if (line.find('\0') == std::string_view::npos) return false;
  fault(RowFault::nul, where, "a NUL byte: is this a text file?");
  return true;
}

void ParallelReader::add(std::vector<std::string> row, const std::string& where, const std::string& others,
                         RowUse use) {
  const auto any = [&row] { return std::any_of(row.begin() + 1, row.end(), [](const auto& t) { return !t.empty(); }); };
  if (row[0].empty()) return fault(RowFault::empty, where, "no text in " + out_.languages[0]);
  if (!any()) return fault(RowFault::empty, others, "no translation");
  for (const auto& text : row)
    if (options_.max_characters > 0 && text.size() > options_.max_characters &&
        count_characters(text) > options_.max_characters)
      return fault(
          RowFault::too_long, where,
          sparsemoe::join(count_characters(text), " characters; --max-characters is ", options_.max_characters));
  if (options_.drop_identical) {
    for (std::size_t l = 1; l < row.size(); ++l)
      if (row[l] == row[0]) row[l].clear();
    if (!any()) return fault(RowFault::identical, where, "the translation is the source");
  }
  ++counts_.read;
  ++counts_.of[0];
  out_.rows.push_back(std::move(row));
  out_.use.push_back(use);
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// fuzz/corpus_text.cpp -- libFuzzer target: bytes as a table of parallel text, packed or not. An Error that begins with
// the file, or rows that are clean: valid UTF-8, without tabs and line breaks, the same when cleaned again.
#include <cstdlib>
#include <string>

#include "memory_directory.hpp"
#include "sparsemoe/text/utf8.hpp"
#include "tools/corpus/clean.hpp"
#include "tools/corpus/import.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = fuzz::put("text.tsv", {reinterpret_cast<const char*>(data), size});
  try {
    nmt::ParallelReader reader({.strict = size % 2 == 1});
    reader.read_tsv(path, nmt::RowUse::any);
    const nmt::ParallelText text = reader.take();
    if (text.rows.empty() || text.languages.size() < 2) std::abort();
    for (const auto& row : text.rows) {
      if (row.size() != text.languages.size() || row[0].empty()) std::abort();
      for (const std::string& cell : row) {
        if (sparsemoe::find_invalid_utf8(cell) || cell.find_first_of("\t\n\r") != std::string::npos) std::abort();
        if (nmt::clean_text(cell) != cell) std::abort();
      }
    }
  } catch (const sparsemoe::Error& error) {
    const std::string what = error.what();
    if (!what.starts_with(path.string()) && !what.starts_with("no row is left")) std::abort();
  }
  return 0;
}

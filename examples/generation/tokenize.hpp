// SPDX-License-Identifier: Apache-2.0
// tokenize.hpp -- --tokenize: the ids of lines of standard input, a row a line, without running the model. What the
// model would read can be compared with any other implementation. Read next: tokenizer.hpp.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>

#include "sparsemoe/io/line_reader.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/text/utf8.hpp"
#include "tokenizer.hpp"

namespace generation {

/// Throws Error with the line's number for text that cannot be read.
inline int print_ids(const Tokenizer& tokenizer, std::int32_t from) {
  moe::LineReader lines(STDIN_FILENO, "standard input");
  for (std::string line; lines.next(line);) {
    const std::string where = moe::join("standard input:", lines.lines());
    moe::require_utf8(line, where);
    std::string row;
    try {
      for (const std::int32_t id : tokenizer.encode(line, from)) row += (row.empty() ? "" : " ") + std::to_string(id);
    } catch (const moe::Error& error) {
      moe::fail(where, ": ", error.what());
    }
    row += '\n';
    std::fwrite(row.data(), 1, row.size(), stdout);
  }
  moe::require_output_written();
  return 0;
}

}  // namespace generation

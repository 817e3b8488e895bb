// SPDX-License-Identifier: Apache-2.0
// standard_output.hpp -- whether standard output took what was printed. run_main() asks at the end; a program that
// answers line by line asks after each. Read next: run_main.hpp.
#pragma once

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Throws Error with Exit::output if standard output did not take everything printed so far.
inline void require_output_written() {
  const bool failed = std::ferror(stdout) != 0;
  errno = 0;
  if (std::fflush(stdout) == 0 && !failed) return;
  throw Error(join("standard output: cannot write: ",
                   errno != 0 ? std::generic_category().message(errno) : "is the disk full?"),
              Exit::output);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

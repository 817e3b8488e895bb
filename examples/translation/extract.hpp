// SPDX-License-Identifier: Apache-2.0
// extract.hpp -- the command `extract`, which a study and a benchmark ask for too. Read next: extract_command.hpp.
#pragma once

#include <string>
#include <vector>

#include "selection.hpp"

namespace nmt {

struct ExtractOptions : Selection {
  ExtractOptions() { rows = 200; }
  std::string model, out, prune, corpus;
  std::vector<std::string> tasks;
  bool dense = false, json = false, quiet = false;
};

/// Throws Error for what cannot be cut out. Returns 0.
int extract(const ExtractOptions& o);

}  // namespace nmt

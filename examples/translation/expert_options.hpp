// SPDX-License-Identifier: Apache-2.0
// expert_options.hpp -- where a served model keeps its expert matrices: plain, in 8 bits, or in the checkpoint.
// Read next: command.hpp, sparsemoe/infer/int8.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "command.hpp"
#include "run_files.hpp"

namespace nmt {

/// Where a served model keeps its expert matrices.
struct ExpertOptions {
  bool int8 = false, mapped = false;
};
std::vector<Option> expert_options(ExpertOptions& o);

/// load_model with them; what that saves is said on standard error. Throws Error for a model without experts.
LoadedModel load_model(const fs::path& path, std::int64_t threads, const ExpertOptions& experts);

}  // namespace nmt

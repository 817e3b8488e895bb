// SPDX-License-Identifier: Apache-2.0
// commands/study.cpp -- the command `study`.
#include <memory>

#include "../command.hpp"
#include "../study_command.hpp"
#include "sparsemoe/io/options.hpp"

namespace nmt {

Command study_command(const Words& /*words*/) {
  const auto o = std::make_shared<StudySettings>();
  const auto add = [o](CLI::App& command) { moe::add_options(command, *o); };
  return {"study", "Train, score, extract and time the routing strategies of the task-MoE paper's Table 1", add,
          [o] { return Study(*o).run(); }};
}

}  // namespace nmt

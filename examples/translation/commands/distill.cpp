// SPDX-License-Identifier: Apache-2.0
// commands/distill.cpp -- the command `distill`.
#include <memory>

#include "../command.hpp"
#include "../distill_command.hpp"
#include "../option_groups.hpp"
#include "sparsemoe/io/options.hpp"

namespace nmt {

Command distill_command(const Words& words) {
  struct Options {
    DistillSettings settings;
    bool resume = false;
  };
  const auto o = std::make_shared<Options>();
  if (const std::string run = resumed_run(words); !run.empty() && fs::exists(fs::path(run) / kDistillFile)) {
    moe::load_config(fs::path(run) / "settings.json", o->settings.train);
    DistillRecord record;
    moe::load_config(fs::path(run) / kDistillFile, record);
    o->settings.distill = record.options;
    o->settings.distill.teacher = record.checkpoint;  // a teacher that went on training has newer ones
  }
  const auto add = [o](CLI::App& command) {
    moe::add_options(command, o->settings);
    command.add_flag("--resume", o->resume, "Go on with the run in --out from its newest checkpoint");
    group_options(command);
  };
  return {"distill", "Train a dense student on what a mixture-of-experts teacher says; its sizes are the teacher's",
          add, [o] { return DistillCommand(o->settings, o->resume).run(); }};
}

}  // namespace nmt

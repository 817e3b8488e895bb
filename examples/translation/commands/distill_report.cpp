// SPDX-License-Identifier: Apache-2.0
// commands/distill_report.cpp -- the command `distill-report`.
#include "../distill_report.hpp"

#include <memory>

#include "../command.hpp"

namespace nmt {

Command distill_report_command(const Words& /*words*/) {
  const auto o = std::make_shared<DistillReportOptions>();
  const auto add = [o](CLI::App& command) {
    add_option_list(
        command,
        {{.name = "--dense", .to = &o->dense, .help = "The dense model: run or checkpoint", .given = Given::always},
         {.name = "--teacher", .to = &o->teacher, .help = "The teacher: run or checkpoint", .given = Given::always},
         {.name = "--student", .to = &o->students, .help = "Students, a line each"},
         {.name = "--extracted", .to = &o->extracted, .help = "Sub-networks of the teacher, one line"},
         {.name = "--corpus", .to = &o->corpus, .help = "Corpus directory", .given = Given::always},
         {.name = "--out", .to = &o->out, .help = "Directory for distill.json and distill.md", .given = Given::always},
         split_option(*o)});
    add_option_list(
        command,
        direction_options(*o) + text_options(*o, {.kinds = "Kinds of text; default: what the teacher was trained on"}));
    add_option_list(
        command,
        {{.name = "--beam", .to = &o->beam, .help = "Beams; 1: greedy", .value = Default::said, .range = {{1, 64}}},
         threads_option(o->threads)});
  };
  return {"distill-report", "What of a teacher's gain over a dense model its students keep, beside its sub-networks",
          add, [o] { return DistillReport(*o).run(); }};
}

}  // namespace nmt

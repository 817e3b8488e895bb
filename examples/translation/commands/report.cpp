// SPDX-License-Identifier: Apache-2.0
// commands/report.cpp -- the command `report`: one page of a run.
#include <memory>
#include <string>

#include "../command.hpp"
#include "sparsemoe/report/training_report.hpp"

namespace nmt {

Command report_command(const Words& /*words*/) {
  struct Options {
    std::string run, out;
  };
  const auto o = std::make_shared<Options>();
  const auto add = [o](CLI::App& command) {
    add_option_list(command, {{.name = "--run", .to = &o->run, .help = "Run directory", .given = Given::always},
                              {.name = "--out", .to = &o->out, .help = "HTML file to write", .given = Given::always}});
  };
  return {"report", "One HTML file of a run, which opens offline", add, [o] {
            sparsemoe::write_training_report(o->run, o->out);
            return 0;
          }};
}

}  // namespace nmt

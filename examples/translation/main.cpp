// SPDX-License-Identifier: Apache-2.0
// sparsemoe-nmt -- a mixture-of-experts translator from text to report: corpus, train, translate, evaluate, report.
// Example:  sparsemoe-nmt corpus --out corpus --languages da,it
//           sparsemoe-nmt train --corpus corpus --out run --minutes 10
//           echo "a small text editor" | sparsemoe-nmt translate --model run --to da
// Read next: command.hpp for the commands, settings.hpp for the knobs, train.hpp for the loop, translator_of.hpp for
// the model behind it.
#include <CLI/CLI.hpp>
#include <array>
#include <utility>
#include <vector>

#include "command.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace {

/// In the order of work, which is the order of --help.
constexpr std::array commands = {nmt::corpus_command,         nmt::train_command,   nmt::evaluate_command,
                                 nmt::translate_command,      nmt::samples_command, nmt::routing_command,
                                 nmt::report_command,         nmt::extract_command, nmt::distill_command,
                                 nmt::distill_report_command, nmt::study_command,   nmt::benchmark_command};

int program(int argc, char** argv) {
  CLI::App app("sparsemoe-nmt: a mixture-of-experts translator, from text to report", "sparsemoe-nmt");
  app.require_subcommand(1);
  const nmt::Words words(argv + 1, argv + argc);
  std::vector<std::pair<CLI::App*, nmt::Command>> added;
  for (const auto make : commands) {
    nmt::Command command = make(words);
    CLI::App* parser = app.add_subcommand(command.name, command.help);
    command.add(*parser);
    added.emplace_back(parser, std::move(command));
  }
  if (const auto status = sparsemoe::parse_arguments(app, argc, argv)) return *status;
  for (const auto& [parser, command] : added)
    if (parser->parsed()) return command.run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-nmt", argc, argv, program); }

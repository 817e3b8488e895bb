// SPDX-License-Identifier: Apache-2.0
// commands/extract.cpp -- the command `extract`.
#include <memory>

#include "../command.hpp"
#include "../extract_command.hpp"

namespace nmt {

int extract(const ExtractOptions& o) { return Extraction(o).run(); }

Command extract_command(const Words& /*words*/) {
  const auto o = std::make_shared<ExtractOptions>();
  const auto add = [o](CLI::App& command) {
    add_option_list(command,
                    {{.name = "--model", .to = &o->model, .help = "Run or checkpoint", .given = Given::always},
                     {.name = "--task",
                      .to = &o->tasks,
                      .help = "Tasks to keep, as config.json names them: da, or en-da for pairs",
                      .given = Given::always},
                     {.name = "--out",
                      .to = &o->out,
                      .help = "Directory of the sub-network, a checkpoint of its own",
                      .given = Given::always},
                     {.name = "--dense", .to = &o->dense, .help = "Fold the experts of the one task into dense layers"},
                     {.name = "--prune-by-usage",
                      .to = &o->prune,
                      .help = "Also keep only the most used experts of token-routed layers: "
                              "so many (4), or those with this share of the choices (0.95)"},
                     {.name = "--corpus", .to = &o->corpus, .help = "Corpus directory on which use is measured"},
                     split_option(*o, {.split = "Split of it: train, dev or test"})});
    add_option_list(command, text_options(*o));
    add_option_list(command, {threads_option(o->threads), {.name = "--json", .to = &o->json, .help = "Print JSON"}});
  };
  return {"extract", "Cut the sub-network of some tasks out of a task-routed model", add, [o] { return extract(*o); }};
}

}  // namespace nmt

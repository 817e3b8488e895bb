// SPDX-License-Identifier: Apache-2.0
// commands/routing.cpp -- the command `routing`.
#include <memory>

#include "../command.hpp"
#include "../routing_command.hpp"

namespace nmt {

Command routing_command(const Words& /*words*/) {
  const auto o = std::make_shared<RoutingOptions>();
  const auto add = [o](CLI::App& command) {
    add_option_list(command,
                    {{.name = "--model", .to = &o->model, .help = "Run or checkpoint", .given = Given::always},
                     {.name = "--corpus", .to = &o->corpus, .help = "Corpus directory", .given = Given::always},
                     {.name = "--out",
                      .to = &o->out,
                      .help = "Directory for routing.csv, routing.json and routing.html",
                      .given = Given::always},
                     split_option(*o)});
    add_option_list(command, direction_options(*o) + text_options(*o));
    add_option_list(
        command,
        {{.name = "--reference", .to = &o->reference, .help = "Read the reference translations instead of decoding"},
         threads_option(o->threads)});
  };
  return {"routing", "Which experts a model uses for which direction: CSV, JSON and a page of heat maps", add,
          [o] { return routing(*o); }};
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// option_groups.hpp -- the headings under which --help lists the options of the commands that train.
// Read next: settings.hpp for the options, main.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace nmt {

/// The heading in --help under which the option of a field stands.
inline const char* option_group(std::string_view field) {
  struct Group {
    const char* heading;
    std::vector<std::string_view> fields;
  };
  static const std::vector<Group> groups = {
      {"Data",
       {"corpus", "out", "languages", "tokenizer", "upcycle_from", "kinds", "directions", "temperature", "max_length"}},
      {"Distillation", {"teacher", "level", "soft", "soft_temperature", "beam", "fresh"}},
      {"Routing",
       {"encoder_router", "decoder_router", "task", "experts", "sparse_every", "hash_table", "capacity_factor",
        "eval_capacity_factor", "group", "balance_loss", "z_loss", "jitter", "expert_dropout"}},
      {"Model",
       {"precision", "encoder_layers", "decoder_layers", "width", "heads", "hidden", "relative_positions", "dropout",
        "label_smoothing", "init_scale"}},
      {"Optimiser",
       {"optimiser", "schedule", "learning_rate", "floor", "clip", "weight_decay", "beta1", "beta2", "warmup", "tokens",
        "accumulate"}}};
  for (const Group& g : groups)
    if (std::find(g.fields.begin(), g.fields.end(), field) != g.fields.end()) return g.heading;
  return "Run";
}

/// Puts every option of a command under its heading; --config is of all of them and stays beside --help.
inline void group_options(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    if (option == command.get_help_ptr() || option->check_lname("config") || option->get_lnames().empty()) continue;
    std::string field = option->get_lnames().front();
    std::replace(field.begin(), field.end(), '-', '_');
    option->group(option_group(field));
  }
}

}  // namespace nmt

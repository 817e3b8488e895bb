// SPDX-License-Identifier: Apache-2.0
// commands/options.cpp -- the options of command.hpp and selection.hpp, for the parser of command lines.
#include <CLI/CLI.hpp>
#include <type_traits>

#include "../selection.hpp"

namespace nmt {

namespace {

template <class T>
void add_option(CLI::App& command, const Option& o, T& to) {
  if constexpr (std::is_same_v<T, bool>) {
    command.add_flag(o.name, to, o.help);
  } else {
    CLI::Option* option = command.add_option(o.name, to, o.help);
    if constexpr (std::is_same_v<T, std::vector<std::string>>) option->delimiter(',');
    if (o.given == Given::always) option->required();
    if (o.value == Default::said) option->capture_default_str();
    if (!o.one_of.empty()) option->check(CLI::IsMember(o.one_of));
    if (o.names != nullptr) option->transform(CLI::CheckedTransformer(*o.names));
    if (!o.range) return;
    if constexpr (std::is_same_v<T, std::optional<double>>)
      option->check(CLI::Range(static_cast<double>(o.range->first), static_cast<double>(o.range->second)));
    else
      option->check(CLI::Range(o.range->first, o.range->second));
  }
}

}  // namespace

void add_option_list(CLI::App& command, const std::vector<Option>& options) {
  for (const Option& o : options) std::visit([&](auto* to) { add_option(command, o, *to); }, o.to);
}

Option split_option(Selection& s, const SelectionWords& words) {
  return {.name = "--split", .to = &s.split, .help = words.split, .value = Default::said};
}

Option threads_option(std::int64_t& threads) {
  return {.name = "--threads", .to = &threads, .help = "Threads; 0: all", .value = Default::said, .range = {{0, 1024}}};
}

std::vector<Option> direction_options(Selection& s) {
  return {{.name = "--languages", .to = &s.languages, .help = "Only these languages (beside the first)"},
          {.name = "--directions",
           .to = &s.directions,
           .help = "both, en2xx or xx2en",
           .value = Default::said,
           .one_of = {"both", "en2xx", "xx2en"}}};
}

std::vector<Option> text_options(Selection& s, const SelectionWords& words) {
  return {{.name = "--kinds", .to = &s.kinds, .help = words.kinds},
          {.name = "--rows",
           .to = &s.rows,
           .help = "Rows a direction, evenly spread; 0: all",
           .value = Default::said,
           .range = {{0, 100000000}}},
          {.name = "--max-length", .to = &s.max_length, .help = words.max_length, .range = {{4, 100000}}}};
}

std::vector<Option> operator+(std::vector<Option> a, const std::vector<Option>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace nmt

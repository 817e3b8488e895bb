// SPDX-License-Identifier: Apache-2.0
// options.hpp -- command-line options from a config's field list, with CLI11. The only header that needs CLI11.
// Main idea: f("learning_rate", lr, "peak learning rate") becomes --learning-rate; precedence is defaults < --config
// FILE < command line, wherever --config stands among the arguments. Read next: json_config.hpp.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/io/terminal.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

inline std::string option_name(const std::string& prefix, std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return prefix + name;
}

template <Configurable T>
void add_fields(CLI::App& app, T& config, const std::string& prefix) {
  config.visit([&](const char* field_name, auto& field, const char* help) {
    using Field = std::remove_reference_t<decltype(field)>;
    const std::string name = option_name(prefix, field_name);
    if constexpr (Configurable<Field>) {
      add_fields(app, field, name + "-");
    } else if constexpr (NamedEnum<Field>) {
      app.add_option_function<std::string>(
             "--" + name,
             [&field, name](const std::string& text) {
               const auto names = field_names(field);
               const auto at = std::find(names.begin(), names.end(), text);
               if (at == names.end())
                 throw CLI::ValidationError("--" + name, "must be one of " + enum_choices<Field>());
               field = static_cast<Field>(at - names.begin());
             },
             help + (" (" + enum_choices<Field>() + ")"))
          ->default_str(std::string(field_names(field).at(static_cast<std::size_t>(field))))
          ->type_name("NAME");
    } else if constexpr (std::is_same_v<Field, bool>) {
      app.add_flag("--" + name + ",!--no-" + name, field, help)->default_str(field ? "on" : "off");
    } else if constexpr (std::is_same_v<Field, std::filesystem::path>) {
      app.add_option_function<std::string>(
             "--" + name, [&field](const std::string& text) { field = text; }, help)
          ->default_str(field.string())
          ->type_name("PATH");
    } else {
      const Json value = field_to_json(field);
      CLI::Option* option = app.add_option("--" + name, field, help);
      if constexpr (IsVector<Field>::value) option->delimiter(',');  // a,b is a list, as everywhere on command lines
      option->default_str(value.is_string() ? value.get<std::string>() : value.dump());
    }
  });
}

}  // namespace detail

/// Adds `--name-with-dashes` for every field (bool: also --no-name) and `--config FILE`. `config` must outlive `app`.
/// A FileError about the config file passes through app.parse(). check() is the caller's, see parse_command_line.
template <Configurable T>
void add_options(CLI::App& app, T& config) {
  // Triggered while arguments are still being read; fields are assigned after all of them, so they win.
  app.add_option_function<std::string>(
         "--config",
         [&config](const std::string& file) { detail::object_from_json(config, read_json(file), "", file); },
         "JSON file with these options (keys with _ for -); the command line wins")
      ->type_name("FILE")
      ->trigger_on_parse();
  detail::add_fields(app, config, "");
}

namespace detail {

/// Names of the options of `app` and, where the command line chose one, of its command.
inline std::vector<std::string> known_options(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  for (const CLI::App* command : app.get_subcommands())
    for (std::string& name : known_options(*command)) names.push_back(std::move(name));
  return names;
}

/// "no command 'tarin'; did you mean train?" or "unknown option --hed; did you mean --head?" for the first word that
/// the parser did not take, or "".
inline std::string unknown_word(const CLI::App& app) {
  const std::vector<std::string> left = app.remaining(true);
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  if (!left.empty() && !left.front().starts_with("-") && !commands.empty() && app.get_subcommands().empty()) {
    std::vector<std::string> names;
    for (const CLI::App* command : commands) names.push_back(command->get_name());
    const std::string near = closest_name(left.front(), names);
    return "no command '" + left.front() + "'" + (near.empty() ? "" : "; did you mean " + near + "?");
  }
  for (const std::string& word : left) {
    if (!word.starts_with("--") || word.size() == 2) continue;
    const std::string name = word.substr(2, word.find('=') == std::string::npos ? word.npos : word.find('=') - 2);
    const std::string near = closest_name(name, known_options(app));
    return "unknown option --" + name + (near.empty() ? "" : "; did you mean --" + near + "?");
  }
  return "";
}

}  // namespace detail

/// Parses the command line; adds --version. Returns nothing to go on, or the status to leave main with: 0 after --help
/// and --version, 64 after one sentence on standard error. What callbacks of options throw beside CLI's own passes.
inline std::optional<int> parse_arguments(CLI::App& app, int argc, const char* const* argv) {
  if (app.get_version_ptr() == nullptr) app.set_version_flag("--version", app.get_name() + " " + SPARSEMOE_VERSION);
  std::string sentence;
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success& wanted) {
    std::ostringstream out;
    const int status = app.exit(wanted, out, out);
    std::fputs(printable(out.str(), Lines::keep).c_str(), stdout);  // defaults may come from a file
    return status;
  } catch (const CLI::ExtrasError& error) {
    sentence = detail::unknown_word(app);
    if (sentence.empty()) sentence = error.what();
  } catch (const CLI::RequiredError& error) {
    sentence = detail::unknown_word(app);
    if (sentence.empty()) sentence = error.what();
  } catch (const CLI::ParseError& error) {
    sentence = error.what();
  }
  std::replace(sentence.begin(), sentence.end(), '\n', ' ');
  say(app.get_name(), ": ", sentence, " (--help lists the options)");
  return static_cast<int>(Exit::usage);
}

/// Parses the command line into `config` and runs its check(). Call add_options first. Returns as parse_arguments; 64
/// also for a config file or a value that does not hold.
template <Configurable T>
std::optional<int> parse_command_line(CLI::App& app, int argc, const char* const* argv, T& config) {
  try {
    if (const auto status = parse_arguments(app, argc, argv)) return status;
    check_config(config);
    return std::nullopt;
  } catch (const Error& error) {
    say(app.get_name(), ": ", error.what());
  }
  return static_cast<int>(Exit::usage);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

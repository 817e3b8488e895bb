// options.hpp -- command-line options from a config's field list, with CLI11. The only header that needs CLI11.
// Main idea: f("learning_rate", lr, "peak learning rate") becomes --learning-rate; precedence is defaults < --config
// FILE < command line, wherever --config stands among the arguments. Read next: json_config.hpp.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "sparsemoe/io/json_config.hpp"

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

template <Configurable T>
std::vector<std::string> option_names(T& config, const std::string& prefix = "") {
  std::vector<std::string> names;
  config.visit([&](const char* field_name, auto& field, const char*) {
    const std::string name = option_name(prefix, field_name);
    if constexpr (Configurable<std::remove_reference_t<decltype(field)>>) {
      for (std::string& inner : option_names(field, name + "-")) names.push_back(std::move(inner));
    } else {
      names.push_back(name);
    }
  });
  return names;
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

/// Parses the command line into `config` and runs its check(). Call add_options first. Returns nothing to go on, or the
/// exit status to leave main with: 0 after --help, 64 after one sentence on standard error about what was wrong.
template <Configurable T>
std::optional<int> parse_command_line(CLI::App& app, int argc, const char* const* argv, T& config) {
  try {
    app.parse(argc, argv);
    check_config(config);
    return std::nullopt;
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ExtrasError& error) {
    std::string text = error.what();
    for (const std::string& word : app.remaining()) {
      if (!word.starts_with("--")) continue;
      const std::string name = word.substr(2, word.find('=') == std::string::npos ? word.npos : word.find('=') - 2);
      const std::string near = closest_name(name, detail::option_names(config));
      text = "unknown option --" + name + (near.empty() ? "" : "; did you mean --" + near + "?");
      break;
    }
    std::fprintf(stderr, "%s (--help lists the options)\n", text.c_str());
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "%s\n", error.what());
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 64;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

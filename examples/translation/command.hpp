// SPDX-License-Identifier: Apache-2.0
// command.hpp -- what a command of the program is: a name, a sentence, its options as a list, and a function.
// Main idea: a command is a unit of its own, commands/NAME.cpp, that knows nothing of the parser of command lines, so
// an edit of one compiles one small unit; commands/options.cpp alone makes options of the parser from the list. Read
// next: commands/evaluate.cpp for one of them, main.cpp for the array that names all.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "sparsemoe/infer/search_options.hpp"

namespace CLI {
class App;
}

namespace nmt {

/// Where the value of an option goes. A list is a,b on the command line, a bool a flag; what is optional has no
/// default.
using OptionTarget =
    std::variant<std::string*, std::vector<std::string>*, std::int64_t*, bool*, std::optional<std::int64_t>*,
                 std::optional<double>*, std::optional<sparsemoe::Stopping>*>;

enum class Given { freely, always };
enum class Default { unsaid, said };

/// An option of a command.
struct Option {
  const char* name;
  OptionTarget to;
  const char* help;
  Given given = Given::freely;
  Default value = Default::unsaid;                ///< whether --help says the default, which is what `to` holds
  std::optional<std::pair<int, int>> range = {};  ///< least and most, of a number
  std::vector<std::string> one_of = {};           ///< what a text may be
  const std::map<std::string, sparsemoe::Stopping>* names = nullptr;  ///< the texts of an enumeration
};

/// A command: `add` gives its subcommand options, `run` does the work once they are read and returns the exit status.
struct Command {
  const char* name;
  const char* help;
  std::function<void(CLI::App&)> add;
  std::function<int()> run;
};

/// Gives a command these options, in their order.
void add_option_list(CLI::App& command, const std::vector<Option>& options);

/// The words of the command line after the program's name: a run that goes on brings its settings from its directory.
using Words = std::vector<std::string>;

Command corpus_command(const Words& words);
Command train_command(const Words& words);
Command evaluate_command(const Words& words);
Command translate_command(const Words& words);
Command samples_command(const Words& words);
Command routing_command(const Words& words);
Command report_command(const Words& words);
Command extract_command(const Words& words);
Command distill_command(const Words& words);
Command distill_report_command(const Words& words);
Command study_command(const Words& words);
Command benchmark_command(const Words& words);

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// commands/train.cpp -- the command `train`.
#include "../train.hpp"

#include <memory>

#include "../command.hpp"
#include "../option_groups.hpp"
#include "../training_run.hpp"
#include "sparsemoe/io/options.hpp"

namespace nmt {

int run_training(const TrainSettings& settings, bool resume, TrainingHooks* hooks) {
  return TrainingRun(settings, resume, hooks).run();
}

std::string resumed_run(const std::vector<std::string>& words) {
  std::string out;
  bool resume = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--resume") resume = true;
    if (words[i] == "--out" && i + 1 < words.size()) out = words[i + 1];
    if (words[i].starts_with("--out=")) out = words[i].substr(6);
  }
  return resume && !out.empty() && fs::exists(fs::path(out) / "settings.json") ? out : "";
}

Command train_command(const Words& words) {
  struct Options {
    TrainSettings settings;
    bool resume = false;
  };
  const auto o = std::make_shared<Options>();
  // With --resume, the run's own settings are what the command line starts from.
  if (const std::string run = resumed_run(words); !run.empty())
    moe::load_config(fs::path(run) / "settings.json", o->settings);
  const auto add = [o](CLI::App& command) {
    moe::add_options(command, o->settings);
    command.add_flag("--resume", o->resume, "Go on with the run in --out from its newest checkpoint");
    group_options(command);
  };
  return {"train", "Train a model on a corpus", add, [o] { return run_training(o->settings, o->resume); }};
}

}  // namespace nmt

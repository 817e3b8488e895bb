// SPDX-License-Identifier: Apache-2.0
// training_run.hpp -- a run of the trainer, as distillation and studies ask for it too. Read next: train.hpp.
#pragma once

#include <string>
#include <vector>

#include "settings.hpp"

namespace nmt {

class TrainingHooks;

/// Trains, or with `resume` goes on. 0, or 128 + signal. Throws as TrainingRun does. `hooks` may be null.
int run_training(const TrainSettings& settings, bool resume, TrainingHooks* hooks = nullptr);

/// The directory of a run that --resume and --out among the words name, where it has settings; else "".
std::string resumed_run(const std::vector<std::string>& words);

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// setting_changes.hpp -- what --resume may change of a run, and what it may not: a change that would make it another
// run is refused, every other one is said and logged. Read next: train.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "settings.hpp"
#include "sparsemoe/io/json.hpp"

namespace nmt {

/// An option that has another value from here on.
struct SettingChange {
  std::string key;
  sparsemoe::Json before, now;
  std::string sentence() const { return sparsemoe::join(key, " is ", now.dump(), " now; it was ", before.dump()); }
};

/// Whether a run may go on with another value of this option. Of the last three the content counts, which is compared
/// where it is read; of the one before them nothing depends on it.
inline bool may_change(std::string_view key) {
  constexpr std::array<std::string_view, 25> free = {"schedule",
                                                     "learning_rate",
                                                     "floor",
                                                     "clip",
                                                     "weight_decay",
                                                     "beta1",
                                                     "beta2",
                                                     "warmup",
                                                     "steps",
                                                     "minutes",
                                                     "temperature",
                                                     "tokens",
                                                     "accumulate",
                                                     "validate_every",
                                                     "validate_rows",
                                                     "bleu_rows",
                                                     "log_every",
                                                     "checkpoint_every",
                                                     "checkpoint_minutes",
                                                     "keep",
                                                     "threads",
                                                     "out",
                                                     "corpus",
                                                     "tokenizer",
                                                     "languages"};
  return std::find(free.begin(), free.end(), key) != free.end();
}

/// The differences in the order of the options. `file` holds the settings from before. Throws Error for one that would
/// make it another run.
inline std::vector<SettingChange> setting_changes(const TrainSettings& before, const TrainSettings& now,
                                                  const std::filesystem::path& file) {
  const sparsemoe::Json a = sparsemoe::to_json(before), b = sparsemoe::to_json(now);
  std::vector<SettingChange> changes;
  for (const auto& [key, value] : a.items()) {
    if (value == b[key]) continue;
    sparsemoe::require(may_change(key), file.string(), ": ", key, " was ", value.dump(),
                       " when the run began, and a run cannot change it to ", b[key].dump(), "; resume without it");
    changes.push_back({key, value, b[key]});
  }
  return changes;
}

}  // namespace nmt

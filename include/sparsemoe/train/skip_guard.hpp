// SPDX-License-Identifier: Apache-2.0
// train/skip_guard.hpp -- when a run of skipped steps means that training has diverged: a step that is not finite
// leaves the weights as they were, so the next ones mostly are not finite either, and none of them is worth saving.
// Read next: train/update.hpp, which skips; examples/translation/train.hpp, which obeys.
#pragma once

#include <string>

#include "sparsemoe/train/update.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Counts skipped steps in a row. Half precision skips up to 16 while it finds its loss scale; more than that never
/// heal.
class SkipGuard {
 public:
  static constexpr index_t kMost = 20;

  explicit SkipGuard(index_t most = kMost) : most_(most) {}

  /// After every step. Returns what to warn of: a sentence at the first of each row of skipped steps, "" otherwise.
  std::string note(index_t step, const UpdateResult& result) {
    if (!result.skipped) {
      row_ = 0;
      return "";
    }
    last_ = step;
    cause_ = result.cause;
    if (++row_ > 1) return "";
    return join("step ", step, " is skipped: ", cause_);
  }

  /// The last step was skipped: its weights are not to be saved, and no older checkpoint is to go.
  bool skipping() const { return row_ > 0; }
  /// So many in a row that it has no use to go on.
  bool diverged() const { return row_ >= most_; }
  /// How many in a row.
  index_t row() const { return row_; }
  /// Why training stops.
  std::string sentence() const {
    return join("training has diverged: the last ", row_, row_ == 1 ? " step" : " steps", " up to step ", last_,
                row_ == 1 ? " was" : " were", " skipped, since ", cause_);
  }

 private:
  index_t most_, row_ = 0, last_ = 0;
  std::string cause_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

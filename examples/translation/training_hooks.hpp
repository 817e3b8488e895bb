// SPDX-License-Identifier: Apache-2.0
// training_hooks.hpp -- where a training run lets distillation in: the model's sizes, its first weights, its targets
// and its loss. Read next: train.hpp, which calls them; distill_command.hpp, which has them do something.
#pragma once

#include <vector>

#include "data.hpp"

namespace nmt {

/// What distillation changes of a training run; as it stands, nothing.
class TrainingHooks {
 public:
  virtual ~TrainingHooks() = default;
  /// The model to be, before it is built. Throws Error if this tokenizer, these languages or sizes cannot be.
  virtual void prepare(ModelFile& /*file*/, const fs::path& /*tokenizer*/) {}
  /// Its weights, when a run begins.
  virtual void start(Translator& /*model*/) {}
  /// Writes what it needs to go on into the directory of the run.
  virtual void save() {}
  /// The training pairs, before the first step. Returns early on a stop signal; the pairs are then not used.
  virtual void change(std::vector<EncodedDirection>& /*pairs*/, const Tokenizer& /*tokenizer*/) {}
  /// A teacher in the loss; null: none.
  virtual const SoftTarget* soft() const { return nullptr; }
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// evaluate.hpp -- the command `evaluate`, which a study asks for too. Read next: commands/evaluate.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "expert_options.hpp"
#include "selection.hpp"

namespace nmt {

struct EvaluateOptions : Selection {
  std::string model, corpus, scores;
  bool json = false;
  ExpertOptions experts;
  std::int64_t high = 15000, beam = 1;
};

/// BLEU and chrF per direction beside copying the source, the averages, and the signatures.
int evaluate(EvaluateOptions o);

}  // namespace nmt

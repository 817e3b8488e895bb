// SPDX-License-Identifier: Apache-2.0
// leaks.hpp -- proves from a corpus as it was read back that dev and test share nothing with train.
// Main idea: it knows the files only, nothing of how they were made; the builder refuses to publish a leaking corpus.
// Read next: command.hpp.
#pragma once

#include <cstddef>

#include "read_corpus.hpp"
#include "split.hpp"

namespace nmt {

/// What dev and test share with train (and test with dev), recomputed from a corpus as it was read back.
struct Leaks {
  std::size_t families = 0, english = 0, normalised = 0, targets = 0, near = 0;
  double mean_best_jaccard = 0;  ///< of the test segments' 3-grams with train's
  bool none() const { return families + english + normalised + targets + near == 0; }
};

Leaks check_leaks(const Corpus& corpus, const SplitOptions& options);

}  // namespace nmt

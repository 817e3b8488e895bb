// SPDX-License-Identifier: Apache-2.0
// hold_out.hpp -- divides users' parallel text into train, dev and test, or around the dev and test sets they brought.
// Main idea: rows that share a text in any language (text_key of keys.hpp) belong together and go to one part whole;
// leaks.hpp proves it with the same rule. Nothing is judged. Read next: write.hpp.
#pragma once

#include <cstddef>
#include <string>

#include "import.hpp"
#include "split.hpp"

namespace nmt {

/// What dividing found, to be said.
struct HoldOutReport {
  std::size_t repeated = 0;    ///< rows that are an earlier row, left out
  std::size_t shared = 0;      ///< rows left out because they share a text with a set that was brought
  std::size_t shared_dev = 0;  ///< those of them that were of the dev set
  std::size_t free = 0;        ///< rows that could be held out, repeats included
  std::size_t most = 0;        ///< so many of them may be held out in each set
  std::size_t largest = 0;     ///< the largest group of rows that share texts
};

/// A fixed hash orders the groups of rows that share a text; up to `options.test` and `options.dev` rows, but at most a
/// twentieth each, are held out, whole groups only. A set that was brought is taken as it is: then nothing is held out
/// for it, and rows of train that share a text with it are left out (rows of dev, where it is test). Exact repeats in
/// train are dropped.
Corpus split_parallel(const ParallelText& text, const SplitOptions& options, HoldOutReport& report);

/// Why a set that was not brought is empty, and the way out. `wanted` rows were asked for.
std::string why_empty(const char* set, std::size_t wanted, const HoldOutReport& report);

}  // namespace nmt

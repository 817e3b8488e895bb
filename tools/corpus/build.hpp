// SPDX-License-Identifier: Apache-2.0
// build.hpp -- from the fetched index files to one table of segments: join, align, filter, merge.
// Main idea: one language at a time, so that memory holds the table and a single language's text; English is prepared
// once. The report has a row per language, the funnel from descriptions to unique pairs. Read next: split.hpp.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "clean.hpp"
#include "fetch.hpp"
#include "split.hpp"

namespace nmt {

/// How many of each thing one language had, in the order of the steps.
struct Funnel {
  std::size_t descriptions = 0, paragraphs = 0, units = 0, segments = 0, passed = 0, unique = 0, malformed = 0;
  std::array<std::size_t, verdict_names.size()> verdicts{};
  double ratio = 1;  ///< characters per English character
};

/// Everything between the index files and the split. `kinds` holds the letters of the kinds to keep.
/// Throws Error when a suite has no English, or no suite has one of the languages.
std::vector<Segment> build_segments(const FetchOptions& fetch, std::string_view kinds, const Limits& limits,
                                    std::map<std::string, Funnel>& funnels);

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// split.hpp -- caps repeated text and divides segments into train, dev and test by package family, without leaks.
// Main idea: whole families of source packages are held out by a fixed hash of their name, then everything in dev and
// test that resembles a training segment is taken out. leaks.hpp proves it again from the files. Read next: leaks.hpp.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "read_corpus.hpp"

namespace nmt {

/// One English segment with its translations. text[0] is English; an empty text means none in that language.
struct Segment {
  std::vector<std::string> text;
  char kind = 's';
  std::vector<std::string> sources;  ///< source packages whose descriptions contain it
  std::vector<std::string> names;    ///< names that stand for "this package" in it
};

/// Limits and shares of the split; the defaults are those of the measured corpus.
struct SplitOptions {
  std::uint64_t seed = 0;
  std::size_t same_key = 2, same_template = 20, template_families = 30;
  std::size_t dev = 500, test = 1000;  ///< rows a language
  std::size_t min_words = 4, max_words = 60;
  double multiway = 0.7;  ///< share of dev and test rows chosen for having the most languages
  double max_jaccard = 0.5, max_containment = 0.7;
};

enum class Part { train, dev, test };

/// Where a family goes. Small languages need a larger share held out to have a test set at all; the shares are nested
/// (test from 0 up, dev from 1 down), so a corpus of fewer languages never tests on what a larger one trains on.
Part part_of_family(std::string_view family, int scarcity, std::uint64_t seed);

/// 0 for languages with much text in the package descriptions, 1 for few thousand pairs, 2 for less.
int scarcity_of(std::string_view language);

/// What the split took out, for the report.
struct SplitReport {
  std::map<std::string, std::size_t> capped;  ///< training pairs over the caps, by language
  std::size_t pool = 0, remaining = 0;        ///< test segments before and after the comparison with train
};

/// Divides `segments` (all with text.size() == languages.size()) into a corpus. Deterministic in the seed.
Corpus split_segments(std::vector<Segment>& segments, const std::vector<std::string>& languages,
                      const SplitOptions& options, SplitReport& report);

}  // namespace nmt

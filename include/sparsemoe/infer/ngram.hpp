// SPDX-License-Identifier: Apache-2.0
// infer/ngram.hpp -- no n-gram twice: which tokens would repeat one, of the text itself or of another. On the host.
// Read next: infer/beam.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Calls exclude(id) for every id that, after the last n - 1 of `tokens` (length), would make an n-gram that `others`
/// (count) have. n = 1 excludes every one of `others`. An id may be named more than once.
template <class Exclude>
void continued_ngrams(const std::int32_t* others, index_t count, const std::int32_t* tokens, index_t length, index_t n,
                      const Exclude& exclude) {
  const index_t context = n - 1;  // tokens that must agree
  if (n <= 0 || context > length) return;
  for (index_t i = 0; i + context < count; ++i)
    if (std::equal(others + i, others + i + context, tokens + length - context)) exclude(others[i + context]);
}

/// Calls exclude(id) for every id that, after the last n - 1 of `tokens` (length), would make an n-gram they have
/// already: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5, for any n. n = 1
/// excludes every token there is. An id may be named more than once.
template <class Exclude>
void repeated_ngrams(const std::int32_t* tokens, index_t length, index_t n, const Exclude& exclude) {
  continued_ngrams(tokens, length, tokens, length, n, exclude);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

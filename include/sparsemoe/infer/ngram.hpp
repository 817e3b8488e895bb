// infer/ngram.hpp -- no n-gram twice: which tokens would repeat one. On the host, over what has been generated.
// Read next: infer/beam.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Calls exclude(id) for every id that, after the last n - 1 of `tokens` (length), would make an n-gram they have
/// already: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5, for any n. n = 1
/// excludes every token there is. An id may be named more than once.
template <class Exclude>
void repeated_ngrams(const std::int32_t* tokens, index_t length, index_t n, const Exclude& exclude) {
  if (n <= 0) return;
  const index_t context = n - 1;  // tokens that must agree
  for (index_t i = 0; i + context < length; ++i)
    if (std::equal(tokens + i, tokens + i + context, tokens + length - context)) exclude(tokens[i + context]);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

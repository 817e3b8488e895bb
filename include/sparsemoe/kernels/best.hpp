// SPDX-License-Identifier: Apache-2.0
// kernels/best.hpp -- the k best of a row, in the total order every router shares: larger score first, then smaller
// index; NaN counts as minus infinity. Read next: routers/top_k.hpp.
#pragma once

#include "sparsemoe/concepts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Puts e with its score where it belongs among the best so far; value holds their scores.
template <int K, class T>
SPARSEMOE_HD void insert_best(Choice<K>& c, T (&value)[K], index_t e, T score) {
  const T s = score == score ? score : T(-1e38);
  int k = K;  // where it goes: before the first entry that is smaller
  while (k > 0 && (c.expert[k - 1] == Choice<K>::none || s > value[k - 1])) --k;
  if (k == K) return;
  for (int i = K - 1; i > k; --i) c.expert[i] = c.expert[i - 1], value[i] = value[i - 1];
  c.expert[k] = static_cast<std::int32_t>(e);
  value[k] = s;
}

/// The K best of score(0), ..., score(n - 1); with fewer than K the rest are Choice::none.
template <int K, class Score>
SPARSEMOE_HD Choice<K> best_of(index_t n, const Score& score) {
  using T = decltype(score(index_t(0)));
  Choice<K> c;
  T value[K];
  for (int k = 0; k < K; ++k) c.expert[k] = Choice<K>::none, value[k] = T(0);
  for (index_t e = 0; e < n; ++e) insert_best(c, value, e, score(e));
  return c;
}
/// The K best of `scores`.
template <int K, class T>
SPARSEMOE_HD Choice<K> best(Row<const T> scores) {
  return best_of<K>(scores.size(), [&](index_t e) { return scores[e]; });
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// routers/best.hpp -- the k best of a row, in the total order every router shares: larger score first, then smaller
// index; NaN counts as minus infinity. Read next: routers/top_k.hpp.
#pragma once

#include "sparsemoe/concepts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The K best of `scores`; with fewer than K entries the rest are Choice::none.
template <int K, class T>
SPARSEMOE_HD Choice<K> best(Row<const T> scores) {
  Choice<K> c;
  T value[K];
  for (int k = 0; k < K; ++k) c.expert[k] = Choice<K>::none, value[k] = T(0);
  for (index_t e = 0; e < scores.size(); ++e) {
    const T s = scores[e] == scores[e] ? scores[e] : T(-1e38);
    int k = K;  // where it goes: before the first entry that is smaller
    while (k > 0 && (c.expert[k - 1] == Choice<K>::none || s > value[k - 1])) --k;
    if (k == K) continue;
    for (int i = K - 1; i > k; --i) c.expert[i] = c.expert[i - 1], value[i] = value[i - 1];
    c.expert[k] = static_cast<std::int32_t>(e);
    value[k] = s;
  }
  return c;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

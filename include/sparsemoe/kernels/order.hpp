// SPDX-License-Identifier: Apache-2.0
// kernels/order.hpp -- the best rows of a column, for routers that assign whole groups: larger score first, then
// smaller index, NaN last. Read next: routers/expert_choice.hpp.
#pragma once

#include "sparsemoe/concepts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Sorts index[0, n) so that before(a, b) holds for neighbours. Heapsort: no memory, n log n at worst, and the order is
/// total, so that the result does not depend on the way there.
template <class Before>
SPARSEMOE_HD void sort_indices(std::int32_t* index, index_t n, const Before& before) {
  const auto sift = [&](index_t root, index_t end) {
    for (index_t child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && before(index[child], index[child + 1])) ++child;
      if (!before(index[root], index[child])) return;
      const std::int32_t held = index[root];
      index[root] = index[child];
      index[child] = held;
    }
  };
  for (index_t i = n / 2; i-- > 0;) sift(i, n);
  for (index_t end = n; end-- > 1;) {
    const std::int32_t held = index[0];
    index[0] = index[end];
    index[end] = held;
    sift(0, end);
  }
}

/// order(e) of the group = its valid tokens by falling score of expert e; returns how many there are.
template <class T>
SPARSEMOE_HD index_t order_tokens(const Assignment<T>& group, index_t e) {
  std::int32_t* order = group.order.row(e).data;
  index_t n = 0;
  for (index_t t = 0; t < group.tokens(); ++t)
    if (group.valid[t] != 0) order[n++] = static_cast<std::int32_t>(t);
  sort_indices(order, n, [&](std::int32_t a, std::int32_t b) {
    const T x = group.scores(a, e), y = group.scores(b, e);
    const bool has_x = x == x, has_y = y == y;
    if (has_x != has_y) return has_x;
    return has_x && x != y ? x > y : a < b;
  });
  return n;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

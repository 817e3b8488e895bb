// SPDX-License-Identifier: Apache-2.0
// backend/product.hpp -- the words in which layers ask a backend for products: transposition, batches of matrices, and
// work to be done on a tile while it is in cache. Read next: backend/cpu.hpp for the verbs.
#pragma once

#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

enum class Op { none, transpose };

/// Where item (o, i) of a batch of matrices lies: data + o * outer + i * inner, its rows `stride` apart.
template <class T>
struct BatchOf {
  T* data = nullptr;
  index_t stride = 0, outer = 0, inner = 0;
};

/// No work after a product's tile.
struct NoEpilogue {
  template <class Team>
  SPARSEMOE_HD void operator()(Team, index_t, index_t, index_t) const {}
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

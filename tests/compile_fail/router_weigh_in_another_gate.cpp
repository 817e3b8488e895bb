// SPDX-License-Identifier: Apache-2.0
// weigh() without Gate::own would never be called.
// expect: router: use Gate::own with weigh() and weigh_backward()
#include "sparsemoe/routers/top_k.hpp"

using namespace sparsemoe;

struct Mine : TopK<2> {
#ifdef SHOULD_FAIL
  template <class T>
  void weigh(Row<const T>, const std::int32_t*, const bool*, T* w) const {
    w[0] = w[1] = T(1);
  }
#endif
};
static_assert(check_router<Mine>());

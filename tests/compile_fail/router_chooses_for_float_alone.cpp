// SPDX-License-Identifier: Apache-2.0
// Layers run in float and in double.
// expect: router: make choose a template over T (float and double)
#include "sparsemoe/kernels/best.hpp"

using namespace sparsemoe;

struct Mine {
  static constexpr int top_k = 2;
  static constexpr auto level = Level::token;
  static constexpr auto gate = Gate::normalised;
#ifdef SHOULD_FAIL
  Choice<2> choose(Row<const float> p, const TokenInfo&) const { return best<2>(p); }
#else
  template <class T>
  Choice<2> choose(Row<const T> p, const TokenInfo&) const {
    return best<2>(p);
  }
#endif
};
static_assert(check_router<Mine>());

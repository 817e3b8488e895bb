// SPDX-License-Identifier: Apache-2.0
// A router says how many experts it chooses.
// expect: router: add  static constexpr int top_k
#include "sparsemoe/kernels/best.hpp"

using namespace sparsemoe;

struct Mine {
#ifndef SHOULD_FAIL
  static constexpr int top_k = 1;
#endif
  static constexpr auto level = Level::token;
  static constexpr auto gate = Gate::probability;
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    return best<1>(p);
  }
};
static_assert(check_router<Mine>());

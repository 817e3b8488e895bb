// SPDX-License-Identifier: Apache-2.0
// choose returns a Choice of top_k experts, even for one.
// expect: router: return Choice<top_k> from choose
#include "sparsemoe/kernels/best.hpp"

using namespace sparsemoe;

struct Mine {
  static constexpr int top_k = 1;
  static constexpr auto level = Level::token;
  static constexpr auto gate = Gate::probability;
  template <class T>
#ifdef SHOULD_FAIL
  int choose(Row<const T> p, const TokenInfo&) const {
    return best<1>(p).expert[0];
  }
#else
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    return best<1>(p);
  }
#endif
};
static_assert(check_router<Mine>());

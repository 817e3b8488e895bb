// SPDX-License-Identifier: Apache-2.0
// A gate of one's own says how it weighs, and the slope of that.
// expect: router: with Gate::own add weigh(...) and weigh_backward(...)
#include "sparsemoe/kernels/best.hpp"

using namespace sparsemoe;

struct Mine {
  static constexpr int top_k = 1;
  static constexpr auto level = Level::token;
  static constexpr auto gate = Gate::own;
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    return best<1>(p);
  }
#ifndef SHOULD_FAIL
  template <class T>
  void weigh(Row<const T> p, const std::int32_t* chosen, const bool* kept, T* w) const {
    w[0] = kept[0] ? p[chosen[0]] : T(0);
  }
  template <class T>
  void weigh_backward(Row<const T>, const std::int32_t* chosen, const bool* kept, const T* dw, T* d) const {
    if (kept[0]) d[chosen[0]] += dw[0];
  }
#endif
};
static_assert(check_router<Mine>());

// SPDX-License-Identifier: Apache-2.0
// Layers run in float and in double.
// expect: router: make assign a template over the team and T (float and double)
#include "sparsemoe/concepts.hpp"

using namespace sparsemoe;

struct Mine {
  static constexpr int top_k = 1;
  static constexpr auto level = Level::token;
  static constexpr auto gate = Gate::probability;
#ifdef SHOULD_FAIL
  template <class Team>
  void assign(Team, const Assignment<float>&) const {}
#else
  template <class Team, class T>
  void assign(Team, const Assignment<T>&) const {}
#endif
};
static_assert(check_router<Mine>());

// SPDX-License-Identifier: Apache-2.0
// Level::none learns no scores, so there is no probability to weigh an expert's output by.
// expect: router: with Level::none use Gate::constant; there is no score to weigh by
#include "sparsemoe/concepts.hpp"

using namespace sparsemoe;

struct Mine {
  static constexpr int top_k = 1;
  static constexpr auto level = Level::none;
#ifdef SHOULD_FAIL
  static constexpr auto gate = Gate::probability;
#else
  static constexpr auto gate = Gate::constant;
#endif
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo& token) const {
    return {{static_cast<std::int32_t>(token.position % p.size())}};
  }
};
static_assert(check_router<Mine>());

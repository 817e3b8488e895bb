// SPDX-License-Identifier: Apache-2.0
// routers/switch.hpp -- top-1 routing of the Switch Transformer (Fedus et al. 2021, section 2.1).
// The weight is the raw probability: renormalising one choice gives 1, and the router would get no gradient.
// Read next: routers/no_token_left_behind.hpp for what overflows; routers/sentence.hpp.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct Switch {
  static constexpr int top_k = 1;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::probability;
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    return best<1>(p);
  }
};
static_assert(check_router<Switch>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

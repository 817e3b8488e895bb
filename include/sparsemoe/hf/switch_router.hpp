// SPDX-License-Identifier: Apache-2.0
// hf/switch_router.hpp -- the router of transformers' Switch Transformer, where it is not that of the paper: a number
// of slots for each sequence, by position; padding is routed (MoeConfig::route_padding). Read next: hf/losses.hpp,
// hf/switch_transformer.hpp.
#pragma once

#include "sparsemoe/hf/losses.hpp"
#include "sparsemoe/routers/switch.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// A token without a slot gets 0, as in the paper and in transformers 4.57 and 5.
struct SwitchRouter : Switch {
  static constexpr bool sentence_groups = true;
  using StackLoss = JointBalance<true, true>;
  std::int32_t expert_capacity = 64;
  std::int32_t capacity(index_t, bool) const { return expert_capacity; }
};
static_assert(check_router<SwitchRouter>());

/// It gets w x, as in transformers 4.38.
struct SwitchRouter438 : SwitchRouter {
  static constexpr bool passes_dropped = true;
};
static_assert(check_router<SwitchRouter438>());

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

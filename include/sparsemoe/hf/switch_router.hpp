// hf/switch_router.hpp -- the router of transformers' Switch Transformer, where it is not that of the paper: a number
// of slots for each sequence, by position; a token without one gets w x in place of 0; padding is routed (MoeConfig::
// route_padding). Read next: hf/switch_transformer.hpp.
#pragma once

#include "sparsemoe/hf/losses.hpp"
#include "sparsemoe/routers/switch.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

struct SwitchRouter : Switch {
  static constexpr bool sentence_groups = true, passes_dropped = true;
  using StackLoss = JointBalance<true, true>;
  std::int32_t expert_capacity = 64;
  std::int32_t capacity(index_t, bool) const { return expert_capacity; }
};
static_assert(check_router<SwitchRouter>());

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

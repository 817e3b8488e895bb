// SPDX-License-Identifier: Apache-2.0
// feed.hpp -- kinds of feed-forward half: experts behind a router, and what stands in the place of a router where
// nothing is chosen. Read next: nn/dense.hpp, nn/soft_moe.hpp.
#pragma once

#include "sparsemoe/router_concept.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// using Router = Dense: every feed-forward block is dense, whatever the configuration says; no routing code is left.
struct Dense {};

/// In the place of a router: `Slots` slots an expert. What a router's traits ask is there; it chooses nothing.
template <int Slots = 1>
struct SoftMixture {
  static_assert(Slots >= 1);
  static constexpr int slots = Slots;
  static constexpr int top_k = 1;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::constant;
  static constexpr Balance balance = Balance::none;
  static constexpr bool causal_safe = false, can_drop_tokens = false;
};

enum class Feed { routed, soft, dense };

template <class Router>
inline constexpr Feed feed_of = Feed::routed;
template <int Slots>
inline constexpr Feed feed_of<SoftMixture<Slots>> = Feed::soft;
template <>
inline constexpr Feed feed_of<Dense> = Feed::dense;

}  // namespace sparsemoe::inline SPARSEMOE_ABI

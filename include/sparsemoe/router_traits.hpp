// SPDX-License-Identifier: Apache-2.0
// router_traits.hpp -- a router's traits as the library reads them, with the defaults of what it does not declare.
// Read next: describe_router.hpp, which prints them; model/by_name.hpp, where programs find them by a name.
#pragma once

#include "sparsemoe/router_concept.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A router's traits with the defaults filled in.
template <class R>
struct RouterTraits {
  static constexpr int top_k = R::top_k;
  static constexpr Level level = R::level;
  static constexpr Gate gate = R::gate;
  static constexpr bool assigns = detail::assigns<R, float>;
  static constexpr bool noisy = requires { R::noise_epsilon; };
  static constexpr bool two_level = requires { R::branches; };
  static constexpr bool thresholds = requires { requires R::learned_thresholds; };
  static constexpr bool any_number_of_experts = R::top_k == any_number;
  static constexpr Score score = [] {
    if constexpr (requires { R::score; })
      return R::score;
    else
      return Score::softmax;
  }();
  static constexpr Balance balance = [] {
    if constexpr (requires { R::balance; })
      return R::balance;
    else
      return R::level == Level::none || R::top_k == any_number ? Balance::none : Balance::all_choices;
  }();
  static constexpr GateInput gate_input = [] {
    if constexpr (requires { R::gate_input; })
      return R::gate_input;
    else
      return GateInput::state;
  }();
  static constexpr bool causal_safe = [] {
    if constexpr (requires { R::causal_safe; })
      return static_cast<bool>(R::causal_safe);
    else
      return true;
  }();
  static constexpr bool rejected_consumes_slot = [] {
    if constexpr (requires { R::rejected_consumes_slot; })
      return static_cast<bool>(R::rejected_consumes_slot);
    else
      return false;
  }();
  /// y(t) gets w(t, k) x(t) of a choice that found no slot, in place of nothing.
  static constexpr bool passes_dropped = requires { requires R::passes_dropped; };
  static constexpr bool can_drop_tokens = [] {
    if constexpr (requires { R::can_drop_tokens; })
      return static_cast<bool>(R::can_drop_tokens);
    else
      return R::level == Level::token || R::level == Level::none;
  }();
  static constexpr bool learned = R::level != Level::none;
};

/// What a decoder asks of its router: at compile time, in one sentence.
template <class R>
constexpr bool check_causal_router() {
  static_assert(RouterTraits<R>::causal_safe,
                "decoder: use a causal-safe router; this one looks at later tokens and cannot be decoded step by step");
  return true;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// describe_router.hpp -- every trait and hook of a router as the library read it, so that a misspelt one is seen: what
// is declared, what is a default because nothing was found, and which hooks are called. Read next: router_traits.hpp;
// testing/check_router.hpp, which prints it.
#pragma once

#include <string>

#include "sparsemoe/concepts.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

inline const char* name_of(Level level) {
  switch (level) {
    case Level::token: return "token";
    case Level::sentence: return "sentence";
    case Level::task: return "task";
    case Level::none: return "none";
  }
  return "?";
}
inline const char* name_of(Gate gate) {
  switch (gate) {
    case Gate::probability: return "probability";
    case Gate::normalised: return "normalised";
    case Gate::normalised_after_drop: return "normalised_after_drop";
    case Gate::constant: return "constant";
    case Gate::own: return "own";
  }
  return "?";
}
inline const char* name_of(Score score) { return score == Score::softmax ? "softmax" : "sigmoid"; }
inline const char* name_of(Balance balance) {
  switch (balance) {
    case Balance::none: return "none";
    case Balance::first_choice: return "first_choice";
    case Balance::all_choices: return "all_choices";
    case Balance::importance: return "importance";
  }
  return "?";
}
inline const char* name_of(GateInput input) { return input == GateInput::state ? "state" : "prefix_mean"; }

/// One line a trait ("causal_safe = true (default: not declared)"), then the hooks that are called and those that were
/// not found.
template <class Router>
std::string describe_router() {
  using Traits = RouterTraits<Router>;
  std::string text;
  const auto trait = [&](const char* name, const auto& value, bool declared) {
    text += join(name, " = ", value, declared ? "\n" : " (default: not declared)\n");
  };
  const auto yes = [](bool value) { return value ? "true" : "false"; };
  trait("top_k", Traits::any_number_of_experts ? std::string("any_number") : std::to_string(Traits::top_k), true);
  trait("level", name_of(Traits::level), true);
  trait("gate", name_of(Traits::gate), true);
  trait(
      "score", name_of(Traits::score), requires { Router::score; });
  trait(
      "balance", name_of(Traits::balance), requires { Router::balance; });
  trait(
      "causal_safe", yes(Traits::causal_safe), requires { Router::causal_safe; });
  trait(
      "gate_input", name_of(Traits::gate_input), requires { Router::gate_input; });
  trait(
      "rejected_consumes_slot", yes(Traits::rejected_consumes_slot), requires { Router::rejected_consumes_slot; });
  trait(
      "can_drop_tokens", yes(Traits::can_drop_tokens), requires { Router::can_drop_tokens; });
  trait(
      "passes_dropped", yes(Traits::passes_dropped), requires { Router::passes_dropped; });
  constexpr bool up_to = requires { requires Router::up_to_top_k; };
  trait(
      "up_to_top_k", yes(up_to), requires { Router::up_to_top_k; });
  constexpr bool sentences = requires { requires Router::sentence_groups; };
  trait(
      "sentence_groups", yes(sentences), requires { Router::sentence_groups; });
  trait(
      "learned_thresholds", yes(Traits::thresholds), requires { Router::learned_thresholds; });

  std::string called, missing;
  const auto hook = [&](const char* name, bool found) {
    std::string& list = found ? called : missing;
    list += join(list.empty() ? "" : ", ", name);
  };
  hook(Traits::assigns ? "assign" : "choose", true);
  hook(Traits::assigns ? "choose" : "assign", false);
  hook("noise", Traits::noisy);
  hook("branches", Traits::two_level);
  hook("weigh and weigh_backward", Traits::gate == Gate::own);
  hook(
      "weight_scale", requires(const Router r) { r.weight_scale; });
  hook(
      "most_choices", requires(const Router r) { r.most_choices(index_t(1), index_t(1), true); });
  hook(
      "capacity", requires(const Router r) { r.capacity(index_t(1), true); });
  hook(
      "StackLoss", requires { typename Router::StackLoss; });
  return text + "hooks that are called: " + called + "\nhooks that were not found: " + missing + "\n";
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

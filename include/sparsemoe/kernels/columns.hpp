// SPDX-License-Identifier: Apache-2.0
// kernels/columns.hpp -- the columns of a gate: one softmax over the experts, or two levels of them.
// Read next: kernels/routing.hpp.
#pragma once

#include "sparsemoe/concepts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A router whose number of experts a token is a value, at most its top_k: it has  index_t experts_per_token() const,
/// and with branches also  index_t branches_per_token() const. Its choices lie experts_per_token() to a row.
template <class Router>
inline constexpr bool top_k_at_run_time = requires(const Router r) {
  r.experts_per_token();
};

/// The number of experts a token gets of a router that does not say any_number.
template <class Router>
SPARSEMOE_HD constexpr index_t experts_per_token([[maybe_unused]] const Router& router) {
  if constexpr (top_k_at_run_time<Router>)
    return router.experts_per_token();
  else
    return Router::top_k;
}

/// How the columns of a gate are cut into softmaxes: one part of all experts, or the branches of a two-level router
/// and after them the experts of each branch.
template <class Router>
struct GateColumns {
  static constexpr index_t most_first_k = [] {
    if constexpr (RouterTraits<Router>::two_level && !top_k_at_run_time<Router>)
      return Router::first_k;
    else
      return Router::top_k;
  }();
  static constexpr index_t most_second_k = !RouterTraits<Router>::two_level ? (Router::top_k == any_number ? 0 : 1)
                                           : top_k_at_run_time<Router>      ? index_t(Router::top_k)
                                                                            : Router::top_k / most_first_k;

  index_t experts = 0, branches = 0;                         // branches 0: one level
  index_t first_k = most_first_k, second_k = most_second_k;  // chosen: branches, and experts in each; or experts, 1
  SPARSEMOE_HD index_t count() const { return branches + experts; }
  /// Choices of a row.
  SPARSEMOE_HD index_t choices() const {
    return top_k_at_run_time<Router> ? first_k * second_k : index_t(Router::top_k);
  }
  SPARSEMOE_HD index_t parts() const { return 1 + branches; }
  SPARSEMOE_HD index_t per_branch() const { return branches > 0 ? experts / branches : experts; }
  SPARSEMOE_HD index_t begin(index_t part) const { return part == 0 ? 0 : branches + (part - 1) * per_branch(); }
  SPARSEMOE_HD index_t size(index_t part) const { return part == 0 && branches > 0 ? branches : per_branch(); }
  SPARSEMOE_HD index_t top(index_t part) const { return part == 0 ? first_k : second_k; }
  SPARSEMOE_HD index_t part_of(index_t column) const {
    return branches == 0 || column < branches ? 0 : 1 + (column - branches) / per_branch();
  }
  /// True if `column` leads to a choice in row `chosen` of K leaves: it is one of them, or the branch of one.
  SPARSEMOE_HD bool holds(index_t column, const std::int32_t* chosen) const {
    for (index_t k = 0; k < choices(); ++k) {
      if (chosen[k] < 0) continue;
      if (branches == 0 || column >= branches ? chosen[k] == column - branches : chosen[k] / per_branch() == column)
        return true;
    }
    return false;
  }
};

template <class Router>
SPARSEMOE_HD GateColumns<Router> gate_columns([[maybe_unused]] const Router& router, index_t experts) {
  if constexpr (RouterTraits<Router>::two_level && top_k_at_run_time<Router>)
    return {experts, router.branches, router.branches_per_token(),
            router.experts_per_token() / router.branches_per_token()};
  else if constexpr (RouterTraits<Router>::two_level)
    return {experts, router.branches};
  else if constexpr (top_k_at_run_time<Router>)
    return {experts, 0, router.experts_per_token(), 1};
  else
    return {experts, 0};
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

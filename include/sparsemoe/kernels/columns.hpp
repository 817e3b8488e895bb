// kernels/columns.hpp -- the columns of a gate: one softmax over the experts, or two levels of them.
// Read next: kernels/routing.hpp.
#pragma once

#include "sparsemoe/concepts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// How the columns of a gate are cut into softmaxes: one part of all experts, or the branches of a two-level router
/// and after them the experts of each branch.
template <class Router>
struct GateColumns {
  index_t experts = 0, branches = 0;  // branches 0: one level

  static constexpr int first_k = [] {
    if constexpr (RouterTraits<Router>::two_level)
      return Router::first_k;
    else
      return Router::top_k;
  }();
  static constexpr int second_k = Router::top_k == any_number ? 0 : Router::top_k / (first_k > 0 ? first_k : 1);
  SPARSEMOE_HD index_t count() const { return branches + experts; }
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
    for (int k = 0; k < Router::top_k; ++k) {
      if (chosen[k] < 0) continue;
      if (branches == 0 || column >= branches ? chosen[k] == column - branches : chosen[k] / per_branch() == column)
        return true;
    }
    return false;
  }
};

template <class Router>
SPARSEMOE_HD GateColumns<Router> gate_columns([[maybe_unused]] const Router& router, index_t experts) {
  if constexpr (RouterTraits<Router>::two_level)
    return {experts, router.branches};
  else
    return {experts, 0};
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

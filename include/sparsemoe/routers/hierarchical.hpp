// routers/hierarchical.hpp -- two levels of noisy top-k gates (Shazeer et al. 2017, appendix B): a primary gate chooses
// branches, each branch's own gate chooses among its experts, and a leaf's weight is the product (equation 12).
// Expert e is leaf e % b of branch e / b, b = experts / branches. Read next: kernels/two_level.hpp.
#pragma once

#include "sparsemoe/routers/noisy.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <int First = 2, int Second = 2, int Branches = 16>
struct Hierarchical : NoisyTopK<First * Second> {
  static constexpr int first_k = First, second_k = Second;
  static constexpr index_t branches = Branches;  // it shapes the gate, so it is in the type
  /// p: the probabilities of the branches, then those of each branch's experts.
  template <class T>
  SPARSEMOE_HD Choice<First * Second> choose(Row<const T> p, const TokenInfo&) const {
    const index_t leaves = (p.size() - branches) / branches;
    const Choice<First> outer = best<First>(Row<const T>{p.data, branches});
    Choice<First * Second> c;
    for (int i = 0; i < First; ++i) {
      const index_t first = outer.expert[i] * leaves;
      const Choice<Second> inner = best<Second>(Row<const T>{p.data + branches + first, leaves});
      for (int j = 0; j < Second; ++j) c.expert[i * Second + j] = static_cast<std::int32_t>(first) + inner.expert[j];
    }
    return c;
  }
};
static_assert(check_router<Hierarchical<>>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

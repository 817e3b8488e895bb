// SPDX-License-Identifier: Apache-2.0
// routers/hierarchical.hpp -- two levels of noisy top-k gates (Shazeer et al. 2017, appendix B): a primary gate chooses
// branches, each branch's own gate chooses among its experts, and a leaf's weight is the product (equation 12).
// Expert e is leaf e % b of branch e / b, b = experts / branches. Read next: kernels/two_level.hpp,
// routers/hierarchical_gshard.hpp.
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

/// Hierarchical with everything chosen at run time, first * second at most 8: the same bits as
/// Hierarchical<first, second, branches>.
struct AnyHierarchical : NoisyTopK<8> {
  static constexpr int first_k = 8, second_k = 1;  // the most; their product is what counts
  int first = 2, second = 2;
  index_t branches = 16;
  SPARSEMOE_HD index_t branches_per_token() const { return first; }
  SPARSEMOE_HD index_t experts_per_token() const { return first * second; }
  template <class T>
  SPARSEMOE_HD Choice<8> choose(Row<const T> p, const TokenInfo&) const {
    const index_t leaves = (p.size() - branches) / branches;
    const Choice<8> outer = best<8>(Row<const T>{p.data, branches});
    Choice<8> c;
    for (int i = 0; i < first; ++i) {
      const index_t begin = outer.expert[i] * leaves;
      const Choice<8> inner = best<8>(Row<const T>{p.data + branches + begin, leaves});
      for (int j = 0; j < second; ++j) c.expert[i * second + j] = static_cast<std::int32_t>(begin) + inner.expert[j];
    }
    return c;
  }
};
static_assert(check_router<AnyHierarchical>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

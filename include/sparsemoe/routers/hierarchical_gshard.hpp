// SPDX-License-Identifier: Apache-2.0
// routers/hierarchical_gshard.hpp -- two levels of GShard's top-2, as in Mesh TensorFlow (transformer_moe_layer_v2): a
// token goes to two branches; in the one that weighs more to two experts, in the other to one. Each level has its
// capacity. Read next: routers/hierarchical.hpp for the product of 2017, kernels/two_level.hpp for the losses.
#pragma once

#include "sparsemoe/kernels/best.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Choices 0 and 1 are experts of the first branch, choice 2 is one of the second; e is leaf e % b of branch e / b, b =
/// experts / branches. A leaf's weight is that of its branch over both branches times its own over both leaves (1 in
/// the second branch), before anything is dropped: without drops they sum to 1. As there: in training each second
/// choice is dispatched with probability min(1, 2 g2 / (g1 + g2)); a branch's slots go to first choices, then to second
/// ones, by position; the tokens of a branch, in that order, are the group of its experts; and where both branches
/// weigh the same, neither is the first, and each gives one expert.
template <int Branches = 16>
struct HierarchicalGShard {
  static constexpr int top_k = 3, first_k = 2, second_k = 2;
  static constexpr index_t branches = Branches;  // it shapes the gate, so it is in the type
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::own;
  static constexpr Balance balance = Balance::first_choice;  // of each level
  static constexpr bool can_drop_tokens = false;             // by the factors of MoeConfig; its own are here

  /// Slots of a branch: factor S / branches of S tokens; of an expert: factor C / b of the C slots of its branch (of S
  /// where a branch has no limit). At least min_capacity. 0: no limit. Mesh's are 1.25 and 1, in evaluation 2 and 1.
  struct Factors {
    double branch = 0, expert = 0;
  };
  Factors training, evaluation;
  std::int32_t min_capacity = 4;
  bool random_second = true;

  std::int32_t capacity(index_t, bool) const { return 0; }

  template <class Team, class T>
  SPARSEMOE_HD void assign(Team team, const Assignment<T>& group) const {
    for (index_t t = team.lane(); t < group.tokens(); t += Team::lanes)
      if (group.valid[t] != 0) choose(group, t);
    (void)team.sum(T(0));
    const Factors& f = group.training ? training : evaluation;
    if (team.lane() == 0 && (f.branch > 0 || f.expert > 0)) limit(group, f);
  }
  template <class T>
  SPARSEMOE_HD void weigh(Row<const T> p, const std::int32_t* chosen, const bool* kept, T* w) const {
    const Parts<T> g(p, chosen);
    w[0] = kept[0] ? g.outer[0] * g.inner[0] : T(0);
    w[1] = kept[1] ? g.outer[0] * g.inner[1] : T(0);
    w[2] = kept[2] ? g.outer[1] : T(0);
  }
  template <class T>
  SPARSEMOE_HD void weigh_backward(Row<const T> p, const std::int32_t* chosen, const bool* kept, const T* dw,
                                   T* d) const {
    const Parts<T> g(p, chosen);
    T given[top_k];
    for (int k = 0; k < top_k; ++k) given[k] = kept[k] ? dw[k] : T(0);
    const T first = given[0] * g.inner[0] + given[1] * g.inner[1];
    if (g.branch[1] >= 0) {
      const T mean = g.outer[0] * first + g.outer[1] * given[2];
      d[g.branch[0]] += (first - mean) / g.outer_sum;
      d[g.branch[1]] += (given[2] - mean) / g.outer_sum;
    }
    if (g.leaf[1] >= 0)
      for (int j = 0; j < 2; ++j) d[g.leaf[j]] += g.outer[0] * (given[j] - first) / g.inner_sum;
  }

 private:
  /// Columns of a token's choices, and its weights, whether or not they were dispatched.
  template <class T>
  struct Parts {
    index_t branch[2], leaf[2];  // -1: none
    T outer[2], inner[2], outer_sum, inner_sum = T(1);
    SPARSEMOE_HD Parts(Row<const T> p, const std::int32_t* chosen) {
      const index_t b = (p.size() - branches) / branches;
      branch[0] = Choice<1>::expert_of(chosen[0]) / b;
      branch[1] = chosen[2] == Choice<1>::none ? -1 : Choice<1>::expert_of(chosen[2]) / b;
      outer_sum = p[branch[0]] + (branch[1] < 0 ? T(0) : p[branch[1]]);
      outer[0] = p[branch[0]] / outer_sum;
      outer[1] = branch[1] < 0 ? T(0) : p[branch[1]] / outer_sum;
      leaf[0] = branches + Choice<1>::expert_of(chosen[0]);
      leaf[1] = chosen[1] == Choice<1>::none ? -1 : branches + Choice<1>::expert_of(chosen[1]);
      if (leaf[1] >= 0) inner_sum = p[leaf[0]] + p[leaf[1]];
      inner[0] = leaf[1] < 0 ? T(1) : p[leaf[0]] / inner_sum;
      inner[1] = leaf[1] < 0 ? T(0) : p[leaf[1]] / inner_sum;
    }
  };
  template <class T>
  SPARSEMOE_HD void choose(const Assignment<T>& group, index_t t) const {
    const Row<const T> p = group.scores.row(t);
    const index_t b = (p.size() - branches) / branches;
    const auto leaves = [&](std::int32_t branch) { return Row<const T>{p.data + branches + branch * b, b}; };
    const auto leaf = [&](std::int32_t branch, std::int32_t j) { return static_cast<std::int32_t>(branch * b) + j; };
    const Choice<2> outer = best<2>(Row<const T>{p.data, branches});
    const std::int32_t first = outer.expert[0], second = outer.expert[1];
    const bool equal = second >= 0 && p[first] == p[second];
    const Choice<2> inner = best<2>(leaves(first));
    group.chosen(t, 0) = leaf(first, inner.expert[0]);
    if (!equal && inner.expert[1] >= 0) {
      const std::int32_t e = leaf(first, inner.expert[1]);
      const Row<const T> q = leaves(first);
      group.chosen(t, 1) = dispatched(group, t, 1, q[inner.expert[0]], q[inner.expert[1]]) ? e : Choice<1>::rejected(e);
    }
    if (second >= 0) {
      const std::int32_t e = leaf(second, best<1>(leaves(second)).expert[0]);
      group.chosen(t, 2) = dispatched(group, t, 0, p[first], p[second]) ? e : Choice<1>::rejected(e);
    }
  }
  /// Whether a second choice of weight g2 beside g1 is dispatched, by draw `which` of the token.
  template <class T>
  SPARSEMOE_HD bool dispatched(const Assignment<T>& group, index_t t, int which, T g1, T g2) const {
    if (!random_second || !group.training) return true;
    TokenInfo info;
    info.unit = group.first + t;
    info.random = group.random;
    return T(2) * g2 / (g1 + g2) > T(info.uniform(which));
  }
  SPARSEMOE_HD index_t slots(double factor, index_t tokens, index_t n) const {
    const auto share = static_cast<index_t>(factor * static_cast<double>(tokens) / static_cast<double>(n));
    const index_t least = index_t(min_capacity) < tokens ? index_t(min_capacity) : tokens;
    return share < least ? least : share > tokens ? tokens : share;
  }
  /// What finds no slot is rejected: first in the branches, then among the experts of each.
  template <class T>
  SPARSEMOE_HD void limit(const Assignment<T>& group, const Factors& f) const {
    const index_t b = (group.experts() - branches) / branches;
    const index_t room = f.branch > 0 ? slots(f.branch, group.tokens(), branches) : group.tokens();
    T* taken = group.values;
    for (index_t i = 0; i < branches; ++i) taken[i] = T(0);
    if (f.branch > 0)
      for (int k = 0; k < top_k; k += 2)  // choices 0 and 1 share a slot of the first branch
        for (index_t t = 0; t < group.tokens(); ++t) {
          if (group.chosen(t, k) < 0) continue;
          T& n = taken[group.chosen(t, k) / b];
          if (n < T(room)) {
            n += T(1);
          } else {
            reject(group.chosen(t, k));
            if (k == 0) reject(group.chosen(t, 1));
          }
        }
    if (!(f.expert > 0)) return;
    const index_t places = slots(f.expert, room, b);
    for (index_t e = 0; e < branches * b; ++e) taken[e] = T(0);
    for (int k = 0; k < top_k; ++k)
      for (index_t t = 0; t < group.tokens(); ++t) {
        if (group.chosen(t, k) < 0) continue;
        T& n = taken[group.chosen(t, k)];
        if (n < T(places))
          n += T(1);
        else
          reject(group.chosen(t, k));
      }
  }
  SPARSEMOE_HD static void reject(std::int32_t& chosen) {
    if (chosen >= 0) chosen = Choice<1>::rejected(chosen);
  }
};
static_assert(check_router<HierarchicalGShard<>>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

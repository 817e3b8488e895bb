// SPDX-License-Identifier: Apache-2.0
// hf/nllb_router.hpp -- the top-2 router of transformers' NLLB-MoE: how the second expert is taken and when weights are
// normalised are values, capacity is a number in training and a share of the tokens in evaluation. Read next:
// hf/nllb.hpp.
#pragma once

#include <cmath>

#include "sparsemoe/hf/losses.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// The second expert: always the next best; that, kept iff twice its probability beats a draw; or the best of the
/// others by logits with Gumbel noise, which the weights do not see. (As there, in evaluation too.)
enum class SecondExpert { all, random, sampling };

struct NllbRouter {
  static constexpr int top_k = 2;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::own;
  static constexpr Balance balance = Balance::none;
  using StackLoss = CombineBalance;

  SecondExpert second = SecondExpert::all;
  bool normalise_before =
      false;  // weights over the sum of the chosen, not of the kept; a `random` second keeps its own
  std::int32_t expert_capacity = 64;  // 0: no limit
  double eval_share = 1;              // of all tokens, slots an expert in evaluation; 0: as in training
  const double* draws = nullptr;      // recorded: (T) of `random`, (T, E) Gumbel noise of `sampling`; null: drawn

  std::int32_t capacity(index_t tokens, bool training) const {
    if (training || eval_share <= 0) return expert_capacity;
    return static_cast<std::int32_t>(std::ceil(eval_share * static_cast<double>(tokens)));
  }
  template <class T>
  SPARSEMOE_HD Choice<2> choose(Row<const T> p, const TokenInfo& info) const {
    Choice<2> c = best<2>(p);
    if (second == SecondExpert::random && c.expert[1] >= 0) {
      const double draw = draws != nullptr ? draws[info.unit] : double(info.uniform(0));
      if (!(T(2) * p[c.expert[1]] > T(draw))) c.expert[1] = Choice<2>::rejected(c.expert[1]);
    } else if (second == SecondExpert::sampling) {
      double top = -1e300;
      for (index_t e = 0; e < p.size(); ++e) {
        const index_t draw = info.unit * p.size() + e;
        const double noise = draws != nullptr ? draws[draw] : gumbel(info.random, static_cast<std::uint64_t>(draw));
        const double noisy = std::log(double(p[e])) + noise;
        if (e != c.expert[0] && noisy > top) top = noisy, c.expert[1] = static_cast<std::int32_t>(e);
      }
    }
    return c;
  }
  template <class T>
  SPARSEMOE_HD void weigh(Row<const T> p, const std::int32_t* chosen, const bool* kept, T* w) const {
    const T sum = total(p, chosen, kept);
    for (int k = 0; k < 2; ++k) w[k] = kept[k] ? p[chosen[k]] / (raw(k) ? T(1) : sum) : T(0);
  }
  template <class T>
  SPARSEMOE_HD void weigh_backward(Row<const T> p, const std::int32_t* chosen, const bool* kept, const T* dw,
                                   T* d) const {
    const T sum = total(p, chosen, kept);
    T dot = 0;
    for (int k = 0; k < 2; ++k)
      if (kept[k] && !raw(k)) dot += dw[k] * p[chosen[k]] / sum;
    for (int k = 0; k < 2; ++k) {
      if (chosen[k] == Choice<2>::none) continue;
      T& to = d[Choice<2>::expert_of(chosen[k])];
      if (normalise_before || kept[k]) to -= dot / sum;
      if (kept[k]) to += dw[k] / (raw(k) ? T(1) : sum);
    }
  }

 private:
  SPARSEMOE_HD static double gumbel(const Random& random, std::uint64_t index) {
    return -std::log(-std::log(double(random.uniform(Purpose::gate_noise, index)) + 1e-30));
  }
  SPARSEMOE_HD bool raw(int k) const { return k == 1 && normalise_before && second == SecondExpert::random; }
  template <class T>
  SPARSEMOE_HD T total(Row<const T> p, const std::int32_t* chosen, const bool* kept) const {
    T sum = 0;
    for (int k = 0; k < 2; ++k)
      if (chosen[k] != Choice<2>::none && (normalise_before || kept[k])) sum += p[Choice<2>::expert_of(chosen[k])];
    return sum;
  }
};
static_assert(check_router<NllbRouter>());

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

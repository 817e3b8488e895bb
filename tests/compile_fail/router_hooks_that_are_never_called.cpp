// SPDX-License-Identifier: Apache-2.0
// A hook that is there and would not be called, and a trait that is no constant, are named.
// expect: router: write capacity as  int32_t capacity(index_t tokens, bool training) const
// expect: router: add  double noise_epsilon, beside noise()
// expect: router: make causal_safe static constexpr
// expect: router: use another balance with StackLoss
#include "sparsemoe/routers/top_k.hpp"

using namespace sparsemoe;

struct Any {
  template <class Spec>
  static void apply(auto&...) {}
};
#ifdef SHOULD_FAIL
struct Capacity : TopK<2> {
  std::int32_t capacity(double share) const { return static_cast<std::int32_t>(share); }
};
struct Noise : TopK<2> {
  double noise(const Random&, std::uint64_t) const { return 0; }
};
struct Member : TopK<2> {
  bool causal_safe = false;
};
struct Unread : TopK<2> {
  static constexpr Balance balance = Balance::importance;
  using StackLoss = Any;
};
static_assert(check_router<Member>());
#else
struct Capacity : TopK<2> {
  std::int32_t capacity(index_t, bool) const { return 4; }
};
struct Noise : TopK<2> {
  double noise_epsilon = 0.01;
  double noise(const Random&, std::uint64_t) const { return 0; }
};
struct Unread : TopK<2> {
  static constexpr Balance balance = Balance::none;
  using StackLoss = Any;
};
#endif
static_assert(check_router<Capacity>() && check_router<Noise>() && check_router<Unread>());

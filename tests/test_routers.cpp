// SPDX-License-Identifier: Apache-2.0
// test_routers.cpp -- what every router must satisfy, for sentence, task and hash routing, and a router of one's own.
// Read next: include/sparsemoe/testing/check_router.hpp, test_routers_token.cpp for the others.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/task.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;
using router_properties::holds;

TEST_CASE("sentence routing by its own mean, and by a mean it is given") {
  holds(Sentence{});
  holds(Sentence{}, {.external_pool = true});
}
TEST_CASE("task routing, learned and fixed") {
  holds(Task{});
  holds(StaticTask{});
  holds(StaticTask{}, {.experts = 7, .tasks = 5, .seed = 3});
}
TEST_CASE("fewer experts than choices are refused: the weights 1/k of the chosen would not sum to 1") {
  struct Spec {
    using Router = StaticTask;
    using Precision = Fp32;
    using Backend = Cpu;
    using Collective = Solo;
    using Activation = Relu;
  };
  MoeConfig config;
  config.experts = 1, config.width = 4, config.hidden = 4;
  CHECK_THROWS_WITH_AS(MoE<Spec>{config}, "moe: a top-2 router needs at least that many experts; got 1", Error);
}
TEST_CASE("hash routing by a random and a balanced table, and by the id itself") {
  const auto random = random_hash_table(30, 5, 42);
  holds(Hash{random.data()});
  std::vector<std::int64_t> frequency;
  for (int i = 0; i < 30; ++i) frequency.push_back(1000 / (i + 1));
  const auto balanced = balanced_hash_table(frequency, 5);
  holds(Hash{balanced.data()});
  holds(Hash{});
}
TEST_CASE("hash tables: the random one uses every expert, the balanced one evens out the load") {
  const auto random = random_hash_table(4000, 8, 1);
  std::vector<std::int64_t> load(8, 0), frequency;
  for (const auto e : random) ++load.at(static_cast<std::size_t>(e));
  for (const auto n : load) CHECK(std::abs(static_cast<double>(n) - 500) < 5 * std::sqrt(500.0 * 7 / 8));
  CHECK(random == random_hash_table(4000, 8, 1));
  CHECK(random != random_hash_table(4000, 8, 2));
  for (int i = 0; i < 4000; ++i) frequency.push_back(1000000 / (i + 1));
  const auto balanced = balanced_hash_table(frequency, 8);
  std::fill(load.begin(), load.end(), 0);
  for (std::size_t i = 0; i < balanced.size(); ++i) load.at(static_cast<std::size_t>(balanced[i])) += frequency[i];
  CHECK(*std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()) <=
        1000000);  // the most frequent id is alone
  CHECK(balanced_hash_table({5, 5, 5, 1}, 3) == std::vector<std::int32_t>{0, 1, 2, 0});  // ties: lower id, lower bucket
}

/// A router of one's own: the best of the half of the experts that the token's id picks. The raw probability is its
/// weight.
struct HalvedTop1 {
  static constexpr int top_k = 1;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::probability;
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    const index_t half = p.size() / 2, first = info.id % 2 == 0 ? 0 : half;
    const Choice<1> c = best<1>(Row<const T>{p.data + first, half});
    return {{c.expert[0] + static_cast<std::int32_t>(first)}};
  }
};
static_assert(check_router<HalvedTop1>());
/// Looks at the token before it: a place of a sentence matters, what comes later does not.
struct Bigram : Hash {
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    return {{static_cast<std::int32_t>((info.id * 31 + info.previous + 1) % p.size())}};
  }
};
TEST_CASE("a router written in an afternoon") {
  holds(HalvedTop1{}, {.experts = 6, .lower_index_wins = false, .any_expert = false});
  holds(Bigram{}, {.position_free = false});
  CHECK_FALSE(check_router(Bigram{}).passed());  // tokens may not be moved
}

TEST_CASE("the k best: total order, fewer experts than k, NaN last") {
  const auto pick = [](std::vector<double> scores) {
    const Choice<3> c = best<3>(Row<const double>{scores.data(), static_cast<index_t>(scores.size())});
    return std::vector<std::int32_t>(c.expert, c.expert + 3);
  };
  using Expected = std::vector<std::int32_t>;
  CHECK(pick({1, 3, 3, 2}) == Expected{1, 2, 3});
  CHECK(pick({0, 0, 0, 0, 0}) == Expected{0, 1, 2});
  CHECK(pick({5, 4}) == Expected{0, 1, -1});
  const double nan = std::nan("");
  CHECK(pick({nan, -7, nan, -8}) == Expected{1, 3, 0});
  CHECK(pick({-INFINITY, 2, -INFINITY}) == Expected{1, 0, 2});
}

}  // namespace

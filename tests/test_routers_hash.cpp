// SPDX-License-Identifier: Apache-2.0
// test_routers_hash.cpp -- hash layers by other keys than the token's id, tables made from embeddings, and MultiHash.
// Read next: include/sparsemoe/routers/hash_variants.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <set>

#include "sparsemoe/nn/multi_hash.hpp"
#include "sparsemoe/routers/hash_variants.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;
using router_properties::holds;
/// What a router without scores chooses of `experts`.
template <class Router>
std::int32_t pick(const Router& router, std::int32_t id, std::int32_t previous, std::int32_t position,
                  index_t experts) {
  TokenInfo info;
  info.id = id, info.previous = previous, info.position = position;
  return router.choose(Row<const double>{nullptr, experts}, info).expert[0];
}

TEST_CASE("by the pair of ids, by the previous id, by the position") {
  holds(BigramHash{}, {.position_free = false});
  holds(PreviousTokenHash{}, {.position_free = false});
  holds(PositionHash{}, {.position_free = false});
}
TEST_CASE("a bigram's expert depends on both ids, and all experts are used about evenly") {
  std::vector<std::int64_t> load(8, 0);
  int other_previous = 0, other_id = 0;
  for (std::int32_t previous = -1; previous < 99; ++previous)
    for (std::int32_t id = 0; id < 100; ++id) {
      const auto at = [&](std::int32_t p, std::int32_t i) { return pick(BigramHash{}, i, p, 0, 8); };
      ++load.at(static_cast<std::size_t>(at(previous, id)));
      other_previous += at(previous, id) != at(previous + 1, id) ? 1 : 0;
      other_id += at(previous, id) != at(previous, id + 1) ? 1 : 0;
    }
  for (const auto n : load) CHECK(std::abs(static_cast<double>(n) - 1250) < 5 * std::sqrt(1250.0 * 7 / 8));
  CHECK(std::abs(other_previous - 8750) < 5 * std::sqrt(8750.0 / 8));
  CHECK(std::abs(other_id - 8750) < 5 * std::sqrt(8750.0 / 8));
  const std::vector<std::int32_t> table = {3, 1, 2};
  CHECK(pick(PreviousTokenHash{{}, table.data()}, 7, -1, 0, 4) == 3);
  CHECK(pick(PreviousTokenHash{{}, table.data()}, 7, 1, 1, 4) == 2);
  CHECK(pick(PositionHash{}, 7, 1, 9, 4) == 1);
}
TEST_CASE("clustered: a cluster is a bucket; dispersed: a cluster is spread over all buckets") {
  // Three clouds of four points, their ids interleaved.
  std::vector<float> embeddings;
  for (int i = 0; i < 12; ++i) {
    embeddings.push_back(static_cast<float>(i % 3 * 10) + 0.1f * static_cast<float>(i));
    embeddings.push_back(static_cast<float>(i % 3 == 1 ? 10 : 0));
  }
  const auto clustered = clustered_hash_table(embeddings, 2, 3);
  for (std::size_t i = 0; i < 12; ++i) CHECK(clustered[i] == clustered[i % 3]);
  CHECK(std::set<std::int32_t>(clustered.begin(), clustered.end()).size() == 3);
  const auto dispersed = dispersed_hash_table(embeddings, 2, 4);  // 12 ids, 4 buckets: clusters of 4
  for (std::size_t cloud = 0; cloud < 3; ++cloud) {
    std::set<std::int32_t> buckets;
    for (std::size_t i = cloud; i < 12; i += 3) buckets.insert(dispersed[i]);
    CHECK(buckets.size() == 4);
  }
  CHECK_THROWS_AS(clustered_hash_table(embeddings, 2, 13), Error);
}

TEST_CASE("MultiHash: every gradient, padding included; widths that do not divide are refused") {
  using Layer = MultiHashFeedForward<Fp64, Cpu, Gelu>;
  Cpu::Context ctx(1);
  const index_t T = 7, D = 6, H = 8, E = 3, N = 2, V = 11;
  const Layer layer(MultiHashConfig{E, N, D, H});
  const auto table = random_hash_table(V * N, E, 5);
  std::vector<std::int32_t> ids;
  for (index_t t = 0; t < T; ++t) ids.push_back(static_cast<std::int32_t>(t * 4 % V));
  const std::vector<std::uint8_t> valid = {1, 1, 1, 0, 1, 1, 1};
  const Tokens tokens{1, T, ids.data(), valid.data(), nullptr, 0, nullptr};
  Layer::Cache cache;
  const auto forward = [&](const auto& w, const std::vector<Matrix<const double>>& x, Matrix<double> y) {
    layer.forward(ctx, w, {table.data(), V}, tokens, x[0], y, cache);
  };
  const auto backward = [&](const auto& w, auto& dw, const std::vector<Matrix<const double>>& x,
                            Matrix<const double> dy, const std::vector<Matrix<double>>& dx) {
    layer.backward(ctx, w, dw, x[0], dy, dx[0], cache);
  };
  const LayerReport report = check_layer<Cpu>(ctx, layer, {{T, D}}, {T, D}, forward, backward);
  INFO(report.text());
  CHECK(report.passed());
  CHECK_THROWS_WITH_AS(Layer(MultiHashConfig{3, 4, 6, 8}), doctest::Contains("do not divide into 4 segments"), Error);
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// Expert use by language: entropy, divergence, dead experts, the tree of likeness, and what the report writes.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>

#include "sparsemoe/io/json.hpp"
#include "sparsemoe/report/routing_report.hpp"

namespace moe = sparsemoe;

namespace {
moe::ExpertUse three_languages() {
  moe::ExpertUse use{"decoder", "task", 1, 4, {"da", "de", "ja"}, {8, 8, 0, 0, 8, 8, 0, 0, 0, 0, 16, 0}};
  use.check();
  return use;
}
}  // namespace

TEST_CASE("shares, entropy and dead experts") {
  const auto use = three_languages();
  CHECK(use.shares(0) == std::vector<double>{0.5, 0.5, 0, 0});
  CHECK(moe::entropy_bits(use.shares(0)) == doctest::Approx(1));
  CHECK(moe::entropy_bits(use.shares(2)) == doctest::Approx(0));
  CHECK(moe::entropy_bits({0.25, 0.25, 0.25, 0.25}) == doctest::Approx(2));
  CHECK(use.dead() == std::vector<moe::index_t>{3});
  moe::ExpertUse silent = use;
  silent.counts.assign(12, 0);
  CHECK(silent.shares(1) == std::vector<double>{0, 0, 0, 0});
  silent.counts.pop_back();
  CHECK_THROWS_WITH(silent.check(), doctest::Contains("11 counts for 3 groups of 4 experts"));
}

TEST_CASE("Jensen-Shannon divergence: 0 for equal, 1 for disjoint, symmetric, and known in between") {
  const std::vector<double> p{0.5, 0.5, 0}, q{0, 0, 1}, r{0.5, 0.25, 0.25};
  CHECK(moe::jensen_shannon_bits(p, p) == doctest::Approx(0));
  CHECK(moe::jensen_shannon_bits(p, q) == doctest::Approx(1));
  CHECK(moe::jensen_shannon_bits(p, r) == doctest::Approx(moe::jensen_shannon_bits(r, p)));
  // By hand: m = (.5, .375, .125); (.5 log2 (.5/.375)) / 2 + (.25 log2 (.25/.375) + .25 log2 2) / 2
  const double by_hand = 0.5 * std::log2(0.5 / 0.375) / 2 + (0.25 * std::log2(0.25 / 0.375) + 0.25) / 2;
  CHECK(moe::jensen_shannon_bits(p, r) == doctest::Approx(by_hand));
  CHECK_THROWS_AS(moe::jensen_shannon_bits({1}, {0.5, 0.5}), moe::Error);
}

TEST_CASE("average linkage: the textbook merges, and leaves in an order without crossings") {
  // Items 0 and 2 at 1, items 1 and 3 at 2, everything else at 6 and 8: the clusters are {0, 2}, {1, 3}, then all at 7.
  const std::vector<double> d{0, 6, 1, 8, 6, 0, 8, 2, 1, 8, 0, 6, 8, 2, 6, 0};
  const auto merges = moe::average_linkage(d, 4);
  REQUIRE(merges.size() == 3);
  CHECK((merges[0].left == 0 && merges[0].right == 2 && merges[0].height == doctest::Approx(1)));
  CHECK((merges[1].left == 1 && merges[1].right == 3 && merges[1].height == doctest::Approx(2)));
  CHECK((merges[2].left == 4 && merges[2].right == 5 && merges[2].height == doctest::Approx(7)));
  CHECK(moe::leaf_order(merges, 4) == std::vector<std::size_t>{0, 2, 1, 3});
  CHECK(moe::average_linkage({0}, 1).empty());
  CHECK_THROWS_AS(moe::average_linkage({0, 1}, 2), moe::Error);
}

TEST_CASE("the report: counts in CSV and JSON, maps and a tree on the page, names escaped") {
  auto use = three_languages();
  use.groups[2] = "<ja>";
  const std::string csv = moe::routing_csv({use});
  CHECK(csv.find("decoder,1,task,da,1,8,0.500000\n") != std::string::npos);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 13);
  const auto json = moe::routing_json({use});
  CHECK(json["layers"][0]["counts"][1][0] == 8);
  CHECK(json["layers"][0]["dead_experts"] == moe::Json::array({3}));
  CHECK(json["trees"][0]["merges"][0][0] == 0);
  CHECK(json["trees"][0]["merges"][0][1] == 1);
  CHECK(json["trees"][0]["merges"][1][2].get<double>() == doctest::Approx(1));
  const auto path = std::filesystem::temp_directory_path() / "sparsemoe_routing_report.html";
  moe::write_routing_report({use}, "Routing", "language", path);
  const std::string page = moe::read_file(path);
  CHECK(page.find("&lt;ja&gt;") != std::string::npos);
  CHECK(page.find("<ja>") == std::string::npos);
  CHECK(page.find("Likeness by expert use, decoder") != std::string::npos);
  std::filesystem::remove(path);
}

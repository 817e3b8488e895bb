// SPDX-License-Identifier: Apache-2.0
// test_span_corruption.cpp -- the spans of T5's pre-training task: their number and length, and that nothing is lost.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <numeric>

#include "examples/pretraining/span_corruption.hpp"

using pretraining::Ids;
using pretraining::SpanCorruption;

TEST_CASE("a corrupted window holds what it held, each span behind its own sentinel") {
  const SpanCorruption corrupt{.pieces = 1000};
  for (const std::size_t length : {2, 3, 7, 20, 64, 512}) {
    Ids window(length);
    std::iota(window.begin(), window.end(), 3);
    const auto [noise, spans] = corrupt.shape(length);
    for (std::uint64_t number = 0; number < 50; ++number) {
      const auto e = corrupt(window, {7, 0, 0}, number);
      CHECK(corrupt.restored(e) == window);
      CHECK(e.input.size() == length - noise + spans + 1);
      CHECK(e.target.size() == noise + spans + 1);
      CHECK(!corrupt.is_sentinel(e.input.front()));
      Ids marks;
      for (const auto id : e.target)
        if (corrupt.is_sentinel(id)) marks.push_back(id);
      Ids expected(spans);
      for (std::size_t i = 0; i < spans; ++i) expected[i] = 1000 + 99 - static_cast<std::int32_t>(i);
      CHECK(marks == expected);
    }
  }
}

TEST_CASE("15 % of the tokens are noise, in spans of three") {
  const SpanCorruption corrupt{.pieces = 1000};
  CHECK(corrupt.shape(512).noise == 77);
  CHECK(corrupt.shape(512).spans == 26);
  CHECK_THROWS_AS(corrupt.shape(1), sparsemoe::Error);
}

TEST_CASE("every division into spans is equally likely") {
  // 6 tokens hidden one by one among 14: the kept ones are 6 runs, C(13, 5) divisions, and a window ends with a hidden
  // span, as in T5. The first run has r tokens in C(13 - r, 4) of them.
  const SpanCorruption corrupt{.pieces = 1000, .density = 0.3, .mean_span = 1};
  Ids window(20);
  std::iota(window.begin(), window.end(), 3);
  std::vector<double> first(10, 0), ways = {495, 330, 210, 126, 70, 35, 15, 5, 1};
  constexpr int draws = 20000;
  for (std::uint64_t number = 0; number < draws; ++number) {
    const auto e = corrupt(window, {11, 0, 0}, number);
    CHECK(e.target[e.target.size() - 2] == window.back());
    std::size_t run = 0;
    while (!corrupt.is_sentinel(e.input[run])) ++run;
    first[run] += 1.0 / draws;
  }
  for (std::size_t r = 1; r <= ways.size(); ++r) {
    const double share = ways[r - 1] / 1287;
    CHECK(std::abs(first[r] - share) < 5 * std::sqrt(share / draws) + 1e-9);
  }
}

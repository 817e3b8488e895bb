// SPDX-License-Identifier: Apache-2.0
// test_search_rules.cpp -- rules that change scores before the choice: each against transformers' processor written
// down, and outputs that are UTF-8 whatever the model says. Read next: test_search.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/infer/beam.hpp"
#include "sparsemoe/infer/candidates.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace {

using namespace sparsemoe;
using Ids = std::vector<std::int32_t>;
constexpr double infinity = std::numeric_limits<double>::infinity();

/// A model whose logits are a table of the token fed: no layers, so that a search of it compiles at once.
struct Table {
  using B = Cpu;
  using P = Fp32;
  using S = float;
  using Context = Cpu::Context;
  using Collective = int;
  struct Config {
    index_t vocabulary;
  };
  Config sizes;
  std::vector<float> logits;  // (V, V)
  std::uint64_t seed = 0;     // other than 0: random logits that change with the position

  const Config& config() const { return sizes; }
  Matrix<const float> encode(Context&, const Tokens&, Collective&) { return {}; }
  void begin(Context&, Matrix<const float>, index_t, index_t, index_t) {}
  void select(Context&, const std::int32_t*, index_t) {}
  void step(Context&, const Tokens& t, Collective&, Matrix<float> out) {
    for (index_t r = 0; r < out.rows; ++r)
      for (index_t j = 0; j < out.cols; ++j) {
        const auto at = static_cast<std::size_t>(t.ids[r] * out.cols + j);
        if (seed == 0)
          out(r, j) = logits[at];
        else
          out(r, j) = static_cast<float>(Random{seed}
                                             .draw4(Purpose::test, static_cast<std::uint64_t>(at) * 64 +
                                                                       static_cast<std::uint64_t>(t.position))
                                             .v[0] %
                                         4096) /
                      512.0f;
      }
  }
};
Table table_of(index_t vocabulary, const std::vector<float>& row) {
  Table t{{vocabulary}, {}};
  for (index_t i = 0; i < vocabulary; ++i) t.logits.insert(t.logits.end(), row.begin(), row.end());
  return t;
}
SearchResult run(Table& model, const SearchOptions& options, const Ids& source = {0}) {
  Cpu::Context ctx(1);
  int solo = 0;
  const std::vector<std::uint8_t> valid(source.size(), 1);
  return search(ctx, model, solo,
                {1, static_cast<index_t>(source.size()), source.data(), valid.data(), nullptr, 0, nullptr}, options);
}
SearchOptions greedy_options(index_t length) {
  SearchOptions o;
  o.begin = 0, o.end = 1, o.max_length = length;
  return o;
}

TEST_CASE("a repetition penalty divides what is above 0 and multiplies what is below, once an id") {
  Table m = table_of(5, {-9, -9, 4.0f, 3.0f, 1.5f});
  SearchOptions o = greedy_options(6);
  CHECK(run(m, o)[0][0].tokens == Ids{2, 2, 2, 2, 2, 2});
  o.rules.repetition_penalty = 2;  // 2 falls to 2, 3 to 1.5, 4 to 0.75: each only once
  CHECK(run(m, o)[0][0].tokens == Ids{2, 3, 2, 2, 2, 2});
  o.rules.repetition_penalty = 0.5;
  CHECK(run(m, o)[0][0].tokens == Ids{2, 2, 2, 2, 2, 2});
  Table n = table_of(5, {-9, -9, -1.0f, -1.5f, -3.5f});
  o.rules.repetition_penalty = 2;
  CHECK(run(n, o)[0][0].tokens == Ids{2, 3, 2, 2, 2, 2});
  // The begin token is part of the text.
  Table b = table_of(4, {4.0f, -9, 3.0f, -9});
  CHECK(run(b, o)[0][0].tokens == Ids{2, 0, 0, 0, 0, 0});
}
TEST_CASE("a length penalty that makes scores no numbers is refused by name") {
  Table m = table_of(4, {-9, -9, 4.0f, 3.0f});
  SearchOptions o = greedy_options(12);
  o.beams = 2;
  for (const double penalty : {-700.0, -1e308, 700.0}) {
    o.length_penalty = penalty;
    CHECK_THROWS_WITH_AS(run(m, o), doctest::Contains("search: length_penalty must lie between "), Error);
  }
  for (const double penalty : {-100.0, 100.0}) {
    o.length_penalty = penalty;
    CHECK(std::isfinite(run(m, o)[0][0].score));
  }
}
TEST_CASE("an output says which of several ends it found") {
  SearchOptions o = greedy_options(4);
  o.other_ends = {3};
  Table m = table_of(4, {-9, 1.0f, -9, 4.0f});
  CHECK(run(m, o)[0][0].end == 3);
  Table n = table_of(4, {-9, 4.0f, -9, 1.0f});
  CHECK(run(n, o)[0][0].end == 1);
  Table never = table_of(4, {-9, -9, 4.0f, -9});
  CHECK(run(never, o)[0][0].end == -1);
}
TEST_CASE("a source penalty favours the source") {
  Table m = table_of(6, {-9, -9, 4.0f, 3.0f, -2.0f, -3.0f});
  SearchOptions o = greedy_options(2);
  o.rules.source_penalty = 1.5;
  CHECK(run(m, o, {3, 3})[0][0].tokens == Ids{3, 3});  // 4.5, not 6.75
  o.rules.suppressed = {2, 3};
  CHECK(run(m, o, {5, 3})[0][0].tokens == Ids{4, 4});  // -2 and -3 / 1.5
  o.rules.source_penalty = 1.6;
  CHECK(run(m, o, {5, 3})[0][0].tokens == Ids{5, 5});
}
TEST_CASE("biases of sequences add up and never start too early; minus infinity forbids") {
  Table m = table_of(6, {-9, -9, 4.0f, 3.0f, 2.0f, 1.0f});
  SearchOptions o = greedy_options(4);
  o.rules.biases = {{{2, 3}, 2.0}};
  CHECK(run(m, o)[0][0].tokens == Ids{2, 3, 2, 3});
  o.rules.biases = {{{2, 3}, 2.0}, {{3}, -0.5}, {{3, 2, 3}, -9.0}};
  CHECK(run(m, o)[0][0].tokens == Ids{2, 3, 2, 2});
  o.rules.biases = {{{2, 2}, -infinity}, {{3}, -infinity}};
  CHECK(run(m, o)[0][0].tokens == Ids{2, 4, 2, 4});
  o.rules.biases = {{{0, 5}, 9.0}};  // the begin token is before the first
  CHECK(run(m, o)[0][0].tokens == Ids{5, 2, 2, 2});
}
TEST_CASE("n-grams of the source are left out") {
  Table m = table_of(6, {-9, -9, 4.0f, 3.0f, 2.0f, 1.0f});
  SearchOptions o = greedy_options(4);
  o.rules.source_ngram = 2;
  CHECK(run(m, o, {2, 2, 3, 2})[0][0].tokens == Ids{2, 4, 2, 4});
  o.rules.source_ngram = 1;
  CHECK(run(m, o, {2, 4})[0][0].tokens == Ids{3, 3, 3, 3});
}
TEST_CASE("suppressed ids, at the beginning and always; behind a forced first token") {
  Table m = table_of(6, {-9, -9, 4.0f, 3.0f, 2.0f, 1.0f});
  SearchOptions o = greedy_options(3);
  o.rules.suppressed = {3};
  o.rules.suppressed_first = {2};
  CHECK(run(m, o)[0][0].tokens == Ids{4, 2, 2});
  o.first = 5;
  CHECK(run(m, o)[0][0].tokens == Ids{5, 4, 2});
  o.rules.suppressed = {5};
  CHECK_THROWS_WITH_AS(run(m, o), "search: sentence 1: every token is excluded from coming first", NoAnswer);
}
TEST_CASE("lengths: the total before an end, the last token forced, ends that grow") {
  Table m = table_of(5, {-9, 4.0f, 3.0f, 2.0f, 1.0f});
  SearchOptions o = greedy_options(6);
  CHECK(run(m, o)[0][0].tokens.empty());
  o.rules.min_total = 3;  // the begin token is one
  CHECK(run(m, o)[0][0].tokens == Ids{2, 2});
  o.min_length = 3;
  CHECK(run(m, o)[0][0].tokens == Ids{2, 2, 2});
  o = greedy_options(4);
  o.rules.suppressed = {1};
  o.rules.forced_last = {4};
  CHECK(run(m, o)[0][0].tokens == Ids{2, 2, 2, 4});
  o.rules = {};
  Table e = table_of(4, {-9, 1.0f, 3.0f, -9});
  o = greedy_options(9);
  o.rules.decay_start = 2, o.rules.decay = 1.5;  // after 2 + n tokens: 1.5^n, above 3 at n = 3
  CHECK(run(e, o)[0][0].tokens == Ids{2, 2, 2, 2, 2});
  Table f = table_of(4, {-9, -3.0f, 3.0f, -9});
  CHECK(run(f, o)[0][0].tokens == Ids{2, 2, 2, 2, 2});  // -3 + 3 (1.5^3 - 1) is above 3
  o.end = -1;
  CHECK(run(m, o)[0][0].tokens == Ids(9, 1));
}
TEST_CASE("with beams the rules change log-probabilities, and can be normalised again") {
  const std::vector<float> row = {-9, -9, 2.0f, 1.0f};
  Table m = table_of(4, row);
  double sum = 0;
  for (const float x : row) sum += std::exp(static_cast<double>(x));
  const double p2 = 2 - std::log(sum), p3 = 1 - std::log(sum);
  SearchOptions o = greedy_options(2);
  o.beams = o.nbest = 2;
  o.rules.repetition_penalty = 2;
  const auto found = run(m, o)[0];
  REQUIRE(found.size() == 2);  // after 2: 3 at p3 or 2 at 2 p2
  CHECK(found[0].score == doctest::Approx((p2 + std::max(p3, 2 * p2)) / 2));
  o.rules.renormalise = true;
  const auto again = run(m, o)[0];
  const double total = std::exp(p3) + std::exp(2 * p2) + 2 * std::exp(2 * (-9 - std::log(sum)));
  CHECK(
      again[0].score ==
      doctest::Approx(
          (p2 -
           std::log(std::exp(p2) + std::exp(p3) + std::exp(-9 - std::log(sum)) + std::exp(2 * (-9 - std::log(sum)))) +
           std::max(p3, 2 * p2) - std::log(total - std::exp(2 * (-9 - std::log(sum))) + std::exp(-9 - std::log(sum)))) /
          2)
          .epsilon(1e-5));
}
TEST_CASE("scores that are no numbers are an error, or numbers where that is asked") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, inf}) {
    Table m = table_of(4, {0, 0, bad, 1});
    SearchOptions o = greedy_options(2);
    for (const index_t beams : {1, 2}) {
      o.beams = beams;
      o.rules.remove_invalid = false;
      CHECK_THROWS_AS(run(m, o), NoAnswer);
      o.rules.remove_invalid = true;
      CHECK(run(m, o)[0][0].tokens.size() + 1 >= 1);
    }
  }
  Table none = table_of(4, {-inf, -inf, -inf, -inf});
  CHECK_THROWS_AS(run(none, greedy_options(2)), NoAnswer);
  Table one = table_of(4, {-inf, -inf, 1, -inf});
  CHECK(run(one, greedy_options(2))[0][0].tokens == Ids{2, 2});
}
TEST_CASE("ReLU keeps NaN, and gives no negative zero") {
  CHECK(std::isnan(Relu::value(std::numeric_limits<float>::quiet_NaN())));
  CHECK_FALSE(std::signbit(Relu::value(-0.0f)));
  CHECK(Relu::value(-2.0f) == 0);
  CHECK(Relu::value(2.0f) == 2);
}
TEST_CASE("what makes no sense is refused") {
  Table m = table_of(4, {0, 0, 0, 1});
  const auto refuses = [&](auto&& change, const char* what) {
    SearchOptions o = greedy_options(2);
    change(o);
    CHECK_THROWS_WITH_AS(run(m, o), what, Error);
  };
  refuses([](auto& o) { o.rules.repetition_penalty = 0; },
          "search: repetition_penalty, source_penalty and decay must be above 0; got 0, 1 and 1");
  refuses([](auto& o) { o.rules.suppressed = {4}; }, "search: a rule names the id 4, expected one below 4");
  refuses([](auto& o) { o.rules.biases = {{{1, -1}, 1.0}}; }, "search: a rule names the id -1, expected one below 4");
  refuses([](auto& o) { o.other_ends = {4}; }, "search: an end must be an id below 4; got 4");
}

TEST_CASE("with random logits every output is valid UTF-8 without U+FFFD") {
  // Ids: begin, end, two pieces of text, then all 256 bytes.
  constexpr index_t vocabulary = 260;
  std::vector<std::int16_t> bytes(vocabulary, -1);
  for (std::int16_t b = 0; b < 256; ++b) bytes[static_cast<std::size_t>(b) + 4] = b;
  int long_ones = 0, plain_broken = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Table m{{vocabulary}, {}, seed};
    SearchOptions o = greedy_options(static_cast<index_t>(seed % 7) + 1);
    o.beams = o.nbest = static_cast<index_t>(seed % 4) + 1;
    const auto text_of = [&](const Ids& tokens) {
      std::string text;
      for (const std::int32_t id : tokens)
        if (id >= 4)
          text += static_cast<char>(bytes[static_cast<std::size_t>(id)]);
        else if (id > 1)
          text += id == 2 ? "x" : "\u00E9";
      return text;
    };
    const SearchResult plain = run(m, o);
    for (const auto& h : plain[0]) plain_broken += find_invalid_utf8(text_of(h.tokens)).has_value();
    o.bytes = bytes.data();
    const SearchResult masked = run(m, o);
    for (const auto& h : masked[0]) {
      const std::string text = text_of(h.tokens);
      CHECK_FALSE(find_invalid_utf8(text).has_value());
      CHECK(text.find("\xEF\xBF\xBD") == std::string::npos);
      if (find_invalid_utf8(text).has_value()) continue;
      for (const char32_t c : decode_utf8(text)) long_ones += c > 0xFF;
    }
  }
  CHECK(long_ones > 20);
  CHECK(plain_broken > 20);
}
TEST_CASE("the bytes that may follow are those of Unicode's table 3-7") {
  const auto allowed = [](std::initializer_list<int> before) {
    Utf8Pending p;
    for (const int b : before) {
      CHECK(p.allows(static_cast<unsigned>(b)));
      p.add(static_cast<unsigned>(b));
    }
    int first = -1, last = -1, count = 0;
    for (int b = 0; b < 256; ++b)
      if (p.allows(static_cast<unsigned>(b))) first = first < 0 ? b : first, last = b, ++count;
    return std::vector<int>{first, last, count};
  };
  using V = std::vector<int>;
  CHECK(allowed({}) == V{0, 0xF4, 0x80 + 0xF4 - 0xC2 + 1});
  CHECK(allowed({0x41}) == allowed({}));
  CHECK(allowed({0xC3}) == V{0x80, 0xBF, 64});
  CHECK(allowed({0xC3, 0xA9}) == allowed({}));
  CHECK(allowed({0xE0}) == V{0xA0, 0xBF, 32});
  CHECK(allowed({0xED}) == V{0x80, 0x9F, 32});
  CHECK(allowed({0xF0}) == V{0x90, 0xBF, 48});
  CHECK(allowed({0xF4}) == V{0x80, 0x8F, 16});
  CHECK(allowed({0xF4, 0x8F, 0xBF}) == V{0x80, 0xBF, 64});
  CHECK(allowed({0xEF, 0xBF}) == V{0x80, 0xBF, 63});
  CHECK(allowed({0xF0, 0x9F, 0x98, 0x80}) == allowed({}));
}

}  // namespace

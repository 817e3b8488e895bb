// SPDX-License-Identifier: Apache-2.0
// test_search.cpp -- the rules of greedy and beam search: against a slow search by full forward passes, against all
// outputs there are, and the functors against sorting. Read next: test_search_routers.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "sparsemoe/backend/barrier_team.hpp"
#include "sparsemoe/infer/greedy.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/search_body.hpp"

namespace {

using namespace search_body;
using Slow = Sample<Task, Fp64>;
using Ids = std::vector<std::int32_t>;

// ------------------------------------------------------------------------------------------------- functors
template <class S, class B>
void check_best(index_t columns, int count, int levels) {
  typename B::Context ctx(1);
  const index_t rows = 5;
  const Random random{7};
  std::vector<S> x(static_cast<std::size_t>(rows * columns));
  std::vector<std::uint8_t> banned(static_cast<std::size_t>(columns), 0);
  for (std::size_t i = 0; i < x.size(); ++i) {  // few levels: many ties
    const auto draw = random.draw4(Purpose::test, i).v[0];
    x[i] = S(static_cast<float>(static_cast<int>(draw % static_cast<unsigned>(levels)) - levels / 2));
    if (draw % 17 == 3) x[i] = S(-std::numeric_limits<float>::infinity());
    if (draw % 19 == 4) x[i] = S(std::numeric_limits<float>::quiet_NaN());
  }
  for (std::size_t j = 0; j < banned.size(); ++j) banned[j] = j % 5 == 2;
  for (const std::uint8_t* mask :
       {static_cast<const std::uint8_t*>(nullptr), static_cast<const std::uint8_t*>(banned.data())}) {
    Ids ids(static_cast<std::size_t>(rows * count), -7);
    std::vector<float> values(ids.size(), -7);
    const Matrix<const S> logits(x.data(), rows, columns);
    B::for_each_row(ctx, rows, BestRow<S, float>{logits, mask, count, ids.data(), values.data()});
    for (index_t r = 0; r < rows; ++r) {
      Ids order;
      for (index_t j = 0; j < columns; ++j)
        if (static_cast<float>(logits(r, j)) > -3e38f && (mask == nullptr || mask[j] == 0))
          order.push_back(static_cast<std::int32_t>(j));
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
        return static_cast<float>(logits(r, a)) > static_cast<float>(logits(r, b));
      });
      order.resize(static_cast<std::size_t>(count), -1);
      CHECK(Ids(ids.begin() + r * count, ids.begin() + (r + 1) * count) == order);
      for (int k = 0; k < count; ++k)
        if (order[static_cast<std::size_t>(k)] >= 0)
          CHECK(values[static_cast<std::size_t>(r * count + k)] ==
                static_cast<float>(logits(r, order[static_cast<std::size_t>(k)])));
    }
  }
}
TEST_CASE("the best of a row, by one lane and by four, are those of a stable sort") {
  for (const index_t columns : {1, 7, 64, 300, 1000})
    for (const int count : {1, 2, 8, 128}) {
      check_best<float, CpuSequential>(columns, count, 1000);
      check_best<float, CpuSequential>(columns, count, 5);
      check_best<bf16, CpuSequential>(columns, count, 100);
    }
  for (const int count : {1, 8}) {
    check_best<float, Lanes4>(300, count, 5);
    check_best<bf16, Lanes4>(7, count, 100);
  }
}
template <class B>
void check_log_sum() {
  typename B::Context ctx(1);
  const std::vector<float> x = {1, 2, 3, -50, 80, 80, -80, 80.5f};
  std::vector<float> lse(2);
  B::for_each_row(ctx, 2, LogSumRow<float, float>{{x.data(), 2, 4}, lse.data()});
  for (std::size_t r = 0; r < 2; ++r) {
    double sum = 0;
    for (std::size_t j = 0; j < 4; ++j) sum += std::exp(static_cast<double>(x[4 * r + j]));
    CHECK(static_cast<double>(lse[r]) == doctest::Approx(std::log(sum)).epsilon(1e-6));
  }
}
TEST_CASE("the normaliser of a row") {
  check_log_sum<CpuSequential>();
  check_log_sum<Lanes4>();
}
TEST_CASE("a repeated n-gram is found by its context") {
  const Ids tokens = {1, 4, 5, 4, 6, 4, 5, 4};
  const auto found = [&](index_t length, index_t n) {
    std::set<std::int32_t> ids;
    repeated_ngrams(tokens.data(), length, n, [&](std::int32_t id) { ids.insert(id); });
    return ids;
  };
  using Set = std::set<std::int32_t>;
  CHECK(found(8, 0) == Set{});
  CHECK(found(8, 1) == Set{1, 4, 5, 6});
  CHECK(found(8, 2) == Set{5, 6});
  CHECK(found(8, 3) == Set{6});
  CHECK(found(8, 4) == Set{6});
  CHECK(found(8, 5) == Set{});
  CHECK(found(3, 3) == Set{});
  CHECK(found(1, 2) == Set{});
  CHECK(found(0, 1) == Set{});
  CHECK(found(0, 3) == Set{});
}

// --------------------------------------------------------------------------------- a slow search to agree with
/// log p(next | tokens) of sentence s, by a whole forward pass in double.
std::vector<double> log_probs(Slow& m, index_t s, const Ids& tokens) {
  const Part part(m.batch, {s});
  Ids target = {begin_id};
  target.insert(target.end(), tokens.begin(), tokens.end());
  const auto n = static_cast<index_t>(target.size());
  const std::vector<std::uint8_t> valid(target.size(), 1);
  std::vector<double> logits(static_cast<std::size_t>(n * vocabulary));
  m.model.logits(m.ctx, part.tokens(), {1, n, target.data(), valid.data(), part.task.data(), 0, nullptr}, m.solo,
                 {logits.data(), n, vocabulary});
  std::vector<double> last(logits.end() - vocabulary, logits.end());
  double sum = 0;
  for (const double x : last) sum += std::exp(x);
  for (double& x : last) x -= std::log(sum);
  return last;
}
bool repeats(const Ids& tokens, index_t n) {  // some n-gram of begin + tokens is there twice
  Ids all = {begin_id};
  all.insert(all.end(), tokens.begin(), tokens.end());
  std::set<Ids> seen;
  for (std::size_t i = 0; n > 0 && i + static_cast<std::size_t>(n) <= all.size(); ++i)
    if (!seen.insert(
                 Ids(all.begin() + static_cast<std::ptrdiff_t>(i), all.begin() + static_cast<std::ptrdiff_t>(i) + n))
             .second)
      return true;
  return false;
}
double divisor(const SearchOptions& o, double n) {
  return o.length_norm == LengthNorm::power ? std::pow(n, o.length_penalty) : std::pow((5 + n) / 6, o.length_penalty);
}

/// transformers' _beam_search written down with lists, one sentence, no cache; one beam is greedy.
std::vector<Hypothesis> slow_search(Slow& m, index_t s, const SearchOptions& o) {
  struct Beam {
    Ids tokens;
    double total;
  };
  std::vector<Beam> beams = {{{}, 0}};
  std::vector<Hypothesis> found;
  const auto ends = o.ends();
  const auto is_end = [&](std::int32_t id) { return std::find(ends.begin(), ends.end(), id) != ends.end(); };
  const auto by_score = [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; };
  const auto add = [&](const Ids& tokens, double total, index_t n, bool ended) {
    found.push_back({tokens, total / divisor(o, static_cast<double>(n)), ended});
    std::stable_sort(found.begin(), found.end(), by_score);
    if (static_cast<index_t>(found.size()) > o.beams) found.pop_back();
  };
  bool done = false;
  for (index_t n = 1; n <= o.max_length && !done; ++n) {
    std::vector<Beam> candidates;
    for (const Beam& b : beams) {
      const auto p = log_probs(m, s, b.tokens);
      for (std::int32_t id = 0; id < vocabulary; ++id) {
        if (o.banned != nullptr && o.banned[id] != 0 && !(n == 1 && o.first == id)) continue;
        const bool forced = n == 1 && o.first >= 0;
        if (forced && id != o.first) continue;
        Ids next = b.tokens;
        next.push_back(id);
        if (!forced && (repeats(next, o.no_repeat_ngram) || (is_end(id) && n <= o.min_length))) continue;
        candidates.push_back({next, b.total + (forced ? 0 : p[static_cast<std::size_t>(id)])});
      }
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Beam& a, const Beam& b) { return a.total > b.total; });
    if (candidates.empty()) {
      for (const Beam& b : beams) add(b.tokens, b.total, n - 1, false);
      break;
    }
    beams.clear();
    for (std::size_t rank = 0; rank < candidates.size(); ++rank) {
      const Beam& c = candidates[rank];
      const bool end = is_end(c.tokens.back());
      if (rank < static_cast<std::size_t>(o.beams) && (end || n == o.max_length))
        add(end ? Ids(c.tokens.begin(), c.tokens.end() - 1) : c.tokens, c.total, n, end);
      if (!end && static_cast<index_t>(beams.size()) < o.beams) beams.push_back(c);
    }
    done = beams.empty() || n == o.max_length;
    if (!done && static_cast<index_t>(found.size()) == o.beams) {
      const bool longest = o.stopping == Stopping::none_can && o.length_penalty > 0;
      const double reached = static_cast<double>(longest ? o.max_length : n);
      done = o.beams == 1 || o.stopping == Stopping::first_found ||
             found.back().score >= beams[0].total / divisor(o, reached);
    }
  }
  if (static_cast<index_t>(found.size()) > o.nbest) found.resize(static_cast<std::size_t>(o.nbest));
  return found;
}

struct Seen {
  int ended = 0, cut = 0, early = 0;
};
void check_against_slow(Slow& m, const SearchOptions& o, Seen& seen) {
  const SearchResult fast = m.run(o, Part(m.batch, m.all()));
  REQUIRE(static_cast<index_t>(fast.size()) == m.batch.sentences);
  for (index_t s = 0; s < m.batch.sentences; ++s) {
    CAPTURE(s);
    const auto& got = fast[static_cast<std::size_t>(s)];
    const auto expected = slow_search(m, s, o);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].tokens == expected[i].tokens);
      CHECK(got[i].ended == expected[i].ended);
      CHECK(std::abs(got[i].score - expected[i].score) < 1e-9);
      (got[i].ended ? seen.ended : seen.cut) += 1;
      seen.early += got[i].ended && static_cast<index_t>(got[i].tokens.size()) + 2 < o.max_length;
      CHECK_FALSE(repeats(got[i].tokens, o.no_repeat_ngram));
      if (o.first >= 0) CHECK(got[i].tokens.front() == o.first);
      if (i == 0) continue;
      CHECK(got[i].score <= got[i - 1].score);  // sorted, and nothing twice
      if (!o.other_ends.empty()) continue;  // a text with one end and the same with another
      for (std::size_t j = 0; j < i; ++j) CHECK((got[i].tokens != got[j].tokens || got[i].ended != got[j].ended));
    }
  }
}
TEST_CASE("search equals a slow search by full forward passes") {
  Slow m(5);
  Seen seen;
  std::vector<std::uint8_t> banned(vocabulary, 0);
  banned[0] = banned[1] = banned[6] = 1;
  for (const index_t beams : {1, 2, 4, 12})
    for (const double penalty : {0.0, 1.0, 2.0})
      for (const Stopping stopping : {Stopping::no_better, Stopping::first_found, Stopping::none_can}) {
        CAPTURE(beams);
        CAPTURE(penalty);
        SearchOptions o = options_of(beams, beams, 7);
        o.length_penalty = penalty;
        o.stopping = stopping;
        o.banned = banned.data();
        check_against_slow(m, o, seen);
      }
  CHECK(seen.ended > 50);  // all kinds of outputs were there
  CHECK(seen.cut > 50);
  CHECK(seen.early > 20);
}
TEST_CASE("several ends hold in the same comparison") {
  Slow m(5);
  Seen seen;
  for (const index_t beams : {1, 2, 4})
    for (const Stopping stopping : {Stopping::no_better, Stopping::first_found, Stopping::none_can}) {
      CAPTURE(beams);
      SearchOptions o = options_of(beams, beams, 7);
      o.other_ends = {0, 7, 0};
      o.stopping = stopping;
      o.length_penalty = 0.5;
      check_against_slow(m, o, seen);
    }
  CHECK(seen.ended > 20);
  CHECK(seen.early > 20);
}
TEST_CASE("no-repeat n-grams, a forced first token, and GNMT's length norm hold in the same comparison") {
  Slow m(4, {}, 5);
  Seen seen;
  for (const index_t n : {1, 2, 3})
    for (const std::int32_t first : {-1, 7}) {
      CAPTURE(n);
      CAPTURE(first);
      SearchOptions o = options_of(3, 3, 8);
      o.no_repeat_ngram = n;
      o.first = first;
      check_against_slow(m, o, seen);
      o.beams = o.nbest = 1;
      check_against_slow(m, o, seen);
      o.beams = o.nbest = 4;
      o.min_length = 4;
      o.length_norm = LengthNorm::gnmt;
      o.length_penalty = 0.6;
      check_against_slow(m, o, seen);
    }
  SearchOptions o = options_of(2, 2, 14);  // more steps than there are tokens to choose from
  o.no_repeat_ngram = 1;
  std::vector<std::uint8_t> banned(vocabulary, 0);
  banned[end_id] = 1;
  o.banned = banned.data();
  check_against_slow(m, o, seen);
}

void extend(Slow& m, index_t s, const SearchOptions& o, const Ids& tokens, double total, std::vector<Hypothesis>& all) {
  const auto p = log_probs(m, s, tokens);
  const auto n = static_cast<index_t>(tokens.size()) + 1;
  for (std::int32_t id = 0; id < vocabulary; ++id) {
    if (o.banned[id] != 0) continue;
    Ids next = tokens;
    next.push_back(id);
    const double sum = total + p[static_cast<std::size_t>(id)];
    if (id == end_id)
      all.push_back({tokens, sum / divisor(o, static_cast<double>(n)), true});
    else if (n == o.max_length)
      all.push_back({next, sum / divisor(o, static_cast<double>(n)), false});
    else
      extend(m, s, o, next, sum, all);
  }
}
TEST_CASE("with beams enough the search finds all outputs there are, in the order of their scores") {
  Slow m(3);
  std::vector<std::uint8_t> banned(vocabulary, 1);
  for (const int id : {2, 5, 8}) banned[static_cast<std::size_t>(id)] = 0;
  SearchOptions o = options_of(64, 64, 5);  // two ways to go on: 1 + 2 + .. + 16 that end, 32 that are cut
  o.banned = banned.data();
  for (const double penalty : {0.0, 1.0, 2.0}) {
    o.length_penalty = penalty;
    const SearchResult fast = m.run(o, Part(m.batch, m.all()));
    for (index_t s = 0; s < 3; ++s) {
      std::vector<Hypothesis> all;
      extend(m, s, o, {}, 0, all);
      std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
      const auto& got = fast[static_cast<std::size_t>(s)];
      REQUIRE(got.size() == 63);
      REQUIRE(all.size() == 63);
      for (std::size_t i = 0; i < 63; ++i) {
        CHECK(got[i].tokens == all[i].tokens);
        CHECK(std::abs(got[i].score - all[i].score) < 1e-9);
      }
    }
  }
}

TEST_CASE("one beam is greedy decoding: the most likely token, each time") {
  Slow m(6);
  GreedyOptions g;
  g.begin = begin_id, g.end = end_id, g.max_length = 9;
  std::vector<std::uint8_t> banned(vocabulary, 0);
  banned[4] = 1;
  g.banned = banned.data();
  GreedyResult result;
  const Part part(m.batch, m.all());
  m.ctx.training = true;
  greedy(m.ctx, m.model, m.solo, part.tokens(), g, result);
  CHECK(m.ctx.training);
  m.ctx.training = false;
  for (index_t s = 0; s < 6; ++s) {
    Ids tokens;
    bool ended = false;
    while (!ended) {
      auto p = log_probs(m, s, tokens);
      p[4] = -1e9;
      const auto best = static_cast<std::int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
      ended = best == end_id;
      if (ended || static_cast<index_t>(tokens.size()) == g.max_length) break;
      tokens.push_back(best);
    }
    CHECK(result.tokens[static_cast<std::size_t>(s)] == tokens);
    CHECK(result.ended[static_cast<std::size_t>(s)] == ended);
  }
}

TEST_CASE("what makes no sense is refused in a sentence, and leaves the context as it was") {
  Slow m(2);
  const Part part(m.batch, m.all());
  m.ctx.training = true;
  const auto refuses = [&](auto&& change, const char* what) {
    SearchOptions o = options_of(2, 1, 4);
    change(o);
    CHECK_THROWS_WITH_AS(m.run(o, part), what, Error);
    CHECK(m.ctx.training);
  };
  refuses([](auto& o) { o.beams = 0; }, "search: beams must be between 1 and 64; got 0");
  refuses([](auto& o) { o.beams = 65; }, "search: beams must be between 1 and 64; got 65");
  refuses([](auto& o) { o.nbest = 3; }, "search: nbest must be between 1 and the 2 beams; got 3");
  refuses([](auto& o) { o.max_length = 0; }, "search: max_length must be at least 1; got 0");
  refuses([](auto& o) { o.no_repeat_ngram = -1; },
          "search: no_repeat_ngram and min_length must not be negative; got -1 and 0");
  refuses([](auto& o) { o.length_penalty = std::nan(""); }, "search: length_penalty must be finite; got nan");
  refuses([](auto& o) { o.first = 11; }, "search: begin, end and first must be ids below 11; got 1, 2 and 11");
  m.ctx.training = false;
  CHECK(search(m.ctx, m.model, m.solo, Tokens{}, options_of(2, 1, 4)).empty());
}
TEST_CASE("a model that gives NaN is an error that names the sentence") {
  EncoderDecoderConfig config = search_config();
  config.output_scale = std::numeric_limits<double>::quiet_NaN();
  Cpu::Context ctx(1);
  EncoderDecoder<With<Switch>, With<Task>> model(ctx, config, false);
  model.weights.initialise(ctx, 1);
  Solo solo;
  const CopyBatch batch(3, 7, vocabulary, 1);
  CHECK_THROWS_WITH_AS(
      search(ctx, model, solo, batch.source_tokens(), options_of(2, 2, 5)),
      "search: sentence 1: the model's scores are not finite (NaN or infinity); are its weights finite?", NoAnswer);
  SearchOptions o = options_of(2, 2, 5);  // unless they are to be taken for numbers
  o.rules.remove_invalid = true;
  CHECK(search(ctx, model, solo, batch.source_tokens(), o)[0].size() == 2);
}

}  // namespace

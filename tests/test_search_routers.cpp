// SPDX-License-Identifier: Apache-2.0
// test_search_routers.cpp -- what a search finds for a sentence does not depend on the batch, to the bit: for every
// router in the decoder, alone or in company, whether finished rows leave or stay. Read next: test_search.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/search_body.hpp"

namespace {

using namespace search_body;

/// Looks at the token before it and at the position: wrong unless a beam's past follows it.
struct Bigram : Hash {
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    return {{static_cast<std::int32_t>((info.id * 31 + (info.previous + 1) * 7 + info.position) % p.size())}};
  }
};

template <class Router, class P = Fp32>
void check_batch(const Router& router = {}) {
  Sample<Router, P> m(9, router, 3, 37);
  int shrunk = 0;
  for (const index_t beams : {1, 3}) {
    CAPTURE(beams);
    SearchOptions o = options_of(beams, beams, 12);
    o.no_repeat_ngram = 3;
    const Part part(m.batch, m.all());
    const SearchResult all = m.run(o, part);
    REQUIRE(all.size() == 9);
    for (index_t s = 0; s < 9; ++s) {
      CAPTURE(s);
      CHECK(same(m.run(o, Part(m.batch, {s}))[0], all[static_cast<std::size_t>(s)]));
      CHECK(same(m.run(o, Part(m.batch, {s}, 37 - s))[0], all[static_cast<std::size_t>(s)]));  // without its padding
    }
    const SearchResult others = m.run(o, Part(m.batch, {8, 2, 5}));
    CHECK(same(others[0], all[8]));
    CHECK(same(others[1], all[2]));
    CHECK(same(others[2], all[5]));
    SearchOptions stay = o;
    stay.finished = FinishedRows::stay;
    CHECK(same(m.run(stay, part), all));
    // Rows do leave.
    Search<decltype(m.model)> run(m.ctx, m.model, m.solo, part.tokens(), o);
    CHECK(run.rows() == 9 * beams);
    while (run.step())
      if (run.rows() < 9 * beams) ++shrunk;
    CHECK(run.rows() == 0);
    CHECK(same(run.result(), all));
    CHECK_FALSE(run.step());
  }
  CHECK(shrunk > 0);
}

TEST_CASE("a search does not depend on the batch: dense and token routing") {
  check_batch<Dense>();
  check_batch<TopK<2>>();
  check_batch<Switch>();
  check_batch<GShard<>>();
}
TEST_CASE("a search does not depend on the batch: sentence and task routing") {
  check_batch<Sentence>();
  check_batch<SentencePrefix>();
  check_batch<Task>();
  check_batch<StaticTask>();
}
TEST_CASE("a search does not depend on the batch: hash routing, also by the previous id and the position") {
  const auto table = random_hash_table(vocabulary, 4, 42);
  check_batch<Hash>(Hash{table.data()});
  check_batch<Bigram>();
}
TEST_CASE("a search does not depend on the batch: bf16") {
  check_batch<Task, Bf16>();
  check_batch<Sentence, Bf16>();
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// test_by_name.cpp -- the table of routers by name: what a row answers is what its router's type says, and every
// sentence made of the table. Read next: include/sparsemoe/model/by_name.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <set>
#include <string>
#include <type_traits>

#include "sparsemoe/model/by_name.hpp"

namespace {

using namespace sparsemoe;

template <class R>
const NamedRouter& row_of() {
  return named_router(router_name<R>());
}
std::string sentence_of(const char* name) {
  try {
    named_router(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}
std::string refusal_of(const NamedRouter& r, InStack stack) {
  try {
    require_router_fits(r, stack, "--router");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("a row's traits are those of its type") {
  std::size_t rows = 0;
  std::apply(
      [&](const auto&... row) {
        const auto check = [&](const auto& written) {
          using R = typename std::remove_reference_t<decltype(written)>::Router;
          const NamedRouter& r = named_router(written.name);
          CAPTURE(std::string(r.name));
          ++rows;
          CHECK(router_name<R>() == r.name);
          CHECK(r.dense() == std::is_same_v<R, Dense>);
          if constexpr (!std::is_same_v<R, Dense>) {
            using Traits = RouterTraits<R>;
            CHECK(r.choices == Traits::top_k);
            CHECK(r.level == Traits::level);
            CHECK(r.can_drop == Traits::can_drop_tokens);
            CHECK(r.decoders == Traits::causal_safe);
            CHECK(r.encoders == (Traits::gate_input == GateInput::state));
            CHECK(r.by_task == routed_by_task<R>);
            CHECK(r.needs_table == std::is_same_v<R, Hash>);
          }
        };
        (check(row), ...);
      },
      router_rows);
  CHECK(rows == named_routers.size());
}

TEST_CASE("what the names of today answer") {
  const auto names = [](auto wanted) { return listed(router_names(wanted), "and"); };
  CHECK(names([](const auto& r) { return r.can_drop; }) == "token, switch, gshard and hash");
  CHECK(names([](const auto& r) { return r.gated; }) == "token, switch, gshard, sentence and sentence-prefix");
  CHECK(names([](const auto& r) { return r.by_task; }) == "task and static");
  CHECK(names([](const auto& r) { return r.choices == 1; }) == "switch, soft and hash");
  CHECK(names([](const auto& r) { return r.choices == 2; }) ==
        "token, gshard, sentence, sentence-prefix, task and static");
  CHECK(names([](const auto& r) { return r.needs_table; }) == "hash");
  CHECK(names([](const auto& r) { return r.feed == Feed::soft; }) == "soft");
  CHECK(row_of<Dense>().choices == 0);
  CHECK(row_of<Sentence>().level == Level::sentence);
  CHECK(row_of<SentencePrefix>().level == Level::token);
  const NamedRouter& soft = row_of<SoftMixture<4>>();
  CHECK(soft.slots == 4);
  CHECK(soft.note.find(" " + std::to_string(soft.slots) + " slots") != std::string_view::npos);
}

TEST_CASE("names are unique, and each gives its own type") {
  std::set<std::string_view> seen;
  for (const NamedRouter& r : named_routers) {
    CHECK(!r.name.empty());
    CHECK(seen.insert(r.name).second);
    CHECK(with_router(r.name, [](auto router) { return router_name<decltype(router)>(); }) == r.name);
  }
  int calls = 0;
  with_router("hash", [&](auto router) { calls += std::is_same_v<decltype(router), Hash> ? 1 : 100; });
  CHECK(calls == 1);
}

TEST_CASE("an unknown name: all there are, and the nearest") {
  const std::string all = "choose token, switch, gshard, sentence, sentence-prefix, soft, task, static, hash or dense";
  CHECK(sentence_of("x") == "there is no router 'x': " + all);
  CHECK(sentence_of("tokne") == "there is no router 'tokne': " + all + "; did you mean token?");
  CHECK(sentence_of("") == "there is no router '': " + all);
  CHECK(sentence_of("dense") == "");
  CHECK_THROWS_AS(with_router("x", [](auto) { return 0; }), Error);
}

TEST_CASE("help and refusals") {
  CHECK(router_choices([](const auto& r) { return r.encoders; }) ==
        "token, switch, gshard, sentence, soft (Soft MoE, 4 slots an expert), task, static, hash or dense");
  CHECK(router_choices([](const auto& r) { return r.decoders; }) ==
        "token, switch, gshard, sentence, sentence-prefix (mean of the target so far), task, static, hash or dense");
  CHECK(refusal_of(row_of<SentencePrefix>(), InStack::encoder) ==
        "sentence-prefix routing is for decoders; an encoder sees the whole sentence: --router sentence");
  CHECK(refusal_of(row_of<SentencePrefix>(), InStack::decoder) == "");
  CHECK(refusal_of(row_of<SoftMixture<4>>(), InStack::decoder) ==
        "soft routing is for encoders; in a decoder a token would see later ones: --router soft");
  CHECK(refusal_of(row_of<SoftMixture<4>>(), InStack::encoder) == "");
}

TEST_CASE("names in a sentence") {
  CHECK(listed({}, "or") == "");
  CHECK(listed({"a"}, "or") == "a");
  CHECK(listed({"a", "b"}, "or") == "a or b");
  CHECK(listed({"a", "b", "c"}, "and") == "a, b and c");
}

}  // namespace

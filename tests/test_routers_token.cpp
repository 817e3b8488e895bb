// test_routers_token.cpp -- what every router must satisfy, for the routers that score tokens; and routers that break
// one rule each, which check_router must refuse. Read next: include/sparsemoe/testing/check_router.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/testing/check_router.hpp"

namespace {

using namespace sparsemoe;

template <class Router>
void holds(const Router& router, const RouterCheckOptions& options = {}) {
  const RouterReport report = check_router(router, options);
  INFO(report.text());
  CHECK(report.passed());
  CHECK(report.properties.size() > 30);
}

TEST_CASE("top-1 by probability (Switch)") { holds(Switch{}); }
TEST_CASE("top-k renormalised") {
  holds(TopK<1>{});
  holds(TopK<2>{}, {.experts = 7, .width = 5, .hidden = 3, .sentences = 3, .length = 9, .seed = 4});
  holds(TopK<3>{});
}
TEST_CASE("GShard: a rejected second choice takes a slot, or not; weights before or after the drop") {
  holds(GShard<>{});
  holds(GShard<Gate::normalised, true>{});
  holds(GShard<Gate::normalised_after_drop, true>{});
}

/// Which property a faulty router breaks.
template <class Router>
bool breaks(const std::string& property, const Router& router = {}) {
  const RouterReport report = check_router(router);
  INFO(report.text());
  CHECK_FALSE(report.passed());
  for (const auto& p : report.properties)
    if (!p.held && p.name.find(property) != std::string::npos) return true;
  return false;
}
struct LooksAtItsPlaceInTheBatch : Switch {  // moves with every padding column before it
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    return {{static_cast<std::int32_t>(info.unit % p.size())}};
  }
};
struct TiesToTheLast : Switch {
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    std::int32_t e = 0;
    for (index_t i = 1; i < p.size(); ++i)
      if (p[i] >= p[e]) e = static_cast<std::int32_t>(i);
    return {{e}};
  }
};
struct SameTwice : TopK<2> {
  template <class T>
  Choice<2> choose(Row<const T> p, const TokenInfo&) const {
    Choice<2> c = best<2>(p);
    c.expert[1] = c.expert[0];
    return c;
  }
};
struct DropsInEvaluation : Switch {
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    Choice<1> c = best<1>(p);
    if (c.expert[0] == 0) c.expert[0] = Choice<1>::rejected(0);
    return c;
  }
};
int calls = 0;
struct Remembers : Switch {
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    return {{static_cast<std::int32_t>(++calls % p.size())}};
  }
};
TEST_CASE("a router that breaks a rule is told which") {
  CHECK(breaks<LooksAtItsPlaceInTheBatch>("alone and in a padded batch"));
  CHECK(breaks<LooksAtItsPlaceInTheBatch>("sentences in another order"));
  CHECK(breaks<TiesToTheLast>("the lower expert wins"));
  CHECK(breaks<SameTwice>("distinct experts"));
  CHECK(breaks<DropsInEvaluation>("evaluation is dropless"));
  CHECK(breaks<Remembers>("a second run gives the same bits"));
}

}  // namespace

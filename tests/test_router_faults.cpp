// SPDX-License-Identifier: Apache-2.0
// test_router_faults.cpp -- routers that break one rule each: check_router must refuse them for that rule.
// Read next: include/sparsemoe/testing/check_router.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;

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
#if SPARSEMOE_HAS_RAPIDCHECK
TEST_CASE("random batches find them too") {
  CHECK(router_properties::random_batches_hold(Switch{}, {}));
  CHECK_FALSE(router_properties::random_batches_hold(LooksAtItsPlaceInTheBatch{}, {}));
  CHECK_FALSE(router_properties::random_batches_hold(SameTwice{}, {}));
  CHECK_FALSE(router_properties::random_batches_hold(Remembers{}, {}));
}
#endif

}  // namespace

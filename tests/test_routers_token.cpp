// SPDX-License-Identifier: Apache-2.0
// test_routers_token.cpp -- what every router must satisfy, for the routers that score tokens; and routers that break
// one rule each, which check_router must refuse. Read next: include/sparsemoe/testing/check_router.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/router_properties.hpp"

namespace {

using namespace sparsemoe;
using router_properties::holds;

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

}  // namespace

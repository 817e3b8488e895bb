// SPDX-License-Identifier: Apache-2.0
// tests/assign_body.hpp -- what the tests of assigning routers share. Read next: tests/test_routers_assigned.cpp.
#pragma once

#include <doctest/doctest.h>

#include "tests/router_properties.hpp"

namespace assign_body {

using namespace sparsemoe;
using Picks = std::vector<std::int32_t>;

using router_properties::holds;

/// A group on the host, assigned by a router; -1 and rejected choices as they are.
template <class Router>
std::vector<std::int32_t> assign(const Router& router, const std::vector<double>& scores, index_t experts,
                                 bool training = true, std::int32_t capacity = 0,
                                 const std::vector<double>& thresholds = {}) {
  const auto n = static_cast<index_t>(scores.size()) / experts;
  const index_t k = Router::top_k == any_number ? experts : index_t(Router::top_k);
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(n * k), -1), order(scores.size());
  std::vector<double> values(static_cast<std::size_t>(2 * (n + experts)));
  const std::vector<std::uint8_t> valid(static_cast<std::size_t>(n), 1);
  Assignment<double> group{{scores.data(), n, experts},
                           {},
                           thresholds.data(),
                           valid.data(),
                           {chosen.data(), n, k},
                           capacity,
                           0,
                           training,
                           Random{},
                           {order.data(), experts, n},
                           values.data()};
  router.assign(SerialTeam{}, group);
  return chosen;
}

}  // namespace assign_body

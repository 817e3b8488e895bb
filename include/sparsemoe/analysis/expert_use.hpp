// SPDX-License-Identifier: Apache-2.0
// analysis/expert_use.hpp -- who uses which expert: counts by (layer, group, expert), where a group is a language or a
// translation direction; entropy, experts nobody uses, and how alike two groups are (Kudugunta et al. 2021, figures
// 5-11). Read next: analysis/linkage.hpp for a tree of likeness, report/routing_report.hpp for the page.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One sparse layer: counts (groups, experts) of choices, before any is dropped.
struct ExpertUse {
  std::string stack, router;
  index_t layer = 0, experts = 0;
  std::vector<std::string> groups;
  std::vector<std::int64_t> counts;

  std::int64_t count(std::size_t group, index_t expert) const {
    return counts[group * static_cast<std::size_t>(experts) + static_cast<std::size_t>(expert)];
  }
  std::int64_t total(std::size_t group) const {
    std::int64_t n = 0;
    for (index_t e = 0; e < experts; ++e) n += count(group, e);
    return n;
  }
  /// Shares (E) of a group's choices, summing to 1; all 0 where the group has none.
  std::vector<double> shares(std::size_t group) const {
    const double n = static_cast<double>(total(group));
    std::vector<double> p;
    for (index_t e = 0; e < experts; ++e) p.push_back(n > 0 ? static_cast<double>(count(group, e)) / n : 0);
    return p;
  }
  /// Experts that no group chose.
  std::vector<index_t> dead() const {
    std::vector<index_t> none;
    for (index_t e = 0; e < experts; ++e) {
      std::int64_t n = 0;
      for (std::size_t g = 0; g < groups.size(); ++g) n += count(g, e);
      if (n == 0) none.push_back(e);
    }
    return none;
  }
  /// Throws Error if the counts are not (groups, experts).
  void check() const {
    require(experts >= 1 && counts.size() == groups.size() * static_cast<std::size_t>(experts),
            "expert use: ", counts.size(), " counts for ", groups.size(), " groups of ", experts, " experts");
  }
};

/// -sum p log2 p, in bits: 0 if one expert has everything, log2 E if all have the same.
inline double entropy_bits(const std::vector<double>& p) {
  double h = 0;
  for (const double v : p) h -= v > 0 ? v * std::log2(v) : 0;
  return h;
}

/// Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for ones without a common expert.
/// Throws Error if the lengths differ.
inline double jensen_shannon_bits(const std::vector<double>& p, const std::vector<double>& q) {
  require(p.size() == q.size(), "jensen_shannon_bits: distributions over ", p.size(), " and ", q.size(), " experts");
  double d = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double m = (p[i] + q[i]) / 2;
    d += (p[i] > 0 ? p[i] * std::log2(p[i] / m) : 0) / 2 + (q[i] > 0 ? q[i] * std::log2(q[i] / m) : 0) / 2;
  }
  return d > 0 ? d : 0;
}

/// Distances (groups, groups) between groups: the square root of the Jensen-Shannon divergence (a metric), its
/// divergence averaged over the layers given. All layers must have the same groups; throws Error otherwise.
inline std::vector<double> use_distances(const std::vector<ExpertUse>& layers) {
  require(!layers.empty(), "use_distances: no layers");
  const std::size_t n = layers.front().groups.size();
  std::vector<double> d(n * n, 0);
  for (const auto& layer : layers) {
    layer.check();
    require(layer.groups == layers.front().groups, "use_distances: layer ", layer.layer,
            " has other groups than layer ", layers.front().layer);
    std::vector<std::vector<double>> p;
    for (std::size_t g = 0; g < n; ++g) p.push_back(layer.shares(g));
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        d[i * n + j] += jensen_shannon_bits(p[i], p[j]) / static_cast<double>(layers.size());
  }
  for (double& v : d) v = std::sqrt(v);
  return d;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

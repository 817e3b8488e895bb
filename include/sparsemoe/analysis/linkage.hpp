// SPDX-License-Identifier: Apache-2.0
// analysis/linkage.hpp -- average-linkage clustering (UPGMA) of a few items from their distances: a tree for a report.
// Read next: report/svg_tree.hpp, which draws it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One merge. Items are 0 .. n-1; merge k makes cluster n + k of `left` and `right` at distance `height`.
struct Merge {
  std::size_t left = 0, right = 0;
  double height = 0;
};

/// n - 1 merges of n items, by distances (n, n), symmetric. Ties go to the lower numbers, so the tree is a function of
/// the distances. Time n^3: for a report's few dozen items. Throws Error if the matrix is not n x n.
inline std::vector<Merge> average_linkage(std::vector<double> distance, std::size_t n) {
  require(distance.size() == n * n, "average_linkage: ", distance.size(), " distances for ", n, " items");
  std::vector<std::size_t> name(n), size(n, 1);
  std::vector<bool> live(n, true);
  for (std::size_t i = 0; i < n; ++i) name[i] = i;
  std::vector<Merge> merges;
  for (std::size_t k = 0; k + 1 < n; ++k) {
    std::size_t a = n, b = n;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j < n && live[i]; ++j)
        if (live[j] && (a == n || distance[i * n + j] < distance[a * n + b])) a = i, b = j;
    merges.push_back({std::min(name[a], name[b]), std::max(name[a], name[b]), distance[a * n + b]});
    const double na = static_cast<double>(size[a]), nb = static_cast<double>(size[b]);
    for (std::size_t j = 0; j < n; ++j)
      if (live[j] && j != a && j != b)
        distance[a * n + j] = distance[j * n + a] = (na * distance[a * n + j] + nb * distance[b * n + j]) / (na + nb);
    live[b] = false;
    size[a] += size[b];
    name[a] = n + k;
  }
  return merges;
}

/// The items from one side of the tree to the other: the order in which no branches cross.
inline std::vector<std::size_t> leaf_order(const std::vector<Merge>& merges, std::size_t n) {
  std::vector<std::vector<std::size_t>> members(n + merges.size());
  for (std::size_t i = 0; i < n; ++i) members[i] = {i};
  for (std::size_t k = 0; k < merges.size(); ++k) {
    auto& m = members[n + k] = members[merges[k].left];
    const auto& right = members[merges[k].right];
    m.insert(m.end(), right.begin(), right.end());
  }
  return members.empty() ? std::vector<std::size_t>{} : members.back();
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// names.hpp -- names in sentences: all of them, "a, b or c", and the one that was meant, "did you mean a?".
// Read next: error.hpp, for the sentence they stand in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// "a", "a or b", "a, b or c"; `last` is the word before the last name.
inline std::string listed(const std::vector<std::string>& names, const std::string& last) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 < names.size() ? ", " : " " + last + " ";
    text += names[i];
  }
  return text;
}

/// The known name nearest to `name` by edit distance, or "" if none is near. '-' and '_' are the same.
inline std::string closest_name(std::string name, const std::vector<std::string>& known) {
  std::replace(name.begin(), name.end(), '-', '_');
  if (name.size() > 200) return "";
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    std::string other = candidate;
    std::replace(other.begin(), other.end(), '-', '_');
    std::vector<std::size_t> row(other.size() + 1);
    for (std::size_t j = 0; j <= other.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= name.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i);
      for (std::size_t j = 1; j <= other.size(); ++j) {
        const std::size_t change = diagonal + (name[i - 1] == other[j - 1] ? 0 : 1);
        diagonal = std::exchange(row[j], std::min({change, row[j] + 1, row[j - 1] + 1}));
      }
    }
    if (row.back() < best_distance) best = candidate, best_distance = row.back();
  }
  return best;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// routers/hash.hpp -- hash layers (Roller et al. 2021): a fixed table from vocabulary id to expert, no gate, weight 1.
// Tables are made once, stored in the checkpoint, and never made again from a generator: random (uniform for each id),
// or balanced (ids by falling corpus frequency, each to the bucket that is lightest so far).
// Read next: routers/hash_variants.hpp for other keys, nn/multi_hash.hpp for hashes of parts; nn/moe.hpp.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "sparsemoe/concepts.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct Hash {
  static constexpr int top_k = 1;
  static constexpr Level level = Level::none;
  static constexpr Gate gate = Gate::constant;
  const std::int32_t* table = nullptr;  // (vocabulary) in the backend's memory; null: id mod E
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    return {{table != nullptr ? table[info.id] : static_cast<std::int32_t>(info.id % p.size())}};
  }
};
static_assert(check_router<Hash>());

/// Routers whose table has an expert for each id of the vocabulary, made when training begins and saved with the model.
template <class Router>
inline constexpr bool reads_vocabulary_table = std::is_same_v<Router, Hash>;

/// A uniform expert for each of `vocabulary` ids.
inline std::vector<std::int32_t> random_hash_table(index_t vocabulary, index_t experts, std::uint64_t seed) {
  std::vector<std::int32_t> table(static_cast<std::size_t>(vocabulary));
  for (index_t i = 0; i < vocabulary; ++i) {
    const std::uint64_t bits = Random{seed}.draw4(Purpose::init, static_cast<std::uint64_t>(i)).v[0];
    table[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(bits * static_cast<std::uint64_t>(experts) >> 32);
  }
  return table;
}

/// frequency[id] counts the corpus. Ids by (frequency falling, id rising), each to the lightest bucket, ties to the
/// lowest bucket.
inline std::vector<std::int32_t> balanced_hash_table(const std::vector<std::int64_t>& frequency, index_t experts) {
  std::vector<std::int32_t> order(frequency.size()), table(frequency.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return frequency[static_cast<std::size_t>(a)] > frequency[static_cast<std::size_t>(b)];
  });
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t id : order) {
    const auto lightest = std::min_element(load.begin(), load.end());
    table[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(lightest - load.begin());
    *lightest += frequency[static_cast<std::size_t>(id)];
  }
  return table;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

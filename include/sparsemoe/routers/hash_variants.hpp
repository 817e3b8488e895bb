// SPDX-License-Identifier: Apache-2.0
// routers/hash_variants.hpp -- hash layers by other keys than the token's own id (Roller et al. 2021, section 3.1 and
// table 5): the pair of the previous id and this one, the previous id, the position; and tables made from embeddings,
// clustered and dispersed, for Hash. Read next: routers/hash.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/routers/hash.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A well-mixed 32-bit function of `key`, the same everywhere (Philox under a fixed seed): a hash needs no table then.
SPARSEMOE_HD inline std::uint32_t mixed(std::uint64_t key) { return Random{42}.draw4(Purpose::hash, key).v[0]; }
/// Bits to [0, experts), without the bias of a remainder.
SPARSEMOE_HD inline std::int32_t bucket_of(std::uint32_t bits, index_t experts) {
  return static_cast<std::int32_t>(static_cast<std::uint64_t>(bits) * static_cast<std::uint64_t>(experts) >> 32);
}

struct HashTraits {
  static constexpr int top_k = 1;
  static constexpr Level level = Level::none;
  static constexpr Gate gate = Gate::constant;
};
/// By the pair (previous id, id); the first token of a sentence has -1 before it.
struct BigramHash : HashTraits {
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    const auto key = static_cast<std::uint64_t>(info.previous + 1) << 32 | static_cast<std::uint32_t>(info.id);
    return {{bucket_of(mixed(key), p.size())}};
  }
};
/// By the previous id alone.
struct PreviousTokenHash : HashTraits {
  const std::int32_t* table = nullptr;  // (1 + vocabulary), entry 0 for no previous token; null: mixed
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    const std::int32_t key = info.previous + 1;
    return {{table != nullptr ? table[key] : bucket_of(mixed(static_cast<std::uint64_t>(key)), p.size())}};
  }
};
/// By the place in the sentence: position mod E.
struct PositionHash : HashTraits {
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    return {{static_cast<std::int32_t>(info.position % p.size())}};
  }
};
static_assert(check_router<BigramHash>() && check_router<PreviousTokenHash>() && check_router<PositionHash>());

/// The cluster of each row of embeddings (vocabulary, width): Lloyd's k-means, at most `passes`, started at `clusters`
/// rows far apart (each next one the farthest from those before), ties to the lower index. Deterministic.
inline std::vector<std::int32_t> k_means(const std::vector<float>& embeddings, index_t width, index_t clusters,
                                         int passes = 50) {
  const auto n = static_cast<index_t>(embeddings.size()) / width;
  require(width >= 1 && clusters >= 1 && clusters <= n && n * width == static_cast<index_t>(embeddings.size()),
          "k_means: ", embeddings.size(), " values of width ", width, " do not make ", clusters, " clusters");
  const auto row = [&](index_t i) { return embeddings.begin() + i * width; };
  const auto distance = [&](auto a, auto b) {
    double d = 0;
    for (index_t j = 0; j < width; ++j) d += (double(a[j]) - double(b[j])) * (double(a[j]) - double(b[j]));
    return d;
  };
  std::vector<double> centre(row(0), row(0) + width), nearest(static_cast<std::size_t>(n), HUGE_VAL);
  for (index_t c = 1; c < clusters; ++c) {
    for (index_t i = 0; i < n; ++i)
      nearest[static_cast<std::size_t>(i)] =
          std::min(nearest[static_cast<std::size_t>(i)], distance(row(i), centre.end() - width));
    const auto far = std::max_element(nearest.begin(), nearest.end()) - nearest.begin();
    centre.insert(centre.end(), row(far), row(far) + width);
  }
  std::vector<std::int32_t> of(static_cast<std::size_t>(n), -1);
  for (int pass = 0; pass < passes; ++pass) {
    bool moved = false;
    std::vector<double> sum(centre.size(), 0);
    std::vector<index_t> members(static_cast<std::size_t>(clusters), 0);
    for (index_t i = 0; i < n; ++i) {
      std::int32_t best = 0;
      double least = HUGE_VAL;
      for (index_t c = 0; c < clusters; ++c)
        if (const double d = distance(row(i), centre.begin() + c * width); d < least)
          least = d, best = static_cast<std::int32_t>(c);
      moved = moved || of[static_cast<std::size_t>(i)] != best;
      of[static_cast<std::size_t>(i)] = best;
      ++members[static_cast<std::size_t>(best)];
      for (index_t j = 0; j < width; ++j) sum[static_cast<std::size_t>(best * width + j)] += double(row(i)[j]);
    }
    if (!moved) break;
    for (std::size_t i = 0; i < sum.size(); ++i)
      if (const auto m = members[i / static_cast<std::size_t>(width)]; m > 0) centre[i] = sum[i] / double(m);
  }
  return of;
}
/// Similar tokens to the same expert: a cluster of embeddings is a bucket.
inline std::vector<std::int32_t> clustered_hash_table(const std::vector<float>& embeddings, index_t width,
                                                      index_t experts) {
  return k_means(embeddings, width, experts);
}
/// Similar tokens to different experts: clusters of about E ids, each dealt out over the buckets, one after another.
inline std::vector<std::int32_t> dispersed_hash_table(const std::vector<float>& embeddings, index_t width,
                                                      index_t experts) {
  const auto n = static_cast<index_t>(embeddings.size()) / width;
  const auto cluster = k_means(embeddings, width, (n + experts - 1) / experts);
  std::vector<std::int32_t> order(cluster.size()), table(cluster.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return cluster[static_cast<std::size_t>(a)] < cluster[static_cast<std::size_t>(b)];
  });
  for (std::size_t i = 0; i < order.size(); ++i)
    table[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(i % static_cast<std::size_t>(experts));
  return table;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

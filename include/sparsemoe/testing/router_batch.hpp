// SPDX-License-Identifier: Apache-2.0
// testing/router_batch.hpp -- a batch that can be padded, permuted, widened and cut, and what a pass over one gave;
// both on the host. Read next: testing/router_bench.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "sparsemoe/nn/moe_config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

/// A batch on the host. dy is the cotangent of the layer's output.
struct RouterBatch {
  index_t sentences = 0, length = 0, width = 0;
  std::vector<std::int32_t> ids, task;  // (T), (sentences)
  std::vector<std::uint8_t> valid;      // (T)
  std::vector<double> x, dy, pool;      // (T, D), (T, D), (sentences, D)
  index_t count() const { return sentences * length; }

  /// Rows of `values` (T, width) in another order.
  static std::vector<double> rows(const std::vector<double>& values, const std::vector<index_t>& order, index_t width) {
    std::vector<double> out;
    for (const index_t t : order) out.insert(out.end(), values.begin() + t * width, values.begin() + (t + 1) * width);
    return out;
  }
  /// Token t of the result is token order[t] of this. `reversed`: whole sentences, last first.
  RouterBatch permuted(const std::vector<index_t>& order, bool reversed) const {
    RouterBatch b = *this;
    b.x = rows(x, order, width);
    b.dy = rows(dy, order, width);
    for (std::size_t t = 0; t < order.size(); ++t) {
      b.ids[t] = ids[static_cast<std::size_t>(order[t])];
      b.valid[t] = valid[static_cast<std::size_t>(order[t])];
    }
    if (reversed) {
      std::reverse(b.task.begin(), b.task.end());
      std::vector<index_t> backwards;
      for (index_t s = sentences; s-- > 0;) backwards.push_back(s);
      b.pool = rows(pool, backwards, width);
    }
    return b;
  }
  /// Sentence s alone, without padding.
  RouterBatch sentence(index_t s) const {
    RouterBatch b;
    b.sentences = 1, b.width = width;
    for (index_t i = 0; i < length && valid[static_cast<std::size_t>(s * length + i)] != 0; ++i) ++b.length;
    const index_t first = s * length, last = first + b.length;
    b.ids.assign(ids.begin() + first, ids.begin() + last);
    b.valid.assign(static_cast<std::size_t>(b.length), 1);
    b.task = {task[static_cast<std::size_t>(s)]};
    b.x.assign(x.begin() + first * width, x.begin() + last * width);
    b.dy.assign(dy.begin() + first * width, dy.begin() + last * width);
    b.pool.assign(pool.begin() + s * width, pool.begin() + (s + 1) * width);
    return b;
  }
  /// The same with more columns, all padding.
  RouterBatch widened(index_t columns) const {
    RouterBatch b = *this;
    b.length = columns;
    b.ids.assign(static_cast<std::size_t>(sentences * columns), 0);
    b.valid.assign(b.ids.size(), 0);
    b.x.assign(b.ids.size() * static_cast<std::size_t>(width), 0.5);
    b.dy.assign(b.x.size(), 0.25);
    for (index_t t = 0; t < count(); ++t) {
      const index_t to = t / length * columns + t % length;
      b.ids[static_cast<std::size_t>(to)] = ids[static_cast<std::size_t>(t)];
      b.valid[static_cast<std::size_t>(to)] = valid[static_cast<std::size_t>(t)];
      std::copy_n(x.begin() + t * width, width, b.x.begin() + to * width);
      std::copy_n(dy.begin() + t * width, width, b.dy.begin() + to * width);
    }
    return b;
  }
  /// The first `columns` columns of `values` (T, width).
  std::vector<double> narrowed(const std::vector<double>& values, index_t columns) const {
    std::vector<index_t> order;
    for (index_t s = 0; s < sentences; ++s)
      for (index_t i = 0; i < columns; ++i) order.push_back(s * length + i);
    return rows(values, order, width);
  }
};

/// What a forward and backward pass gave, on the host.
struct RouterRun {
  std::vector<double> y, dx, dpool, dw, scores, combine;
  std::vector<std::int32_t> chosen, slot, source, expert, offsets;
  RoutingStatistics statistics;
  double loss = 0;
  std::int32_t capacity = 0;
  index_t tokens = 0, columns = 0;  // columns of scores
  std::int32_t slot_of(index_t t, index_t k) const { return slot[static_cast<std::size_t>(k * tokens + t)]; }
  bool same_bits(const RouterRun& o) const {
    return y == o.y && dx == o.dx && dpool == o.dpool && dw == o.dw && scores == o.scores && combine == o.combine &&
           chosen == o.chosen && slot == o.slot && loss == o.loss;
  }
};

inline std::string first_difference(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  if (a.size() != b.size()) return join(a.size(), " values, expected ", b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool same = tolerance == 0 ? a[i] == b[i] : std::abs(a[i] - b[i]) <= tolerance * (1 + std::abs(b[i]));
    if (!same) return join("value ", i, " is ", a[i], ", expected ", b[i]);
  }
  return "";
}
inline bool finite(const std::vector<double>& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); });
}
inline bool zero(const std::vector<double>& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return x == 0; });
}

}  // namespace detail
}  // namespace sparsemoe::inline SPARSEMOE_ABI

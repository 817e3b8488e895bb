// SPDX-License-Identifier: Apache-2.0
// nn/relative_position.hpp -- T5's relative position bias: a learned number for each (bucket of key - query, head).
// Buckets are exact near zero and logarithmic beyond (Raffel et al. 2020). One table serves all layers of a stack.
// Read next: nn/attention.hpp, which adds the bias to its scores.
#pragma once

#include "sparsemoe/nn/linear.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Bucket of `offset` = key position - query position. Bidirectional: half of the buckets for each sign. The logarithm
/// is taken in float, as the reference does: bucket edges depend on it. Needs buckets >= 2, or 4 if bidirectional, and
/// max_distance above the exact ones; beyond max_distance all offsets share the last bucket.
SPARSEMOE_HD inline index_t relative_bucket(index_t offset, bool bidirectional, index_t buckets, index_t max_distance) {
  index_t base = 0, n = -offset;
  if (bidirectional) {
    buckets /= 2;
    if (n < 0) base = buckets, n = -n;
  } else if (n < 0) {
    n = 0;
  }
  const index_t exact = buckets / 2;
  if (n < exact) return base + n;
  const float ratio = std::log(static_cast<float>(n) / static_cast<float>(exact)) /
                      std::log(static_cast<float>(max_distance) / static_cast<float>(exact));
  const float steps = ratio * static_cast<float>(buckets - exact);
  if (!(steps < static_cast<float>(buckets - 1 - exact))) return base + buckets - 1;  // NaN and infinity too
  return base + exact + static_cast<index_t>(steps);
}

/// bias(h Lq + i, j) = table(bucket(j - i - offset), h); with offsets of their own, sentence after sentence.
template <class S, class C>
struct RelativeBias {
  const S* table;  // (buckets, H)
  index_t heads, queries, query_offset, buckets, max_distance;
  bool bidirectional;
  const std::int32_t* query_offsets;  // (B) or null
  Matrix<C> bias;                     // (H Lq, Lk) or (B H Lq, Lk)
  SPARSEMOE_HD void operator()(index_t n) const {
    const index_t j = n % bias.cols, i = n / bias.cols % queries, h = n / (bias.cols * queries) % heads;
    const index_t offset =
        query_offsets != nullptr ? index_t(query_offsets[n / (bias.cols * queries * heads)]) : query_offset;
    bias.data[n] = C(table[relative_bucket(j - i - offset, bidirectional, buckets, max_distance) * heads + h]);
  }
};
/// dtable(bucket, h) += sum over (i, j) of dbias, one head an index: the order of the sum is fixed.
template <class C, class A>
struct RelativeBiasBackward {
  Matrix<const C> dbias;
  index_t heads, queries, buckets, max_distance;
  bool bidirectional;
  A* dtable;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t h) const {
    if (team.lane() != 0) return;
    for (index_t i = 0; i < queries; ++i)
      for (index_t j = 0; j < dbias.cols; ++j)
        dtable[relative_bucket(j - i, bidirectional, buckets, max_distance) * heads + h] +=
            A(dbias(h * queries + i, j));
  }
};

template <class P, class Backend>
struct RelativePosition {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t heads = 1, buckets = 32, max_distance = 128;
  bool bidirectional = true;

  template <class T>
  struct Params {
    Tensor<T> weight;  // (buckets, H)
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "weight", weight, Init::normal(0.02));
    }
  };
  template <class T>
  Params<T> params() const {
    return {matrix_of<T>(buckets, heads)};
  }
  /// bias (H Lq, Lk); query 0 stands at key position `query_offset`, or, where sentences differ, at query_offsets[b],
  /// and bias is (B H Lq, Lk).
  void forward(Context& ctx, const Params<const S>& w, index_t queries, index_t query_offset, Matrix<C> bias,
               const std::int32_t* query_offsets = nullptr) const {
    B::for_each_index(ctx, bias.size(),
                      RelativeBias<S, C>{w.weight.data, heads, queries, query_offset, buckets, max_distance,
                                         bidirectional, query_offsets, bias});
  }
  void backward(Context& ctx, const Params<A>& dw, index_t queries, Matrix<const C> dbias) const {
    B::for_each_row(
        ctx, heads,
        RelativeBiasBackward<C, A>{dbias, heads, queries, buckets, max_distance, bidirectional, dw.weight.data},
        dbias.size() / heads);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

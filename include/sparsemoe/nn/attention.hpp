// SPDX-License-Identifier: Apache-2.0
// nn/attention.hpp -- multi-head attention: self, causal and cross; padding mask, sliding window; T5 position bias or
// rotary positions; query heads that share keys (Ainslie et al. 2023, GQA); key/value cache.
// softmax(q k^T * scale + bias + mask) v, heads side by side in the columns, products batched over (sentence, head).
// A decoding step is the same call with one query and the cached keys. Read next: nn/relative_position.hpp,
// nn/rotation.hpp, nn/block.hpp.
#pragma once

#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/linear.hpp"
#include "sparsemoe/nn/rotation.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What a call of attention is about. Keys: `keys` rows a sentence, `key_valid` (sentences, keys) or null.
template <class C>
struct AttentionInfo {
  index_t sentences = 0, queries = 0, keys = 0;
  const std::uint8_t* key_valid = nullptr;
  bool causal = false;
  index_t query_offset = 0;       // position of query 0 among the keys
  Matrix<const C> bias;           // (H queries, keys), (sentences H queries, keys), or empty
  index_t window = 0;             // query i sees keys j > i - window; 0: all
  Matrix<const C> rotation = {};  // of queries and keys alike, rotation_table() of a self-attention's tokens, or empty
  const std::int32_t* query_offsets = nullptr;  // (sentences) in place of query_offset, where they differ
};

template <class P, class Backend>
struct Attention {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using Projection = Linear<P, B>;

  index_t width = 0, heads = 1, head_width = 0;  // heads * head_width need not be width
  bool bias = false;
  double scale = 1;  // of q k^T: head_width^-0.5, or 1 in T5
  double init_scale = 1;
  index_t kv_heads = 0;  // key and value heads, each of heads / kv_heads query heads; 0: as many as heads

  index_t key_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  Projection project_in() const { return {width, heads * head_width, bias, init_scale}; }
  Projection project_kv() const { return {width, key_heads() * head_width, bias, init_scale}; }
  Projection project_out() const { return {heads * head_width, width, bias, init_scale}; }

  template <class T>
  struct Params {
    typename Projection::template Params<T> q, k, v, o;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      q.visit(prefix + "q.", f);
      k.visit(prefix + "k.", f);
      v.visit(prefix + "v.", f);
      o.visit(prefix + "o.", f);
    }
  };
  struct Cache {
    Matrix<S> q, k, v;  // (B Lq, H d), (B Lk, kv d), (B Lk, kv d), rotated
    Matrix<S> probs;    // (B H Lq, Lk)
    Matrix<S> mixed;    // (B Lq, H d)
  };
  template <class T>
  Params<T> params() const {
    return {project_in().template params<T>(), project_kv().template params<T>(), project_kv().template params<T>(),
            project_out().template params<T>()};
  }

  /// x (B Lq, D), memory (B Lk, D) -> y (B Lq, D). Self-attention passes x twice.
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<const S> memory,
               const AttentionInfo<C>& info, Matrix<S> y, Cache& c) const {
    const index_t inner = heads * head_width, kv_inner = key_heads() * head_width;
    c.q = ctx.arena.template matrix<S>(x.rows, inner);
    c.k = ctx.arena.template matrix<S>(memory.rows, kv_inner);
    c.v = ctx.arena.template matrix<S>(memory.rows, kv_inner);
    c.probs = ctx.arena.template matrix<S>(info.sentences * heads * info.queries, info.keys);
    c.mixed = ctx.arena.template matrix<S>(x.rows, inner);
    project_in().forward(ctx, w.q, x, c.q);
    project_kv().forward(ctx, w.k, memory, c.k);
    project_kv().forward(ctx, w.v, memory, c.v);
    rotate(ctx, info, c.q, 1);
    rotate(ctx, info, c.k, 1);
    attend(ctx, info, c.q, c.k, info.keys, c.v, c.probs, c.mixed);
    project_out().forward(ctx, w.o, c.mixed, y);
  }

  /// dx = gradient through the queries; dmemory = through keys and values. Self-attention gives the same matrix twice
  /// and gets the sum. dbias (H Lq, Lk) +=, if not empty. dattention (B H Lq, Lk): the gradient of a loss on the
  /// attention weights themselves (guided alignment), if there is one.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x, Matrix<const S> memory,
                const AttentionInfo<C>& info, Matrix<const S> dy, Matrix<S> dx, Matrix<S> dmemory, const Cache& c,
                Matrix<C> dbias = {}, Matrix<const S> dattention = {}) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t inner = heads * head_width, kv = key_heads(), lq = info.queries, lk = info.keys;
    const Matrix<S> dmixed = ctx.arena.template matrix<S>(x.rows, inner);
    const Matrix<S> dq = ctx.arena.template matrix<S>(x.rows, inner);
    Matrix<S> dk = ctx.arena.template matrix<S>(memory.rows, inner);  // of each query head
    Matrix<S> dv = ctx.arena.template matrix<S>(memory.rows, inner);
    const Matrix<S> dprobs = ctx.arena.template matrix<S>(c.probs.rows, lk);
    project_out().backward(ctx, w.o, dw.o, c.mixed, dy, dmixed);

    const auto at = [&](auto* p, index_t length) { return head_view(p, length, heads); };
    const auto square = [&](auto* p) { return score_view(p, lq, lk); };
    const index_t n = info.sentences;
    each_group(lq, [&](index_t g, index_t rows) {
      B::batched_gemm(ctx, Op::none, Op::transpose, 1, n, kv, rows, lk, head_width,
                      group_view(as_const(dmixed.data), lq, g), head_view(as_const(c.v.data), lk, kv),
                      group_scores(dprobs.data, lq, lk, g));
    });
    B::batched_gemm(ctx, Op::transpose, Op::none, 1, n, heads, lk, head_width, lq, square(as_const(c.probs.data)),
                    at(as_const(dmixed.data), lq), at(dv.data, lk));
    if (!dattention.empty()) B::for_each_index(ctx, dprobs.size(), AddTo<S, S, C>{dattention.data, dprobs.data});
    B::for_each_row(ctx, c.probs.rows, SoftmaxBackwardRow<P>{c.probs, dprobs}, lk * 4);
    if (!dbias.empty()) B::for_each_row(ctx, dbias.rows, BiasGradientRow<P>{dprobs, dbias, n}, n * lk);
    each_group(lq, [&](index_t g, index_t rows) {
      B::batched_gemm(ctx, Op::none, Op::none, scale, n, kv, rows, head_width, lk,
                      group_scores(as_const(dprobs.data), lq, lk, g), head_view(as_const(c.k.data), lk, kv),
                      group_view(dq.data, lq, g));
    });
    B::batched_gemm(ctx, Op::transpose, Op::none, scale, n, heads, lk, head_width, lq, square(as_const(dprobs.data)),
                    at(as_const(c.q.data), lq), at(dk.data, lk));
    dk = sum_groups(ctx, dk);
    dv = sum_groups(ctx, dv);
    rotate(ctx, info, dq, -1);
    rotate(ctx, info, dk, -1);

    project_in().backward(ctx, w.q, dw.q, x, dq, dx);
    const bool same = dx.data == dmemory.data;
    project_kv().backward(ctx, w.k, dw.k, memory, dk, dmemory, same);
    project_kv().backward(ctx, w.v, dw.v, memory, dv, dmemory, true);
  }

  /// Projects `memory` (B Lk, D) once for many decoding steps.
  void project_memory(Context& ctx, const Params<const S>& w, Matrix<const S> memory, Matrix<S> k, Matrix<S> v) const {
    project_kv().forward(ctx, w.k, memory, k);
    project_kv().forward(ctx, w.v, memory, v);
  }
  /// A decoding step: x (B Lq, D) against kept keys and values of `room` rows a sentence, of which info.keys are used.
  /// With `append` Lq is 1, and the step's own key and value are first written at row info.keys - 1, or where sentences
  /// differ at row query_offsets[b], and then the rows after it must hold finite numbers and the mask be causal.
  /// Without, Lq is how many rows of x share the keys of a sentence: the beams of a search.
  void step(Context& ctx, const Params<const S>& w, Matrix<const S> x, const AttentionInfo<C>& info, Matrix<S> keys,
            Matrix<S> values, index_t room, bool append, Matrix<S> y) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t inner = heads * head_width, kv_inner = key_heads() * head_width;
    const Matrix<S> q = ctx.arena.template matrix<S>(x.rows, inner);
    const Matrix<S> probs = ctx.arena.template matrix<S>(info.sentences * heads * info.queries, info.keys);
    const Matrix<S> mixed = ctx.arena.template matrix<S>(x.rows, inner);
    project_in().forward(ctx, w.q, x, q);
    rotate(ctx, info, q, 1);
    if (append) {
      // Row info.keys - 1 of every sentence: a matrix whose rows are `room` rows apart.
      const bool together = info.query_offsets == nullptr;
      const auto fresh = [&](Matrix<S> kept) {
        if (!together) return ctx.arena.template matrix<S>(x.rows, kv_inner);
        return Matrix<S>(kept.data + (info.keys - 1) * kv_inner, info.sentences, kv_inner, room * kv_inner);
      };
      const Matrix<S> k = fresh(keys), v = fresh(values);
      project_kv().forward(ctx, w.k, x, k);
      project_kv().forward(ctx, w.v, x, v);
      rotate(ctx, info, k, 1);
      if (!together) {
        B::for_each_row(ctx, x.rows, KeepAtPlace<S>{k, keys, info.query_offsets, room}, kv_inner);
        B::for_each_row(ctx, x.rows, KeepAtPlace<S>{v, values, info.query_offsets, room}, kv_inner);
      }
    }
    attend(ctx, info, q, keys, room, values, probs, mixed);
    project_out().forward(ctx, w.o, mixed, y);
  }

 private:
  template <class T>
  static const T* as_const(T* p) {
    return p;
  }
  /// Head by head: (length, d) of a matrix (B length, count d), and (Lq, Lk) of the scores.
  template <class T>
  BatchOf<T> head_view(T* p, index_t length, index_t count) const {
    return {p, count * head_width, length * count * head_width, head_width};
  }
  template <class T>
  BatchOf<T> score_view(T* p, index_t lq, index_t lk) const {
    return {p, lk, heads * lq * lk, lq * lk};
  }
  /// The same for every key head, of the g-th of the query heads that share it. Of one query these heads are rows that
  /// follow each other, and the view is of all of them.
  template <class T>
  BatchOf<T> group_view(T* p, index_t length, index_t g) const {
    const index_t inner = heads * head_width, shared = heads / key_heads() * head_width;
    return {p + g * head_width, length == 1 ? head_width : inner, length * inner, shared};
  }
  template <class T>
  BatchOf<T> group_scores(T* p, index_t lq, index_t lk, index_t g) const {
    return {p + g * lq * lk, lk, heads * lq * lk, heads / key_heads() * lq * lk};
  }
  /// f(g, rows) for each product that reads keys or values: one for each query head that shares them.
  template <class F>
  void each_group(index_t lq, const F& f) const {
    const index_t shared = heads / key_heads(), together = lq == 1 ? shared : 1;
    for (index_t g = 0; g < shared; g += together) f(g, lq * together);
  }
  /// Gradients of query heads (T, H d) added up for the key heads (T, kv d) they share.
  Matrix<S> sum_groups(Context& ctx, Matrix<S> of_queries) const {
    if (key_heads() == heads) return of_queries;
    const Matrix<S> sum = ctx.arena.template matrix<S>(of_queries.rows, key_heads() * head_width);
    B::for_each_row(ctx, sum.rows, SumGroups<S, C>{of_queries, sum, head_width}, of_queries.cols);
    return sum;
  }
  void rotate(Context& ctx, const AttentionInfo<C>& info, Matrix<S> x, double sign) const {
    if (!info.rotation.empty()) B::for_each_row(ctx, x.rows, RotateRow<P>{x, info.rotation, C(sign)}, x.cols * 4);
  }
  void attend(Context& ctx, const AttentionInfo<C>& info, Matrix<S> q, Matrix<S> k, index_t room, Matrix<S> v,
              Matrix<S> probs, Matrix<S> mixed) const {
    const index_t n = info.sentences, kv = key_heads(), lq = info.queries, lk = info.keys;
    each_group(lq, [&](index_t g, index_t rows) {
      B::batched_gemm(ctx, Op::none, Op::transpose, scale, n, kv, rows, lk, head_width,
                      group_view(as_const(q.data), lq, g), head_view(as_const(k.data), room, kv),
                      group_scores(probs.data, lq, lk, g));
    });
    B::for_each_row(ctx, probs.rows,
                    AttentionSoftmaxRow<P>{probs, probs, info.key_valid, info.bias, heads, lq, info.query_offset,
                                           info.causal, info.window, info.query_offsets},
                    lk * 16);
    each_group(lq, [&](index_t g, index_t rows) {
      B::batched_gemm(ctx, Op::none, Op::none, 1, n, kv, rows, head_width, lk,
                      group_scores(as_const(probs.data), lq, lk, g), head_view(as_const(v.data), room, kv),
                      group_view(mixed.data, lq, g));
    });
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

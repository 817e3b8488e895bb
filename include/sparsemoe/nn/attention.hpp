// nn/attention.hpp -- multi-head attention: self, causal and cross; padding mask; T5 position bias; key/value cache.
// softmax(q k^T * scale + bias + mask) v, heads side by side in the columns, products batched over (sentence, head).
// A decoding step is the same call with one query and the cached keys. Read next: nn/block.hpp.
#pragma once

#include "sparsemoe/kernels/elementwise.hpp"
#include "sparsemoe/nn/linear.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What a call of attention is about. Keys: `keys` rows a sentence, `key_valid` (sentences, keys) or null.
template <class C>
struct AttentionInfo {
  index_t sentences = 0, queries = 0, keys = 0;
  const std::uint8_t* key_valid = nullptr;
  bool causal = false;
  index_t query_offset = 0;  // position of query 0 among the keys
  Matrix<const C> bias;      // (H queries, keys), or empty
  index_t window = 0;
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

  Projection project_in() const { return {width, heads * head_width, bias, init_scale}; }
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
    Matrix<S> q, k, v;  // (B Lq, H d), (B Lk, H d), (B Lk, H d)
    Matrix<S> probs;    // (B H Lq, Lk)
    Matrix<S> mixed;    // (B Lq, H d)
  };
  template <class T>
  Params<T> params() const {
    return {project_in().template params<T>(), project_in().template params<T>(), project_in().template params<T>(),
            project_out().template params<T>()};
  }

  /// x (B Lq, D), memory (B Lk, D) -> y (B Lq, D). Self-attention passes x twice.
  void forward(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<const S> memory,
               const AttentionInfo<C>& info, Matrix<S> y, Cache& c) const {
    const index_t inner = heads * head_width;
    c.q = ctx.arena.template matrix<S>(x.rows, inner);
    c.k = ctx.arena.template matrix<S>(memory.rows, inner);
    c.v = ctx.arena.template matrix<S>(memory.rows, inner);
    c.probs = ctx.arena.template matrix<S>(info.sentences * heads * info.queries, info.keys);
    c.mixed = ctx.arena.template matrix<S>(x.rows, inner);
    project_in().forward(ctx, w.q, x, c.q);
    project_in().forward(ctx, w.k, memory, c.k);
    project_in().forward(ctx, w.v, memory, c.v);
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
    const index_t inner = heads * head_width, lq = info.queries, lk = info.keys;
    const Matrix<S> dmixed = ctx.arena.template matrix<S>(x.rows, inner);
    const Matrix<S> dq = ctx.arena.template matrix<S>(x.rows, inner);
    const Matrix<S> dk = ctx.arena.template matrix<S>(memory.rows, inner);
    const Matrix<S> dv = ctx.arena.template matrix<S>(memory.rows, inner);
    const Matrix<S> dprobs = ctx.arena.template matrix<S>(c.probs.rows, lk);
    project_out().backward(ctx, w.o, dw.o, c.mixed, dy, dmixed);

    const auto at = [&](auto* p, index_t length) { return head_view(p, length); };
    const auto square = [&](auto* p) { return score_view(p, lq, lk); };
    const index_t n = info.sentences;
    B::batched_gemm(ctx, Op::none, Op::transpose, 1, n, heads, lq, lk, head_width, at(as_const(dmixed.data), lq),
                    at(as_const(c.v.data), lk), square(dprobs.data));
    B::batched_gemm(ctx, Op::transpose, Op::none, 1, n, heads, lk, head_width, lq, square(as_const(c.probs.data)),
                    at(as_const(dmixed.data), lq), at(dv.data, lk));
    if (!dattention.empty()) B::for_each_index(ctx, dprobs.size(), AddTo<S, S, C>{dattention.data, dprobs.data});
    B::for_each_row(ctx, c.probs.rows, SoftmaxBackwardRow<P>{c.probs, dprobs}, lk * 4);
    if (!dbias.empty()) B::for_each_row(ctx, dbias.rows, BiasGradientRow<P>{dprobs, dbias, n}, n * lk);
    B::batched_gemm(ctx, Op::none, Op::none, scale, n, heads, lq, head_width, lk, square(as_const(dprobs.data)),
                    at(as_const(c.k.data), lk), at(dq.data, lq));
    B::batched_gemm(ctx, Op::transpose, Op::none, scale, n, heads, lk, head_width, lq, square(as_const(dprobs.data)),
                    at(as_const(c.q.data), lq), at(dk.data, lk));

    project_in().backward(ctx, w.q, dw.q, x, dq, dx);
    const bool same = dx.data == dmemory.data;
    project_in().backward(ctx, w.k, dw.k, memory, dk, dmemory, same);
    project_in().backward(ctx, w.v, dw.v, memory, dv, dmemory, true);
  }

  /// Projects `memory` (B Lk, D) once for many decoding steps.
  void project_memory(Context& ctx, const Params<const S>& w, Matrix<const S> memory, Matrix<S> k, Matrix<S> v) const {
    project_in().forward(ctx, w.k, memory, k);
    project_in().forward(ctx, w.v, memory, v);
  }
  /// A decoding step: x (B Lq, D) against kept keys and values of `room` rows a sentence, of which info.keys are used.
  /// With `append` Lq is 1, and the step's own key and value are first written at row info.keys - 1. Without, Lq is how
  /// many rows of x share the keys of a sentence: the beams of a search.
  void step(Context& ctx, const Params<const S>& w, Matrix<const S> x, const AttentionInfo<C>& info, Matrix<S> keys,
            Matrix<S> values, index_t room, bool append, Matrix<S> y) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t inner = heads * head_width;
    const Matrix<S> q = ctx.arena.template matrix<S>(x.rows, inner);
    const Matrix<S> probs = ctx.arena.template matrix<S>(info.sentences * heads * info.queries, info.keys);
    const Matrix<S> mixed = ctx.arena.template matrix<S>(x.rows, inner);
    project_in().forward(ctx, w.q, x, q);
    if (append) {
      // Row info.keys - 1 of every sentence: a matrix whose rows are `room` rows apart.
      const index_t at = (info.keys - 1) * inner;
      project_in().forward(ctx, w.k, x, Matrix<S>(keys.data + at, info.sentences, inner, room * inner));
      project_in().forward(ctx, w.v, x, Matrix<S>(values.data + at, info.sentences, inner, room * inner));
    }
    attend(ctx, info, q, keys, room, values, probs, mixed);
    project_out().forward(ctx, w.o, mixed, y);
  }

 private:
  template <class T>
  static const T* as_const(T* p) {
    return p;
  }
  template <class T>
  BatchOf<T> head_view(T* p, index_t length) const {
    const index_t inner = heads * head_width;
    return {p, inner, length * inner, head_width};
  }
  template <class T>
  BatchOf<T> score_view(T* p, index_t lq, index_t lk) const {
    return {p, lk, heads * lq * lk, lq * lk};
  }
  void attend(Context& ctx, const AttentionInfo<C>& info, Matrix<S> q, Matrix<S> k, index_t room, Matrix<S> v,
              Matrix<S> probs, Matrix<S> mixed) const {
    const index_t n = info.sentences, lq = info.queries, lk = info.keys;
    B::batched_gemm(ctx, Op::none, Op::transpose, scale, n, heads, lq, lk, head_width, head_view(as_const(q.data), lq),
                    head_view(as_const(k.data), room), score_view(probs.data, lq, lk));
    B::for_each_row(ctx, probs.rows,
                    AttentionSoftmaxRow<P>{probs, probs, info.key_valid, info.bias, heads, lq, info.query_offset,
                                           info.causal, info.window},
                    lk * 16);
    B::batched_gemm(ctx, Op::none, Op::none, 1, n, heads, lq, head_width, lk, score_view(as_const(probs.data), lq, lk),
                    head_view(as_const(v.data), room), head_view(mixed.data, lq));
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

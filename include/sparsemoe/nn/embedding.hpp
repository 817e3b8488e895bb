// SPDX-License-Identifier: Apache-2.0
// nn/embedding.hpp -- token embeddings with sinusoidal positions, and the output head, which may share their table.
// The gradient of the table is summed column block by column block in token order: no atomics, fixed bits.
// Read next: nn/loss.hpp, model/encoder_decoder.hpp.
#pragma once

#include "sparsemoe/kernels/tokens.hpp"
#include "sparsemoe/nn/linear.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// y(i) = [sin | cos] halves with wavelengths 2 pi .. 10000 * 2 pi (Vaswani et al. 2017) of token i's place + first.
template <class C>
struct SinusoidRow {
  Tokens tokens;
  index_t first;
  Matrix<C> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const index_t half = y.cols / 2;
    const C step = half > 1 ? std::log(C(10000)) / C(half - 1) : C(0);
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) {
      const C angle = C(first + tokens.place(i)) * std::exp(-step * C(j < half ? j : j - half));
      y(i, j) = j < half ? std::sin(angle) : (j < 2 * half ? std::cos(angle) : C(0));
    }
  }
};
/// row(t) of the positions: of a sentence's n-th token that is not padding, row n, or row t where every token has its
/// own; -1 for padding.
struct CountedPlaces {
  Tokens tokens;
  std::int32_t padding;
  std::int32_t* row;  // (T)
  SPARSEMOE_HD void operator()(index_t s) const {
    std::int32_t n = 0;
    for (index_t t = s * tokens.length; t < (s + 1) * tokens.length; ++t) {
      if (tokens.ids[t] == padding)
        row[t] = -1;
      else
        row[t] = tokens.positions != nullptr ? static_cast<std::int32_t>(t) : n++;
    }
  }
};
/// y(t) = scale * table(id) + position(row(t)), or without the position where that row is -1
template <class P>
struct EmbedRow {
  using S = typename P::storage;
  using C = typename P::compute;
  const S* table;
  Tokens tokens;
  C scale;
  Matrix<const C> position;  // (length, D), (T, D) or empty
  const std::int32_t* row;   // (T); null: t mod position.rows
  Matrix<S> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    const S* in = table + index_t(tokens.ids[t]) * y.cols;
    S* out = y.row(t).data;
    if (position.empty() || (row != nullptr && row[t] < 0)) {
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = S(C(in[j]) * scale);
    } else {
      const C* add = position.row(row != nullptr ? row[t] : t % position.rows).data;
      for (index_t j = team.lane(); j < y.cols; j += Team::lanes) out[j] = S(C(in[j]) * scale + add[j]);
    }
  }
};
/// dtable(id) += scale * dx(t), for 16 columns and all tokens in order but those that are not valid or padding.
template <class P>
struct EmbedBackwardColumns {
  using S = typename P::storage;
  using A = typename P::accumulate;
  static constexpr index_t width = 16;
  const std::int32_t* ids;
  const std::uint8_t* valid;
  std::int32_t padding;
  bool every;
  Matrix<const S> dy;
  A scale;
  A* dtable;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t block) const {
    const index_t first = block * width, last = math::min(first + width, dy.cols);
    for (index_t t = 0; t < dy.rows; ++t) {
      if ((valid[t] == 0 && !every) || ids[t] == padding) continue;
      A* out = dtable + index_t(ids[t]) * dy.cols;
      for (index_t j = first + team.lane(); j < last; j += Team::lanes) out[j] += scale * A(dy(t, j));
    }
  }
};

template <class P, class Backend>
struct Embedding {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;

  index_t vocabulary = 0, width = 0;
  double scale = 1;         // of the looked-up row: sqrt(D) in the original transformer, 1 in T5
  bool positions = true;    // add sinusoids
  double output_scale = 1;  // of the hidden state before the head: D^-0.5 in T5
  // An id whose look-up has no gradient and no position, and that positions do not count, as in fairseq; -1: none. It
  // is read as any other, and its row of the tied head learns.
  std::int32_t padding = -1;
  index_t first_position = 0;  // of a sentence's first token: padding + 1 in fairseq
  bool every_token = false;    // what is not valid learns too: where it is routed, it is in the losses

  template <class T>
  struct Params {
    Tensor<T> weight;  // (V, D)
    Init init;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "weight", weight, Leaf{init, Role::embedding});
    }
  };
  template <class T>
  Params<T> params() const {
    return {matrix_of<T>(vocabulary, width), Init::normal(1 / std::sqrt(static_cast<double>(width)))};
  }
  /// ids (T) -> y (T, D). Ids must be in [0, V): the caller checks.
  void forward(Context& ctx, const Params<const S>& w, const Tokens& tokens, Matrix<S> y) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    Matrix<C> position;
    std::int32_t* row = nullptr;
    if (positions) {
      position = ctx.arena.template matrix<C>(tokens.positions != nullptr ? tokens.count() : tokens.length, width);
      B::for_each_row(ctx, position.rows, SinusoidRow<C>{tokens, first_position, position}, width * 32);
      if (padding >= 0) {
        row = ctx.arena.template take<std::int32_t>(tokens.count());
        B::for_each_index(ctx, tokens.sentences, CountedPlaces{tokens, padding, row});
      }
    }
    B::for_each_row(ctx, tokens.count(), EmbedRow<P>{w.weight.data, tokens, C(scale), position, row, y}, width);
  }
  void backward(Context& ctx, const Params<A>& dw, const Tokens& tokens, Matrix<const S> dy) const {
    constexpr index_t block = EmbedBackwardColumns<P>::width;
    B::for_each_row(
        ctx, (width + block - 1) / block,
        EmbedBackwardColumns<P>{tokens.ids, tokens.valid, padding, every_token, dy, A(scale), dw.weight.data},
        tokens.count() * block);
  }
  /// logits (T, V) = output_scale * x table^T
  void logits(Context& ctx, const Params<const S>& w, Matrix<const S> x, Matrix<S> y) const {
    B::gemm(ctx, Op::none, Op::transpose, output_scale, x, w.weight.matrix(), false, y);
  }
  void logits_backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, Matrix<const S> x,
                       Matrix<const S> dlogits, Matrix<S> dx) const {
    B::gemm(ctx, Op::transpose, Op::none, output_scale, dlogits, x, true, dw.weight.matrix());
    B::gemm(ctx, Op::none, Op::none, output_scale, dlogits, w.weight.matrix(), false, dx);
  }
};

/// The table of a model's embedding and that of its output head, which are one if tied. Weights or gradients.
template <class P, class Backend, class T>
struct EmbeddingTables {
  using Table = typename Embedding<P, Backend>::template Params<T>;
  Table input, own_head;
  bool tied = true;
  EmbeddingTables() = default;
  EmbeddingTables(const Embedding<P, Backend>& layer, bool is_tied)
      : input(layer.template params<T>()), own_head(input), tied(is_tied) {}
  const Table& head() const { return tied ? input : own_head; }
  /// A model visits its own parts between the two: the leaves of a tied model keep their places.
  template <class F>
  void visit_input(F&& f) {
    input.visit("shared.", f);
  }
  template <class F>
  void visit_head(F&& f) {
    if (!tied) own_head.visit("lm_head.", f);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

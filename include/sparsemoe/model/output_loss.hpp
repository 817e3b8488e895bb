// SPDX-License-Identifier: Apache-2.0
// model/output_loss.hpp -- a loss over the logits of all tokens without the logits of all tokens: they are made, scored
// and turned into gradients a block of rows at a time. Read next: model/encoder_decoder.hpp, model/language_model.hpp.
#pragma once

#include <algorithm>

#include "sparsemoe/nn/embedding.hpp"
#include "sparsemoe/nn/loss.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Calls head(logits, first) in order with the logits (n, V) of tokens [first, first + n), at most 1024 at once; it
/// returns their sums and, if gradient_scale is not 0, makes of them the gradient of gradient_scale times its sum. Then
/// also dtable += and dhidden (T, D) = the gradients. hidden (T, D): the stack's output.
template <class P, class B, class Table, class Gradient, class Head>
LossSums output_loss(typename B::Context& ctx, const Embedding<P, B>& embedding, const Table& table,
                     const Gradient& dtable, Matrix<typename P::storage> hidden, Matrix<typename P::storage> dhidden,
                     double gradient_scale, Head&& head) {
  using S = typename P::storage;
  constexpr index_t most = 1024;
  typename Arena<typename B::Memory>::Scope scope(ctx.arena);
  const index_t tokens = hidden.rows, rows = std::min(tokens, most);
  const Matrix<S> room = ctx.arena.template matrix<S>(rows, embedding.vocabulary);
  LossSums sums;
  for (index_t r = 0; r < tokens; r += rows) {
    const index_t n = std::min(rows, tokens - r);
    const Matrix<S> logits = room.slice_rows(0, n);
    embedding.logits(ctx, table, hidden.slice_rows(r, n).as_const(), logits);
    sums += head(logits, r);
    if (gradient_scale != 0)
      embedding.logits_backward(ctx, table, dtable, hidden.slice_rows(r, n).as_const(), logits.as_const(),
                                dhidden.slice_rows(r, n));
  }
  return sums;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

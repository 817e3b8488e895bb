// SPDX-License-Identifier: Apache-2.0
// nn/loss.hpp -- label-smoothed cross entropy over logits, forward and backward in one pass.
// The logits become their gradient in place; sums over tokens are taken in double, in token order.
// Read next: nn/distill.hpp for the loss with a teacher, model/encoder_decoder.hpp.
#pragma once

#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/rows.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Sums over the tokens of a batch; divide by tokens for means. `hard` is the part of the loss against the labels and
/// `soft` that against a teacher's distribution, each before it is weighted (nn/distill.hpp); without a teacher `hard`
/// is the loss.
struct LossSums {
  double loss = 0, nll = 0, tokens = 0, correct = 0, hard = 0, soft = 0;
  LossSums& operator+=(const LossSums& o) {
    loss += o.loss, nll += o.nll, tokens += o.tokens, correct += o.correct, hard += o.hard, soft += o.soft;
    return *this;
  }
};

namespace detail {

/// Calls add(values, target, correct) with the three arrays (count, rows, rows) in host memory: sums over tokens are
/// taken there, in order.
template <class B, class C, class Add>
void sum_on_host(typename B::Context& ctx, const C* values, index_t count, const std::int32_t* target,
                 const std::int32_t* correct, index_t rows, Add&& add) {
  if constexpr (B::host_memory) {
    add(values, target, correct);
  } else {
    std::vector<C> v(static_cast<std::size_t>(count));
    std::vector<std::int32_t> t(static_cast<std::size_t>(rows)), hit(static_cast<std::size_t>(rows));
    B::copy_to_host(ctx, v.data(), values, count);
    B::copy_to_host(ctx, t.data(), target, rows);
    B::copy_to_host(ctx, hit.data(), correct, rows);
    add(v.data(), t.data(), hit.data());
  }
}

}  // namespace detail

template <class P, class Backend>
struct CrossEntropy {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using Context = typename B::Context;
  CrossEntropyConfig config;

  /// logits (T, V); target (T) in the backend's memory, below 0 for rows that do not count. With gradient_scale != 0
  /// the logits become gradient_scale * d(sum of losses) / d(logits).
  LossSums operator()(Context& ctx, Matrix<S> logits, const std::int32_t* target, double gradient_scale) const {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const index_t n = logits.rows;
    C* loss = ctx.arena.template take<C>(2 * n);
    std::int32_t* correct = ctx.arena.template take<std::int32_t>(n);
    B::for_each_row(ctx, n,
                    CrossEntropyRow<P>{logits, target, C(config.on_target), C(config.everywhere), C(config.z),
                                       C(gradient_scale), loss, loss + n, correct, gradient_scale != 0},
                    logits.cols * 16);
    LossSums sums;
    detail::sum_on_host<B>(ctx, loss, 2 * n, target, correct, n,
                           [&](const C* l, const std::int32_t* t, const std::int32_t* hit) {
                             for (index_t i = 0; i < n; ++i) {
                               if (t[i] < 0) continue;
                               const double value = static_cast<double>(l[i]);
                               sums += {value, static_cast<double>(l[n + i]), 1, static_cast<double>(hit[i]), value, 0};
                             }
                           });
    return sums;
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// nn/loss.hpp -- label-smoothed cross entropy over logits, forward and backward in one pass.
// The logits become their gradient in place; sums over tokens are taken in double, in token order.
// Read next: model/encoder_decoder.hpp.
#pragma once

#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/rows.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Sums over the tokens of a batch; divide by tokens for means.
struct LossSums {
  double loss = 0, nll = 0, tokens = 0, correct = 0;
  LossSums& operator+=(const LossSums& o) {
    loss += o.loss, nll += o.nll, tokens += o.tokens, correct += o.correct;
    return *this;
  }
};

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
    const auto add = [&](const C* l, const std::int32_t* t, const std::int32_t* hit) {
      for (index_t i = 0; i < n; ++i) {
        if (t[i] < 0) continue;
        sums += {static_cast<double>(l[i]), static_cast<double>(l[n + i]), 1, static_cast<double>(hit[i])};
      }
    };
    if constexpr (B::host_memory) {
      add(loss, target, correct);
    } else {
      std::vector<C> l(static_cast<std::size_t>(2 * n));
      std::vector<std::int32_t> t(static_cast<std::size_t>(n)), hit(static_cast<std::size_t>(n));
      B::copy_to_host(ctx, l.data(), loss, 2 * n);
      B::copy_to_host(ctx, t.data(), target, n);
      B::copy_to_host(ctx, hit.data(), correct, n);
      add(l.data(), t.data(), hit.data());
    }
    return sums;
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

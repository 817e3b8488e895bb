// SPDX-License-Identifier: Apache-2.0
// nn/stack_loss.hpp -- losses over all sparse layers of a stack at once: what a router's StackLoss is given, and where
// it is called. Read next: hf/losses.hpp for two of them, model/stack.hpp.
#pragma once

#include <string>
#include <vector>

#include "sparsemoe/nn/dense.hpp"
#include "sparsemoe/nn/moe.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

/// Stands where a Dense stack has no sparse layer; no routing code is compiled.
struct NoSparse {
  template <class T>
  struct Params {
    template <class F>
    void visit(const std::string&, F&&) {}
  };
  template <class T>
  Params<T> params() const {
    return {};
  }
  struct Cache {};
};
template <class Spec, bool dense = is_dense<Spec>>
struct SparseOf {
  using type = MoE<Spec>;
};
template <class Spec>
struct SparseOf<Spec, true> {
  using type = NoSparse;
};

}  // namespace detail

/// A sparse layer of a stack, and what its last forward pass left.
template <class Spec>
struct SparseLayer {
  using Sparse = typename detail::SparseOf<Spec>::type;
  const Sparse* moe;
  typename Sparse::Cache* cache;
};
/// The losses over several sparse layers at once of a router that has a StackLoss:
///   template <class Spec>
///   static void apply(ctx, const Tokens&, const std::vector<SparseLayer<Spec>>&, comm);
/// puts them in the place of each layer's balance loss: coefficient, balance (the loss in the first layer's, 0 in the
/// others') and dcombine of the caches. Called after a stack's forward pass; `layers` is the stack's, so that a steady
/// pass allocates nothing. check_router differentiates it.
template <class Spec, class Feeds, class Caches>
void joint_losses(typename Spec::Backend::Context& ctx, const Feeds& feed, Caches& cache,
                  std::vector<SparseLayer<Spec>>& layers, const Tokens& tokens, typename Spec::Collective& comm) {
  if constexpr (!is_dense<Spec>) {
    if constexpr (requires { typename Spec::Router::StackLoss; }) {
      layers.clear();
      for (std::size_t l = 0; l < feed.size(); ++l)
        if (feed[l].sparse()) layers.push_back({&feed[l].moe(), &cache[l].feed.moe});
      if (!layers.empty()) Spec::Router::StackLoss::template apply<Spec>(ctx, tokens, layers, comm);
    }
  }
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

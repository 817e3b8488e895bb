// SPDX-License-Identifier: Apache-2.0
// A StackLoss is called as apply<Spec>(ctx, tokens, layers, comm).
// expect: router: StackLoss needs apply<Spec>(ctx, tokens, layers, comm)
#include "sparsemoe/nn/stack_loss.hpp"
#include "sparsemoe/routers/top_k.hpp"

using namespace sparsemoe;

struct Loss {
  template <class Spec>
#ifdef SHOULD_FAIL
  static void apply(int) {
  }
#else
  static void apply(typename Spec::Backend::Context&, const Tokens&, const std::vector<SparseLayer<Spec> >&,
                    typename Spec::Collective&) {
  }
#endif
};
struct Mine : TopK<2> {
  using StackLoss = Loss;
};
static_assert(check_router<Mine>());

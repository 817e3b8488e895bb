// SPDX-License-Identifier: Apache-2.0
// tools/conformance/logit_gradient.hpp -- the part of a loss that is a product of logits and a cotangent.
#pragma once

#include "sparse.hpp"
#include "sparsemoe/nn/linear.hpp"

namespace conformance {

/// L = ... + <cotangent, logits>: the gate's product on its own, as a Linear.
template <class P, class Layer>
void add_logit_gradient(Run<P>& run, Layer& layer, const std::string& gate, const std::vector<typename P::storage>& x,
                        std::vector<typename P::storage>& dx) {
  const Linear<P, Cpu> linear{layer.width, layer.experts, false, 1};
  Bound<P, Linear<P, Cpu>> bound(run, linear, {{"weight", 0, gate, true}});
  const auto c = run.cotangent("logits");
  std::vector<typename P::storage> logits(c.size());
  linear.forward(run.ctx, bound.w, constant(x, layer.width), writable(logits, layer.experts));
  linear.backward(run.ctx, bound.w, bound.dw, constant(x, layer.width), constant(c, layer.experts),
                  writable(dx, layer.width), true);
  run.compare("out/logits", logits);
  for (index_t i = 0; i < layer.width * layer.experts; ++i) layer.bound.dw.gate.data[i] += bound.dw.weight.data[i];
}

}  // namespace conformance

// tools/conformance/multi_hash.hpp -- MultiHash layers.
#pragma once

#include "routing.hpp"
#include "sparsemoe/nn/multi_hash.hpp"

namespace conformance {

template <class P>
void multi_hash_case(Run<P>& run) {
  using S = typename P::storage;
  using Layer = MultiHashFeedForward<P, Cpu, Relu>;
  const Case& c = run.c;
  const index_t width = c.size("D");
  const Layer layer(MultiHashConfig{c.size("E"), c.size("N"), width, c.size("H")});
  Bound<P, Layer> bound(run, layer, {{"a", -1, "A", false}, {"b", -1, "B", false}});
  const auto tables = c.integers("in/tables"), ids = c.integers("in/token_ids");
  const Mask mask(c.size("T"));
  const auto x = run.in("x"), dy = run.cotangent("y");
  std::vector<S> y(x.size()), dx(x.size());
  typename Layer::Cache cache;
  layer.forward(run.ctx, bound.w, {tables.data(), c.size("V")}, mask.tokens(ids.data()), constant(x, width),
                writable(y, width), cache);
  run.compare("out/y", y);
  layer.backward(run.ctx, bound.w, bound.dw, constant(x, width), constant(dy, width), writable(dx, width), cache);
  run.compare("grad/x", dx);
  bound.compare();
}

}  // namespace conformance

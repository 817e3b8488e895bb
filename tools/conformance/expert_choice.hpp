// tools/conformance/expert_choice.hpp -- expert choice: who takes which token, with what weight, and every gradient.
#pragma once

#include "routing.hpp"
#include "sparsemoe/routers/expert_choice.hpp"

namespace conformance {

template <class P>
void expert_choice_case(Run<P>& run) {
  using R = typename P::router;
  const Case& c = run.c;
  const index_t n = c.size("n"), experts = c.size("E"), k = c.size("k");
  MoeConfig config;
  config.experts = experts, config.width = c.size("D"), config.hidden = c.size("H");
  const ExpertChoice router{static_cast<double>(c.size("c"))};
  Sparse<P, ExpertChoice, Gelu> layer(
      run, config, router,
      {{"router.weight", -1, "wg", false}, {"experts.wi", -1, "w1", false}, {"experts.wo", -1, "w2", false}});
  const Mask mask(n);
  const auto x = run.in("x");
  run.compare("out/y", layer.forward(mask.tokens(), x));
  run.compare("out/affinity", layer.probabilities());
  // Slots are in token order; the reference lists an expert's tokens by falling affinity.
  const auto& cache = layer.cache;
  Values indices, gates, count(static_cast<std::size_t>(n), 0);
  std::vector<R> dcombine(static_cast<std::size_t>(n * experts), 0);
  const auto cotangent = run.cotangent("gates");
  for (index_t e = 0; e < experts; ++e) {
    std::vector<index_t> mine;
    for (index_t t = 0; t < n; ++t)
      if (cache.slot[e * n + t] >= 0) mine.push_back(t);
    require(static_cast<index_t>(mine.size()) == k, "expert ", e, " takes ", mine.size(), " tokens, expected ", k);
    const auto weight = [&](index_t t) { return cache.combine[t * experts + e]; };
    std::stable_sort(mine.begin(), mine.end(), [&](index_t a, index_t b) { return weight(a) > weight(b); });
    for (const index_t t : mine) {
      dcombine[static_cast<std::size_t>(t * experts + e)] = R(cotangent[indices.size()]);
      indices.push_back(static_cast<double>(t));
      gates.push_back(static_cast<double>(weight(t)));
      ++count[static_cast<std::size_t>(t)];
    }
  }
  run.compare("out/indices", indices);
  run.compare("out/gates", gates);
  run.compare("out/experts_per_token", count);
  run.compare("grad/x", layer.backward(mask.tokens(), x, run.cotangent("y"), dcombine));
  layer.bound.compare();
}

}  // namespace conformance

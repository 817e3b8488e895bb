// SPDX-License-Identifier: Apache-2.0
// tools/conformance/noisy.cpp -- noisy top-k gating of one and two levels, with recorded noise. k and the branches are
// the case's.
#include "kinds.hpp"
#include "sparse.hpp"
#include "sparsemoe/routers/hierarchical.hpp"

namespace conformance {

/// Noise from a table (T, columns) in place of the generator.
template <class Base>
struct Recorded : Base {
  const double* draws = nullptr;
  double noise(const Random&, std::uint64_t index) const { return draws[index]; }
};
/// Experts that are one matrix: wi, and a wo that is the identity.
struct Linear1 {
  static constexpr bool gated = false, from_output = false;
  template <class T>
  static T value(T x) {
    return x;
  }
  template <class T>
  static T derivative(T) {
    return T(1);
  }
};
/// Columns [0, narrow) of (n, wide), or back with zeros.
template <class T>
std::vector<T> recut(const std::vector<T>& v, index_t from, index_t to) {
  std::vector<T> out;
  for (std::size_t r = 0; r < v.size() / static_cast<std::size_t>(from); ++r)
    for (index_t j = 0; j < to; ++j)
      out.push_back(j < from ? v[r * static_cast<std::size_t>(from) + static_cast<std::size_t>(j)] : T(0));
  return out;
}
template <class P>
MoeConfig noisy_config(const Run<P>& run, index_t experts) {
  const Case& c = run.c;
  MoeConfig config;
  config.experts = experts, config.width = c.size("D");
  config.importance_coefficient = c.need<double>("w_importance") * c.number("cotangent/importance_loss");
  config.load_coefficient = c.need<double>("w_load") * c.number("cotangent/load_loss");
  return config;
}
/// Only one of the two losses, with its own coefficient and a cotangent of 1.
inline MoeConfig only(MoeConfig config, const Case& c, bool importance) {
  config.importance_coefficient = importance ? c.need<double>("w_importance") : 0;
  config.load_coefficient = importance ? 0 : c.need<double>("w_load");
  return config;
}

template <class P>
void noisy_case(Run<P>& run) {
  using S = typename P::storage;
  using R = typename P::router;
  using Router = Recorded<AnyNoisyTopK>;
  using Layer = Sparse<P, Router, Linear1>;
  const Case& c = run.c;
  const index_t n = c.size("T"), d = c.size("D"), experts = c.size("E"), out = c.shape("in/expert")[2];
  c.check_shape("in/x", {"T", "D"});
  c.check_shape("in/expert", {"E", "D", ""});
  require(out <= d, "experts of ", out, " outputs for ", d, " inputs: noisy top-k with wider outputs is not offered");
  MoeConfig config = noisy_config(run, experts);
  config.hidden = out;
  const Values draws = c.values("in/noise");
  Router router;
  router.k = c.need<int>("k");
  router.noise_epsilon = c.option("noise_epsilon", 0.0);
  router.draws = draws.data();
  const std::vector<Link> links = {{"router.weight", -1, "w_gate", false},
                                   {"router.noise", -1, "w_noise", false},
                                   {"experts.wi", -1, "expert", false}};
  const auto with_identity = [&](Layer& layer) {
    std::vector<S> wo(static_cast<std::size_t>(experts * out * d), S(0));
    for (index_t i = 0; i < experts * out; ++i) wo[static_cast<std::size_t>(i * d + i % out)] = S(1);
    layer.bound.set("experts.wo", wo);
  };
  Layer layer(run, config, router, links);
  with_identity(layer);
  const Mask mask(n);
  const auto x = run.in("x");
  run.compare("out/y", recut(layer.forward(mask.tokens(), x), d, out));
  const auto& cache = layer.cache;
  const auto matrix = [](Matrix<R> m) { return Values(m.data, m.data + m.size()); };
  run.compare("out/gates", layer.dense_combine(n));
  run.compare("out/clean_logits", matrix(cache.clean));
  run.compare("out/noisy_logits", matrix(cache.noisy));
  const LoadTerm<Router, R> term{{router, cache.clean, cache.raw, cache.noisy, {}},
                                 layer.layer.columns(),
                                 cache.threshold,
                                 cache.chosen,
                                 cache.weight};
  Values sigma, probability;
  for (index_t t = 0; t < n; ++t)
    for (index_t e = 0; e < experts; ++e) {
      sigma.push_back(static_cast<double>(term.logits.sigma(t, e)));
      probability.push_back(static_cast<double>(term.probability(t, e)));
    }
  run.compare("out/noise_std", sigma);
  run.compare("out/prob_in_top_k", probability);
  run.compare("out/importance", Values(cache.importance_sums, cache.importance_sums + experts));
  run.compare("out/load", Values(cache.importance_sums + experts, cache.importance_sums + 2 * experts));
  run.compare("out/hard_load", Values(layer.statistics.load.begin(), layer.statistics.load.end()));
  const double wi = c.need<double>("w_importance"), wl = c.need<double>("w_load");
  const double unbiased = static_cast<double>(experts) / static_cast<double>(experts - 1);
  run.compare("out/importance_loss", Values{wi * layer.statistics.importance});
  run.compare("out/load_loss", Values{wl * layer.statistics.expected_load});
  run.compare("out/importance_loss_unbiased_variance", Values{wi * layer.statistics.importance * unbiased});
  run.compare("out/load_loss_unbiased_variance", Values{wl * layer.statistics.expected_load * unbiased});
  run.compare("grad/x", layer.backward(mask.tokens(), x, recut(run.cotangent("y"), out, d), run.cotangent("gates")));
  layer.bound.compare();
  for (const bool importance : {true, false}) {
    Layer alone(run, only(config, c, importance), router, links);
    with_identity(alone);
    alone.forward(mask.tokens(), x);
    const std::string loss = importance ? "grad_of/importance_loss/" : "grad_of/load_loss/";
    run.compare(loss + "x", alone.backward(mask.tokens(), x, std::vector<S>(x.size(), S(0))));
    alone.bound.compare(loss, 2);
  }
}
template <class P>
void hierarchical_case(Run<P>& run) {
  using S = typename P::storage;
  using Router = Recorded<AnyHierarchical>;
  using Layer = Sparse<P, Router, Relu>;
  const Case& c = run.c;
  c.check_shape("in/x", {"T", "D"});
  c.check_shape("in/w_gate", {"a", "D", "b"});
  const index_t n = c.size("T"), d = c.size("D"), a = c.size("a"), b = c.size("b"), columns = a + a * b;
  MoeConfig config = noisy_config(run, a * b);
  config.hidden = 1;
  // The reference has one matrix of each branch (a, rows, b); ours is one of all columns.
  const auto pack = [&](const auto& primary, const auto& leaves, index_t rows) {
    auto all = primary;
    all.resize(static_cast<std::size_t>(rows * columns));
    for (index_t r = 0; r < rows; ++r)
      for (index_t j = 0; j < columns; ++j) {
        const index_t i = (j - a) / b;
        all[static_cast<std::size_t>(r * columns + j)] =
            j < a ? primary[static_cast<std::size_t>(r * a + j)]
                  : leaves[static_cast<std::size_t>((i * rows + r) * b + (j - a) % b)];
      }
    return all;
  };
  const auto compare = [&](const Layer& layer, const std::string& prefix) {
    for (const auto& [ours, theirs] : {std::pair{"router.weight", "w_gate"}, std::pair{"router.noise", "w_noise"}}) {
      const auto g = layer.bound.gradient(ours);
      Values primary, leaves;
      for (index_t r = 0; r < d; ++r)
        for (index_t i = 0; i < a; ++i)
          primary.push_back(static_cast<double>(g[static_cast<std::size_t>(r * columns + i)]));
      for (index_t i = 0; i < a; ++i)
        for (index_t r = 0; r < d; ++r)
          for (index_t j = 0; j < b; ++j)
            leaves.push_back(static_cast<double>(g[static_cast<std::size_t>(r * columns + a + i * b + j)]));
      run.compare(prefix + theirs + "_primary", primary);
      run.compare(prefix + theirs, leaves);
    }
  };
  const Values draws = pack(c.values("in/noise_primary"), c.values("in/noise"), n);
  Router router;
  router.first = c.need<int>("k1"), router.second = c.need<int>("k2"), router.branches = a;
  const index_t K = router.experts_per_token();
  router.noise_epsilon = c.option("noise_epsilon", 0.0);
  router.draws = draws.data();
  const auto bind = [&](Layer& layer) {
    layer.bound.set("router.weight", pack(run.in("w_gate_primary"), run.in("w_gate"), d));
    layer.bound.set("router.noise", pack(run.in("w_noise_primary"), run.in("w_noise"), d));
  };
  Layer layer(run, config, router, {});
  bind(layer);
  const Mask mask(n);
  const auto x = run.in("x");
  const std::vector<S> nothing(x.size(), S(0));
  layer.forward(mask.tokens(), x);
  const auto& cache = layer.cache;
  run.compare("out/combined_gates", layer.dense_combine(n));
  Values primary(static_cast<std::size_t>(n * a), 0);
  for (index_t i = 0; i < n * K; ++i)
    primary[static_cast<std::size_t>(i / K * a + cache.chosen[i] / b)] += static_cast<double>(cache.combine[i]);
  run.compare("out/primary_gates", primary);
  run.compare("out/importance", Values(cache.importance_sums, cache.importance_sums + a * b));
  run.compare("out/load", Values(cache.expected, cache.expected + a * b));
  const double wi = c.need<double>("w_importance"), wl = c.need<double>("w_load");
  run.compare("out/importance_loss", Values{wi * layer.statistics.importance});
  run.compare("out/load_loss", Values{wl * layer.statistics.expected_load});
  run.compare("grad/x", layer.backward(mask.tokens(), x, nothing, run.cotangent("combined_gates")));
  compare(layer, "grad/");
  for (const bool importance : {true, false}) {
    Layer alone(run, only(config, c, importance), router, {});
    bind(alone);
    alone.forward(mask.tokens(), x);
    const std::string loss = importance ? "grad_of/importance_loss/" : "grad_of/load_loss/";
    run.compare(loss + "x", alone.backward(mask.tokens(), x, nothing));
    compare(alone, loss);
  }
}

void add_noisy(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("routing/noisy_top_k", noisy_case),
      SPARSEMOE_KIND("routing/hierarchical_noisy_top_k", hierarchical_case),
  });
}

}  // namespace conformance

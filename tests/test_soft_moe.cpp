// SPDX-License-Identifier: Apache-2.0
// test_soft_moe.cpp -- Soft MoE against plain loops and difference quotients, with planted faults; padding, company,
// order and threads; and in an encoder. Read next: include/sparsemoe/nn/soft_moe.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/nn/soft_moe.hpp"
#include "sparsemoe/testing/check_layer.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace sparsemoe;

template <class ActType, class PrecisionType, int Slots>
struct Spec : SpecDefaults {
  using Router = SoftMixture<Slots>;
  using Precision = PrecisionType;
  using Backend = Cpu;
  using Collective = Solo;
  using Activation = ActType;
};
MoeConfig config_of(bool bias) {
  MoeConfig c;
  c.experts = 3, c.width = 5, c.hidden = 7, c.bias = bias;
  return c;
}

/// Sentences side by side; a sentence of n tokens has them first.
struct Sentences {
  index_t rows, length;
  std::vector<std::uint8_t> valid;
  Sentences(std::vector<index_t> lengths, index_t l) : rows(static_cast<index_t>(lengths.size())), length(l) {
    for (const index_t n : lengths)
      for (index_t i = 0; i < l; ++i) valid.push_back(i < n ? 1 : 0);
  }
  Tokens tokens() const { return {rows, length, nullptr, valid.data(), nullptr, 0, nullptr}; }
};

enum class Fault { none, no_norm_of_tokens, no_norm_of_slots, no_dispatch_gradient, no_combine_gradient };

template <class Act, int Slots>
LayerReport checked(bool bias, Fault fault = Fault::none) {
  using Layer = MoE<Spec<Act, Fp64, Slots>>;
  Cpu::Context ctx(1);
  const Layer layer(config_of(bias));
  const Sentences batch({4, 0, 2}, 4);
  typename Layer::Cache cache;
  Solo solo;
  const auto zeros = [&](Matrix<double> m) { std::fill_n(m.data, m.size(), 0.0); };
  const auto forward = [&](const auto& w, const auto& x, Matrix<double> y) {
    layer.forward(ctx, w, batch.tokens(), x[0], y, cache, solo);
  };
  const auto backward = [&](const auto& w, const auto& dw, const auto& x, Matrix<const double> dy, const auto& dx) {
    if (fault == Fault::no_norm_of_tokens) zeros(cache.tokens);
    if (fault == Fault::no_norm_of_slots) zeros(cache.slots);
    if (fault == Fault::no_dispatch_gradient) zeros(cache.dispatch);
    if (fault == Fault::no_combine_gradient) zeros(cache.combine);
    layer.backward(ctx, w, dw, batch.tokens(), x[0], dy, dx[0], cache);
  };
  return check_layer<Cpu>(ctx, layer, {{batch.rows * batch.length, 5}}, {batch.rows * batch.length, 5}, forward,
                          backward);
}

TEST_CASE("the gradient is that of the difference quotients; each planted fault is found") {
  for (const bool bias : {false, true}) {
    const LayerReport one = checked<Gelu, 1>(bias), two = checked<Gelu, 2>(bias);
    CHECK_MESSAGE(one.passed(), one.text());
    CHECK_MESSAGE(two.passed(), two.text());
  }
  const LayerReport gated = checked<Gated<Silu>, 2>(false);
  CHECK_MESSAGE(gated.passed(), gated.text());
  for (const Fault f :
       {Fault::no_norm_of_tokens, Fault::no_norm_of_slots, Fault::no_dispatch_gradient, Fault::no_combine_gradient}) {
    CAPTURE(static_cast<int>(f));
    CHECK_FALSE(checked<Gelu, 2>(true, f).passed());
  }
}

/// A layer with random weights.
template <class P, int Slots>
struct Trial {
  using S = typename P::storage;
  using Layer = MoE<Spec<Gelu, P, Slots>>;
  Layer layer{config_of(true)};
  std::vector<S> weights;
  typename Layer::template Params<const S> w = layer.template params<const S>();
  std::vector<ParamInfo> list;
  Trial() {
    index_t total = 0;
    list = list_params(w, &total);
    std::vector<double> values = detail::random_values(total, 4, 1, 0.7);
    weights.resize(static_cast<std::size_t>(total));
    for (const ParamInfo& p : list)
      store_leaf(p, reinterpret_cast<const typename P::master*>(cast(values).data()), weights.data());
    bind_params(w, static_cast<const S*>(weights.data()));
  }
  static std::vector<typename P::master> cast(const std::vector<double>& v) { return {v.begin(), v.end()}; }
  std::vector<S> run(const Sentences& batch, const std::vector<S>& x, int threads = 1) const {
    Cpu::Context ctx(threads);
    typename Layer::Cache cache;
    Solo solo;
    std::vector<S> y(x.size());
    layer.forward(ctx, w, batch.tokens(), {x.data(), batch.rows * batch.length, 5},
                  {y.data(), batch.rows * batch.length, 5}, cache, solo);
    return y;
  }
};
template <class S>
std::vector<S> random_tokens(index_t n, std::uint32_t seed) {
  std::vector<S> x;
  for (const double v : detail::random_values(n * 5, seed, 2)) x.push_back(S(v));
  return x;
}

TEST_CASE("the values are those of the equations") {
  const Trial<Fp64, 2> t;
  const index_t n = 4, m = 6, d = 5, h = 7;
  const Sentences batch({n}, n);
  const std::vector<double> x = random_tokens<double>(n, 8), y = t.run(batch, x);
  const auto leaf = [&](const std::string& name) {
    for (const ParamInfo& p : t.list)
      if (p.name == name) return t.weights.data() + p.offset;
    FAIL("no parameter ", name);
    return t.weights.data();
  };
  const double *phi = leaf("router.slots"), scale = *leaf("router.scale");
  const double *wi = leaf("experts.wi"), *bi = leaf("experts.bi"), *wo = leaf("experts.wo"), *bo = leaf("experts.bo");
  const auto norm = [&](const double* v) {
    double sum = 1e-6;
    for (index_t j = 0; j < d; ++j) sum += v[j] * v[j];
    return std::sqrt(sum);
  };
  std::vector<std::vector<double>> logits(n, std::vector<double>(m)), mixed(m, std::vector<double>(d, 0)), out = mixed;
  for (index_t i = 0; i < n; ++i)
    for (index_t s = 0; s < m; ++s) {
      double dot = 0;
      for (index_t j = 0; j < d; ++j) dot += x[i * d + j] * phi[s * d + j];
      logits[i][s] = scale * dot / norm(&x[i * d]) / norm(phi + s * d);
    }
  for (index_t s = 0; s < m; ++s) {
    double total = 0;
    for (index_t i = 0; i < n; ++i) total += std::exp(logits[i][s]);
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < d; ++j) mixed[s][j] += std::exp(logits[i][s]) / total * x[i * d + j];
    const index_t e = s / 2;
    for (index_t j = 0; j < d; ++j) out[s][j] = bo[e * d + j];
    for (index_t k = 0; k < h; ++k) {
      double a = bi[e * h + k];
      for (index_t j = 0; j < d; ++j) a += mixed[s][j] * wi[(e * d + j) * h + k];
      a = a * 0.5 * (1 + std::erf(a / std::sqrt(2.0)));
      for (index_t j = 0; j < d; ++j) out[s][j] += a * wo[(e * h + k) * d + j];
    }
  }
  for (index_t i = 0; i < n; ++i) {
    double total = 0;
    for (index_t s = 0; s < m; ++s) total += std::exp(logits[i][s]);
    for (index_t j = 0; j < d; ++j) {
      double expected = 0;
      for (index_t s = 0; s < m; ++s) expected += std::exp(logits[i][s]) / total * out[s][j];
      CHECK(std::abs(y[i * d + j] - expected) < 1e-12);
    }
  }
}

template <class P>
void check_company() {
  using S = typename P::storage;
  const Trial<P, 2> t;
  const std::vector<index_t> lengths = {4, 2, 0, 5};
  const index_t wide = 7;
  std::vector<S> all;
  std::vector<std::vector<S>> alone;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    const auto x = random_tokens<S>(wide, static_cast<std::uint32_t>(20 + s));  // padding has any values
    all.insert(all.end(), x.begin(), x.end());
    const index_t n = std::max<index_t>(lengths[s], 1);
    alone.push_back(t.run(Sentences({lengths[s]}, n), {x.begin(), x.begin() + n * 5}));
  }
  const Sentences batch(lengths, wide);
  const std::vector<S> y = t.run(batch, all);
  for (std::size_t s = 0; s < lengths.size(); ++s)
    for (index_t i = 0; i < wide * 5; ++i) {
      const S v = y[s * static_cast<std::size_t>(wide * 5) + static_cast<std::size_t>(i)];
      const S expected = i < lengths[s] * 5 ? alone[s][static_cast<std::size_t>(i)] : S(0.0f);
      CHECK(std::memcmp(&v, &expected, sizeof v) == 0);
    }
  for (const int threads : {2, 4}) {
    const std::vector<S> same = t.run(batch, all, threads);
    CHECK(std::memcmp(same.data(), y.data(), y.size() * sizeof(S)) == 0);
  }
}
TEST_CASE("a sentence alone, padded, in company and on any threads gives the same bits; padding gives 0") {
  check_company<Fp64>();
  check_company<Fp32>();
  check_company<Bf16>();
}
TEST_CASE("tokens in another order give their outputs in that order; no tokens at all are no trouble") {
  const Trial<Fp64, 2> t;
  const index_t n = 5;
  const std::vector<double> x = random_tokens<double>(n, 9), y = t.run(Sentences({n}, n), x);
  std::vector<double> turned;
  for (index_t i = n; i-- > 0;) turned.insert(turned.end(), x.begin() + i * 5, x.begin() + (i + 1) * 5);
  const std::vector<double> z = t.run(Sentences({n}, n), turned);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < 5; ++j)
      CHECK(std::abs(z[static_cast<std::size_t>((n - 1 - i) * 5 + j)] - y[static_cast<std::size_t>(i * 5 + j)]) <
            1e-13);
  CHECK(t.run(Sentences({}, 0), {}).empty());
}
TEST_CASE("what Soft MoE does not have is refused") {
  MoeConfig c = config_of(false);
  c.capacity_factor = 1;
  CHECK_THROWS_WITH_AS((MoE<Spec<Relu, Fp32, 1>>(c)), doctest::Contains("soft moe: every expert computes its slots"),
                       Error);
}

TEST_CASE("in an encoder: the gradient of the whole model, and the decoder beside it") {
  using Encoded = model_body::With<SoftMixture<2>, Fp64>;
  using Decoded = model_body::With<Dense, Fp64>;
  Cpu::Context ctx(1);
  EncoderDecoder<Encoded, Decoded> model(ctx, model_body::model_config(17, 8));
  model.weights.initialise(ctx, 3);
  const model_body::CopyBatch batch(3, 5, 17, 6);
  Solo solo;
  const auto loss = [&](double scale) { return model.loss(ctx, batch.view(), solo, scale, scale).loss; };
  loss(1);
  const std::vector<double> gradient(model.weights.gradient(), model.weights.gradient() + model.weights.total());
  double worst = 0, largest = 0;
  for (const ParamInfo& p : model.weights.list())
    for (index_t i = 0; i < p.shape.size(); i += std::max<index_t>(1, p.shape.size() / 7)) {
      double& w = model.weights.master()[p.offset + i];
      const double old = w, g = gradient[static_cast<std::size_t>(p.offset + i)];
      w = old + 1e-5;
      const double up = loss(0);
      w = old - 1e-5;
      const double down = loss(0);
      w = old;
      worst = std::max(worst, std::abs((up - down) / 2e-5 - g) / (1e-3 + std::abs(g)));
      if (p.name.find("router.slots") != p.name.npos) largest = std::max(largest, std::abs(g));
    }
  CHECK(worst < 1e-5);
  CHECK(largest > 1e-4);
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// test_layers.cpp -- every layer's backward against difference quotients, and a planted fault for each that must be
// seen. The sparse layer and attention have files of their own. Read next: include/sparsemoe/testing/check_layer.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/nn/block.hpp"
#include "sparsemoe/nn/embedding.hpp"
#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/nn/loss.hpp"
#include "sparsemoe/testing/check_layer.hpp"

namespace {

using namespace sparsemoe;
using TestBackend = Cpu;
using Context = TestBackend::Context;
using P = Fp64;
using ConstViews = std::vector<Matrix<const double>>;
using Views = std::vector<Matrix<double>>;

#define CHECK_PASSES(expression)           \
  do {                                     \
    const LayerReport report = expression; \
    INFO(report.text());                   \
    CHECK(report.passed());                \
  } while (false)
#define CHECK_SEES_FAULT(expression)       \
  do {                                     \
    const LayerReport report = expression; \
    INFO(report.text());                   \
    CHECK_FALSE(report.passed());          \
  } while (false)

/// A fault is put in after the true backward, through one of these.
struct Fault {
  enum class Kind {
    none,
    scale_dx,      // dx[0] is off by a thousandth
    add_dx,        // dx[0] is added to what was there
    skip_dx,       // one element of dx[0] is never written
    drop_dw,       // one element of a weight gradient is missing
    scale_dw,      // a weight gradient is off by a thousandth
    overwrite_dw,  // weight gradients are assigned
  } kind = Kind::none;
  std::string leaf;  // which weight
};

/// check_layer of a layer whose forward is (ctx, w, x, y, cache) and backward (ctx, w, dw, x, dy, dx, cache).
template <class Layer>
LayerReport check(const Layer& layer, index_t rows, index_t in, index_t out, const Fault& fault = {}) {
  Context ctx(1);
  typename Layer::Cache cache;
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    layer.forward(ctx, w, x[0], y, cache);
  };
  const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    using Kind = Fault::Kind;
    std::vector<double> dx_before(dx[0].data, dx[0].data + dx[0].size());
    std::vector<std::pair<double*, std::vector<double>>> dw_before;
    dw.visit("", [&](const std::string& name, auto& t, const Leaf& = {}) {
      if (name == fault.leaf) dw_before.emplace_back(t.data, std::vector<double>(t.data, t.data + t.size()));
    });
    layer.backward(ctx, w, dw, x[0], dy, dx[0], cache);
    if (fault.kind == Kind::scale_dx) dx[0](rows - 1, 0) *= 1.001;
    if (fault.kind == Kind::add_dx) dx[0](0, 0) += dx_before[0];
    if (fault.kind == Kind::skip_dx) dx[0].data[dx[0].size() - 1] = dx_before.back();
    for (auto& [g, before] : dw_before) {
      const std::size_t last = before.size() - 1;
      if (fault.kind == Kind::drop_dw) g[last] = before[last];
      if (fault.kind == Kind::scale_dw) g[last] = before[last] + (g[last] - before[last]) * 1.001;
      if (fault.kind == Kind::overwrite_dw)
        for (std::size_t i = 0; i <= last; ++i) g[i] -= before[i];
    }
  };
  return check_layer<TestBackend>(ctx, layer, {{rows, in}}, {rows, out}, forward, backward);
}
/// The layer passes, and every fault in it is seen.
template <class Layer>
void check_with_faults(const Layer& layer, index_t rows, index_t in, index_t out,
                       const std::vector<std::string>& leaves) {
  using Kind = Fault::Kind;
  CHECK_PASSES(check(layer, rows, in, out));
  for (const Kind kind : {Kind::scale_dx, Kind::add_dx, Kind::skip_dx})
    CHECK_SEES_FAULT(check(layer, rows, in, out, {kind, ""}));
  for (const auto& leaf : leaves)
    for (const Kind kind : {Kind::drop_dw, Kind::scale_dw, Kind::overwrite_dw}) {
      CAPTURE(leaf);
      CHECK_SEES_FAULT(check(layer, rows, in, out, {kind, leaf}));
    }
}

/// Linear without its cache argument's absence.
struct LinearLayer : Linear<P, TestBackend> {
  struct Cache {};
  using Base = Linear<P, TestBackend>;
  void forward(Context& ctx, const Params<const double>& w, Matrix<const double> x, Matrix<double> y, Cache&) const {
    Base::forward(ctx, w, x, y);
  }
  void backward(Context& ctx, const Params<const double>& w, const Params<double>& dw, Matrix<const double> x,
                Matrix<const double> dy, Matrix<double> dx, const Cache&) const {
    Base::backward(ctx, w, dw, x, dy, dx);
  }
};

TEST_CASE("a linear layer and its faults") {
  check_with_faults(LinearLayer{{7, 13, true, 1}}, 5, 7, 13, {"weight", "bias"});
  CHECK_PASSES(check(LinearLayer{{3, 2, false, 1}}, 70, 3, 2));
  CHECK_PASSES(check(LinearLayer{{1, 1, true, 1}}, 1, 1, 1));
}

TEST_CASE("norms and their faults") {
  check_with_faults(LayerNorm<P, TestBackend>{13, 1e-5}, 7, 13, 13, {"weight", "bias"});
  check_with_faults(RmsNorm<P, TestBackend>{13, 1e-6}, 7, 13, 13, {"weight"});
  CHECK_PASSES(check(LayerNorm<P, TestBackend>{3, 0.1}, 130, 3, 3));
}

template <class Act>
void check_feed_forward() {
  CAPTURE(Act::name);
  using Layer = FeedForward<P, TestBackend, Act>;
  std::vector<std::string> leaves = {"wi", "bi", "wo", "bo"};
  if (Act::gated) leaves.push_back("wg");
  check_with_faults(Layer::make(7, 13, true), 5, 7, 7, leaves);
  CHECK_PASSES(check(Layer::make(7, 13, false), 5, 7, 7));
}
TEST_CASE("feed-forward blocks of every activation and their faults") {
  check_feed_forward<Relu>();
  check_feed_forward<Gelu>();
  check_feed_forward<GeluTanh>();
  check_feed_forward<Silu>();
  check_feed_forward<Gated<Silu>>();
  check_feed_forward<Gated<GeluTanh>>();
}

TEST_CASE("a feed-forward block with dropout of the hidden activation") {
  using Layer = FeedForward<P, TestBackend, Gelu>;
  const Layer layer = Layer::make(6, 9, true, 0.3);
  Context ctx(1);
  ctx.training = true;
  Layer::Cache cache;
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    layer.forward(ctx, w, x[0], y, cache);
  };
  const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    layer.backward(ctx, w, dw, x[0], dy, dx[0], cache);
  };
  CHECK_PASSES(check_layer<TestBackend>(ctx, layer, {{5, 6}}, {5, 6}, forward, backward));
  const auto other_mask = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    ctx.random.step = 1;
    layer.backward(ctx, w, dw, x[0], dy, dx[0], cache);
    ctx.random.step = 0;
  };
  CHECK_SEES_FAULT(check_layer<TestBackend>(ctx, layer, {{5, 6}}, {5, 6}, forward, other_mask));
}

TEST_CASE("experts: uneven rows, an expert without any, and a gradient that reaches a neighbour is seen") {
  using Layer = Experts<P, TestBackend, Gelu>;
  const Layer layer{4, 5, 7, true, 0, 1};
  std::vector<std::int32_t> offsets = {0, 3, 3, 8, 9}, expert = {0, 0, 0, 2, 2, 2, 2, 2, 3};
  const ExpertRows rows{offsets.data(), expert.data(), nullptr};
  Context ctx(1);
  Layer::Cache cache;
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    layer.forward(ctx, w, x[0], rows, y, cache);
  };
  const auto backward_of = [&](double leak) {
    return [&, leak](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
      layer.backward(ctx, w, dw, x[0], rows, dy, dx[0], cache);
      dw.wi.matrix(1)(0, 0) += leak;  // expert 1 has no rows
    };
  };
  CHECK_PASSES(check_layer<TestBackend>(ctx, layer, {{9, 5}}, {9, 5}, forward, backward_of(0)));
  CHECK_SEES_FAULT(check_layer<TestBackend>(ctx, layer, {{9, 5}}, {9, 5}, forward, backward_of(1e-6)));
  // Bias gradients of the wrong expert.
  const auto swapped = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    layer.backward(ctx, w, dw, x[0], rows, dy, dx[0], cache);
    std::swap(dw.bi.matrix(0)(0, 0), dw.bi.matrix(2)(0, 0));
  };
  CHECK_SEES_FAULT(check_layer<TestBackend>(ctx, layer, {{9, 5}}, {9, 5}, forward, swapped));
}

struct EmbeddingCase {
  Embedding<P, TestBackend> layer{11, 6, 2.5, true, 0.5};
  std::vector<std::int32_t> ids = {1, 5, 5, 2, 9, 1, 0, 0};
  std::vector<std::uint8_t> valid = {1, 1, 1, 1, 1, 1, 0, 0};
  Tokens tokens() const { return {2, 4, ids.data(), valid.data(), nullptr, 0, nullptr}; }
};
TEST_CASE("embedding: repeated ids add up, padding gives its row no gradient") {
  EmbeddingCase c;
  Context ctx(1);
  const auto forward = [&](const auto& w, const ConstViews&, Matrix<double> y) {
    c.layer.forward(ctx, w, c.tokens(), y);
    for (index_t t = 6; t < 8; ++t)  // what comes of padding is in no loss
      for (index_t j = 0; j < 6; ++j) y(t, j) = 0;
  };
  const auto backward = [&](const auto&, auto& dw, const ConstViews&, Matrix<const double> dy, const Views&) {
    c.layer.backward(ctx, dw, c.tokens(), dy);
  };
  CHECK_PASSES(check_layer<TestBackend>(ctx, c.layer, {}, {8, 6}, forward, backward));
  // The second of two equal ids overwrites the first.
  const auto overwrites = [&](const auto&, auto& dw, const ConstViews&, Matrix<const double> dy, const Views&) {
    c.layer.backward(ctx, dw, c.tokens(), dy);
    for (index_t j = 0; j < 6; ++j) dw.weight.matrix()(5, j) -= 2.5 * dy(1, j);
  };
  CHECK_SEES_FAULT(check_layer<TestBackend>(ctx, c.layer, {}, {8, 6}, forward, overwrites));
  const auto counts_padding = [&](const auto&, auto& dw, const ConstViews&, Matrix<const double> dy, const Views&) {
    EmbeddingCase all = c;
    all.valid.assign(8, 1);
    c.layer.backward(ctx, dw, all.tokens(), dy);
  };
  CHECK_SEES_FAULT(check_layer<TestBackend>(ctx, c.layer, {}, {8, 6}, forward, counts_padding));
}
TEST_CASE("embedding: a padding id has no gradient and no position, and positions do not count it") {
  EmbeddingCase c;
  c.ids = {3, 1, 5, 3, 2, 3, 3, 7};
  c.valid.assign(8, 1);
  c.layer.padding = 3;
  c.layer.first_position = 4;
  Context ctx(1);
  const std::vector<double> table = detail::random_values(11 * 6, 5, 0);
  Embedding<P, TestBackend>::Params<const double> w = c.layer.params<const double>();
  bind_params(w, table.data());
  const auto embedded = [&](const Embedding<P, TestBackend>& layer, const Tokens& tokens) {
    std::vector<double> y(static_cast<std::size_t>(tokens.count() * 6));
    layer.forward(ctx, w, tokens, {y.data(), tokens.count(), 6});
    return y;
  };
  Embedding<P, TestBackend> plain{11, 6, 2.5, true, 0.5}, bare = plain;
  bare.positions = false;
  const std::vector<double> y = embedded(c.layer, c.tokens()), looked_up = embedded(bare, c.tokens());
  const std::vector<std::uint8_t> on(1, 1);
  const std::vector<index_t> place = {-1, 4, 5, -1, 4, -1, -1, 5};  // of each token
  for (std::size_t t = 0; t < 8; ++t) {
    std::vector<double> expected(looked_up.begin() + 6 * static_cast<std::ptrdiff_t>(t),
                                 looked_up.begin() + 6 * static_cast<std::ptrdiff_t>(t + 1));
    if (place[t] >= 0) expected = embedded(plain, {1, 1, c.ids.data() + t, on.data(), nullptr, place[t], nullptr});
    CHECK(std::vector<double>(y.begin() + 6 * static_cast<std::ptrdiff_t>(t),
                              y.begin() + 6 * static_cast<std::ptrdiff_t>(t + 1)) == expected);
  }
  // One column at positions of the sentences' own.
  const std::vector<std::int32_t> positions = {5, 0, 3}, ids = {1, 2, 3};
  const std::vector<std::uint8_t> valid(3, 1);
  const std::vector<double> step =
      embedded(c.layer, {3, 1, ids.data(), valid.data(), nullptr, 5, nullptr, positions.data()});
  for (std::size_t r = 0; r < 3; ++r) {
    const auto alone =
        embedded(ids[r] == 3 ? bare : plain, {1, 1, ids.data() + r, valid.data(), nullptr, positions[r] + 4, nullptr});
    CHECK(std::equal(alone.begin(), alone.end(), step.begin() + 6 * static_cast<std::ptrdiff_t>(r)));
  }

  const auto forward = [&](const auto& weights, const ConstViews&, Matrix<double> out) {
    c.layer.forward(ctx, weights, c.tokens(), out);
    for (index_t t = 0; t < 8; ++t)  // what comes of padding is in no loss
      for (index_t j = 0; j < 6; ++j) out(t, j) *= c.ids[static_cast<std::size_t>(t)] == 3 ? 0 : 1;
  };
  for (const bool forgotten : {false, true}) {
    const auto backward = [&](const auto&, auto& dw, const ConstViews&, Matrix<const double> dy, const Views&) {
      (forgotten ? plain : c.layer).backward(ctx, dw, c.tokens(), dy);
    };
    const LayerReport report = check_layer<TestBackend>(ctx, c.layer, {}, {8, 6}, forward, backward);
    INFO(report.text());
    CHECK(report.passed() != forgotten);
  }
}
TEST_CASE("the tied output head and its faults") {
  EmbeddingCase c;
  Context ctx(1);
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) { c.layer.logits(ctx, w, x[0], y); };
  const auto backward_of = [&](double weight_scale, double input_scale) {
    return [&, weight_scale, input_scale](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy,
                                          const Views& dx) {
      std::vector<double> scaled(dy.data, dy.data + dy.size());
      for (double& v : scaled) v *= weight_scale;
      c.layer.logits_backward(ctx, w, dw, x[0], Matrix<const double>(scaled.data(), dy.rows, dy.cols), dx[0]);
      for (index_t i = 0; i < dx[0].size(); ++i) dx[0].data[i] *= input_scale / weight_scale;
    };
  };
  CHECK_PASSES(check_layer<TestBackend>(ctx, c.layer, {{5, 6}}, {5, 11}, forward, backward_of(1, 1)));
  CHECK_SEES_FAULT(check_layer<TestBackend>(ctx, c.layer, {{5, 6}}, {5, 11}, forward,
                                            backward_of(2, 1)));  // output_scale forgotten in one
  CHECK_SEES_FAULT(
      check_layer<TestBackend>(ctx, c.layer, {{5, 6}}, {5, 11}, forward, backward_of(1, 2)));  // and in the other
}

TEST_CASE("cross entropy: smoothing, z-loss and ignored targets; the gradient's faults") {
  Context ctx(1);
  const std::vector<std::int32_t> target = {3, -1, 0, 8, 2};
  for (const double eps : {0.0, 0.1})
    for (const double z : {0.0, 0.01}) {
      CAPTURE(eps);
      CAPTURE(z);
      CrossEntropy<P, TestBackend> layer{CrossEntropyConfig::smoothed(eps, 9)};
      layer.config.z = z;
      const auto value = [&](Matrix<const double> x, Matrix<double> y) {  // y has one element, 0.7 times the loss
        std::vector<double> logits(x.data, x.data + x.size());
        y(0, 0) = 0.7 * layer(ctx, {logits.data(), x.rows, x.cols}, target.data(), 0).loss;
      };
      const auto forward = [&](const auto&, const ConstViews& x, Matrix<double> y) { value(x[0], y); };
      const auto backward_of = [&](auto change) {
        return [&, change](const auto&, auto&, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
          std::copy(x[0].data, x[0].data + x[0].size(), dx[0].data);
          layer(ctx, dx[0], target.data(), 0.7 * dy(0, 0));
          change(dx[0]);
        };
      };
      const auto run = [&](auto change) {
        return check_layer<TestBackend>(ctx, layer, {{5, 9}}, {1, 1}, forward, backward_of(change));
      };
      CHECK_PASSES(run([](Matrix<double>) {}));
      CHECK_SEES_FAULT(run([](Matrix<double> d) { d(0, 3) += 1e-3; }));  // the target's point mass
      CHECK_SEES_FAULT(run([](Matrix<double> d) { d(1, 0) = 1e-3; }));   // an ignored row has a gradient
      CHECK_SEES_FAULT(run([](Matrix<double> d) { d(2, 4) *= 1.001; }));
      CHECK_SEES_FAULT(run([](Matrix<double> d) {
        for (index_t i = 0; i < d.size(); ++i) d.data[i] /= 0.7;  // the scale is forgotten
      }));
    }
}

/// x + dropout(linear(norm(x))): the residual block with a sub-layer that has weights.
struct Block {
  Residual<LayerNorm<P, TestBackend>> residual;
  Linear<P, TestBackend> linear;
  template <class T>
  struct Params {
    LayerNorm<P, TestBackend>::Params<T> norm;
    Linear<P, TestBackend>::Params<T> linear;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      norm.visit(prefix + "norm.", f);
      linear.visit(prefix + "linear.", f);
    }
  };
  template <class T>
  Params<T> params() const {
    return {residual.norm.params<T>(), linear.params<T>()};
  }
};
TEST_CASE("the residual block, with and without dropout; a lost skip path and a second mask are seen") {
  for (const double dropout : {0.0, 0.4}) {
    const Block block{{{6, 1e-5}, dropout, 3}, {6, 6, true, 1}};
    Context ctx(1);
    ctx.training = true;
    Residual<LayerNorm<P, TestBackend>>::Cache cache;
    const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
      block.residual.forward(ctx, w.norm, x[0], y, cache, [&](Matrix<const double> n, Matrix<double> o) {
        block.linear.forward(ctx, w.linear, n, o);
      });
    };
    const auto backward_of = [&](double skip, std::uint32_t stream) {
      return [&, skip, stream](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
        auto residual = block.residual;
        residual.stream = stream;
        residual.backward(ctx, w.norm, dw.norm, x[0], dy, dx[0], cache,
                          [&](Matrix<const double> n, Matrix<const double> g, Matrix<double> dn) {
                            block.linear.backward(ctx, w.linear, dw.linear, n, g, dn);
                          });
        for (index_t i = 0; i < dy.size(); ++i) dx[0].data[i] += (skip - 1) * dy.data[i];
      };
    };
    const auto run = [&](double skip, std::uint32_t stream) {
      return check_layer<TestBackend>(ctx, block, {{5, 6}}, {5, 6}, forward, backward_of(skip, stream));
    };
    CHECK_PASSES(run(1, 3));
    CHECK_SEES_FAULT(run(0, 3));
    if (dropout > 0) CHECK_SEES_FAULT(run(1, 4));
  }
}

TEST_CASE("an output that is added to instead of assigned is seen") {
  Context ctx(1);
  const Linear<P, TestBackend> layer{3, 2, true, 1};
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    const double before = y(0, 0);
    layer.forward(ctx, w, x[0], y);
    y(0, 0) += before;
  };
  const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    layer.backward(ctx, w, dw, x[0], dy, dx[0]);
  };
  const LayerReport report = check_layer<TestBackend>(ctx, layer, {{4, 3}}, {4, 2}, forward, backward);
  CHECK_FALSE(report.assigned);
  CHECK(report.text().find("FAILED") == 0);
}

}  // namespace

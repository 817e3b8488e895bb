// test_layers_attention.cpp -- attention (self, causal, cross, masked, biased, windowed) and T5's relative positions:
// gradients, planted faults, and one step at a time against all at once. Read next: include/sparsemoe/nn/attention.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/nn/attention.hpp"
#include "sparsemoe/nn/relative_position.hpp"
#include "sparsemoe/testing/check_layer.hpp"

namespace {

using namespace sparsemoe;
using TestBackend = Cpu;
using Context = TestBackend::Context;
using P = Fp64;
using Layer = Attention<P, TestBackend>;
using ConstViews = std::vector<Matrix<const double>>;
using Views = std::vector<Matrix<double>>;

constexpr index_t sentences = 2, width = 6, heads = 2;
const Layer attention{width, heads, 5, true, 0.6, 1};

struct Case {
  bool cross = false, causal = false, masked = false, biased = false;
  index_t window = 0;
};
/// A term of the backward that is left out or wrong.
enum class Fault {
  none,
  query_path,
  key_path,
  scale,
  mask_forgotten,
  bias_gradient,
  value_weight,
  output_bias,
  memory_gradient
};

LayerReport check(const Case& c, Fault fault = Fault::none) {
  Context ctx(1);
  Layer::Cache cache;
  const index_t queries = 4, keys = c.cross ? 5 : queries;
  const std::vector<std::uint8_t> valid = c.cross ? std::vector<std::uint8_t>{1, 1, 1, 0, 0, 1, 0, 1, 1, 1}
                                                  : std::vector<std::uint8_t>{1, 1, 1, 0, 1, 1, 1, 1};
  std::vector<LayerInput> inputs = {{sentences * queries, width}};
  if (c.cross) inputs.push_back({sentences * keys, width});
  if (c.biased) inputs.push_back({heads * queries, keys, Handover::added});
  const auto info = [&](const ConstViews& x) {
    return AttentionInfo<double>{sentences,
                                 queries,
                                 keys,
                                 c.masked ? valid.data() : nullptr,
                                 c.causal,
                                 0,
                                 c.biased ? x.back() : Matrix<const double>{},
                                 c.window};
  };
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    attention.forward(ctx, w, x[0], c.cross ? x[1] : x[0], info(x), y, cache);
  };
  const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    const Matrix<double> dmemory = c.cross ? dx[1] : dx[0], dbias = c.biased ? dx.back() : Matrix<double>{};
    Layer layer = attention;
    Layer::Cache kept = cache;
    AttentionInfo<double> call = info(x);
    auto weights = w;
    if (fault == Fault::scale) layer.scale = 1;
    if (fault == Fault::mask_forgotten) kept.probs.data[3] = 0.25;  // sentence 0, head 0, query 0, key 3 is padding
    if (fault == Fault::value_weight) weights.v = w.k;
    layer.backward(ctx, weights, dw, x[0], c.cross ? x[1] : x[0], call, dy, dx[0], dmemory, kept,
                   fault == Fault::bias_gradient ? Matrix<double>{} : dbias);
    if (fault == Fault::query_path) attention.project_in().backward(ctx, w.q, dw.q, x[0], cache.q.as_const(), {});
    if (fault == Fault::key_path) dw.k.weight.data[2] = 0;
    if (fault == Fault::output_bias) dw.o.bias.data[1] -= dy(0, 1);
    if (fault == Fault::memory_gradient) dmemory(1, 0) *= 1.001;
  };
  return check_layer<TestBackend>(ctx, attention, inputs, {sentences * queries, width}, forward, backward);
}
void passes(const Case& c) {
  const LayerReport report = check(c);
  INFO(report.text());
  CHECK(report.passed());
}
void sees(const Case& c, Fault fault) {
  const LayerReport report = check(c, fault);
  INFO(static_cast<int>(fault), " ", report.text());
  CHECK_FALSE(report.passed());
}

TEST_CASE("attention of every form has the right gradient") {
  for (const bool masked : {false, true})
    for (const bool biased : {false, true}) {
      CAPTURE(masked);
      CAPTURE(biased);
      passes({false, false, masked, biased});
      passes({false, true, masked, biased});
      passes({true, false, masked, biased});
    }
  passes({false, true, false, false, 2});
}
TEST_CASE("a fault in any term of attention's backward is seen") {
  const Case self{false, true, true, true}, cross{true, false, true, true};
  for (const Fault fault : {Fault::query_path, Fault::key_path, Fault::scale, Fault::mask_forgotten,
                            Fault::bias_gradient, Fault::value_weight, Fault::output_bias, Fault::memory_gradient}) {
    sees(self, fault);
    sees(cross, fault);
  }
}

TEST_CASE("a loss on the attention weights themselves") {
  Context ctx(1);
  Layer::Cache cache;
  const AttentionInfo<double> info{sentences, 4, 4, nullptr, true, 0, {}, 0};
  const auto wanted = detail::random_values(sentences * heads * 4 * 4, 8, 0);
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    attention.forward(ctx, w, x[0], x[0], info, y, cache);
    double loss = 0;
    for (index_t i = 0; i < cache.probs.size(); ++i) loss += wanted[static_cast<std::size_t>(i)] * cache.probs.data[i];
    return loss;
  };
  for (const bool forgotten : {false, true}) {
    const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
      const Matrix<const double> dattention(wanted.data(), cache.probs.rows, 4);
      attention.backward(ctx, w, dw, x[0], x[0], info, dy, dx[0], dx[0], cache, {},
                         forgotten ? Matrix<const double>{} : dattention);
    };
    const LayerReport report = check_layer<TestBackend>(ctx, attention, {{8, width}}, {8, width}, forward, backward);
    INFO(report.text());
    CHECK(report.passed() != forgotten);
  }
}

TEST_CASE("a sentence without a single key attends to nothing, and gets no gradient") {
  Context ctx(1);
  Layer::Cache cache;
  const std::vector<std::uint8_t> valid = {0, 0, 0, 1, 1, 0};
  const AttentionInfo<double> info{2, 3, 3, valid.data(), false, 0, {}, 0};
  const auto forward = [&](const auto& w, const ConstViews& x, Matrix<double> y) {
    attention.forward(ctx, w, x[0], x[0], info, y, cache);
  };
  const auto backward = [&](const auto& w, auto& dw, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
    attention.backward(ctx, w, dw, x[0], x[0], info, dy, dx[0], dx[0], cache);
    for (index_t i = 0; i < 3; ++i)
      for (index_t j = 0; j < width; ++j) CHECK(dx[0](i, j) == 0);
  };
  const LayerReport report = check_layer<TestBackend>(ctx, attention, {{6, width}}, {6, width}, forward, backward);
  INFO(report.text());
  CHECK(report.passed());
}

TEST_CASE("relative positions: every bucket's gradient, and faults") {
  for (const bool bidirectional : {false, true}) {
    const RelativePosition<P, TestBackend> layer{3, 8, 16, bidirectional};
    Context ctx(1);
    const index_t queries = 9, keys = 9;
    const auto forward = [&](const auto& w, const ConstViews&, Matrix<double> y) {
      layer.forward(ctx, w, queries, 0, y);
    };
    const auto run = [&](auto change) {
      const auto backward = [&](const auto&, auto& dw, const ConstViews&, Matrix<const double> dy, const Views&) {
        layer.backward(ctx, dw, queries, dy);
        change(dw.weight.matrix(), dy);
      };
      return check_layer<TestBackend>(ctx, layer, {}, {3 * queries, keys}, forward, backward);
    };
    const LayerReport report = run([](Matrix<double>, Matrix<const double>) {});
    INFO(report.text());
    CHECK(report.passed());
    CHECK_FALSE(
        run([](Matrix<double> d, Matrix<const double> dy) { d(0, 1) -= dy(9, 0); }).passed());  // one pair is lost
    CHECK_FALSE(run([](Matrix<double> d, Matrix<const double>) { std::swap(d(0, 0), d(0, 1)); }).passed());
    CHECK_FALSE(run([](Matrix<double> d, Matrix<const double>) { d(2, 2) = 0; }).passed());
  }
}

TEST_CASE("one query at a time over kept keys gives what all at once gives") {
  for (const bool biased : {false, true}) {
    Context ctx(1);
    const index_t length = 5, room = 7, inner = heads * 5;
    auto params = attention.params<const double>();
    index_t total = 0;
    list_params(params, &total);
    const auto values = detail::random_values(total, 5, 0, 0.5);
    bind_params(params, values.data());
    const auto x = detail::random_values(sentences * length * width, 6, 0),
               table = detail::random_values(8 * heads, 7, 0);
    const RelativePosition<P, TestBackend> position{heads, 8, 16, false};
    auto position_params = position.params<const double>();
    bind_params(position_params, table.data());
    std::vector<double> bias(static_cast<std::size_t>(heads * length * length)), y(x.size()),
        keys(static_cast<std::size_t>(sentences * room * inner)), vals(keys);
    const Matrix<double> all_bias(bias.data(), heads * length, length);
    position.forward(ctx, position_params, length, 0, all_bias);
    Layer::Cache cache;
    const Matrix<const double> input(x.data(), sentences * length, width);
    attention.forward(
        ctx, params, input, input,
        {sentences, length, length, nullptr, true, 0, biased ? all_bias.as_const() : Matrix<const double>{}, 0},
        {y.data(), sentences * length, width}, cache);
    for (index_t t = 0; t < length; ++t) {
      std::vector<double> one(static_cast<std::size_t>(sentences * width)), out(one.size()),
          row(static_cast<std::size_t>(heads * (t + 1)));
      for (index_t s = 0; s < sentences; ++s)
        for (index_t j = 0; j < width; ++j) one[static_cast<std::size_t>(s * width + j)] = input(s * length + t, j);
      const Matrix<double> step_bias(row.data(), heads, t + 1);
      position.forward(ctx, position_params, 1, t, step_bias);
      attention.step(
          ctx, params, {one.data(), sentences, width},
          {sentences, 1, t + 1, nullptr, false, t, biased ? step_bias.as_const() : Matrix<const double>{}, 0},
          {keys.data(), sentences * room, inner}, {vals.data(), sentences * room, inner}, room, true,
          {out.data(), sentences, width});
      for (index_t s = 0; s < sentences; ++s)
        for (index_t j = 0; j < width; ++j)
          CHECK(std::abs(out[static_cast<std::size_t>(s * width + j)] -
                         y[static_cast<std::size_t>((s * length + t) * width + j)]) < 1e-13);
    }
  }
}

}  // namespace

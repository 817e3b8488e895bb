// SPDX-License-Identifier: Apache-2.0
// test_layers_attention.cpp -- attention (self, causal, cross, masked, biased, windowed, rotated, with shared key
// heads) and T5's relative positions: gradients, planted faults, and one step at a time against all at once. Read next:
// include/sparsemoe/nn/attention.hpp.
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
  bool rotated = false;  // self-attention with rotary positions
  bool shared = false;   // four query heads on two key heads
  Layer layer() const {
    Layer l = attention;
    if (rotated) l.head_width = 4;
    if (shared) l.heads = 4, l.kv_heads = 2;
    return l;
  }
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
  memory_gradient,
  rotation
};

LayerReport check(const Case& c, Fault fault = Fault::none) {
  Context ctx(1);
  Layer::Cache cache;
  const Layer attention = c.layer();
  const index_t queries = 4, keys = c.cross ? 5 : queries;
  const Tokens tokens{sentences, queries};
  const auto rotation = rotation_table<double, TestBackend>(ctx, tokens, c.rotated ? 10 : 0, attention.head_width);
  const std::vector<std::uint8_t> valid = c.cross ? std::vector<std::uint8_t>{1, 1, 1, 0, 0, 1, 0, 1, 1, 1}
                                                  : std::vector<std::uint8_t>{1, 1, 1, 0, 1, 1, 1, 1};
  std::vector<LayerInput> inputs = {{sentences * queries, width}};
  if (c.cross) inputs.push_back({sentences * keys, width});
  if (c.biased) inputs.push_back({attention.heads * queries, keys, Handover::added});
  const auto info = [&](const ConstViews& x) {
    return AttentionInfo<double>{sentences,
                                 queries,
                                 keys,
                                 c.masked ? valid.data() : nullptr,
                                 c.causal,
                                 0,
                                 c.biased ? x.back() : Matrix<const double>{},
                                 c.window,
                                 rotation};
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
    if (fault == Fault::rotation) call.rotation = {};
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
TEST_CASE("shared key heads and rotary positions have the right gradient") {
  passes({false, true, true, true, 0, false, true});
  passes({true, false, true, false, 0, false, true});
  passes({false, true, true, false, 3, true, true});
  passes({false, false, true, true, 0, true, false});
  sees({false, true, true, false, 3, true, true}, Fault::rotation);
  for (const Fault fault : {Fault::query_path, Fault::key_path, Fault::scale, Fault::mask_forgotten,
                            Fault::value_weight, Fault::output_bias})
    sees({false, true, true, false, 0, true, true}, fault);
}

/// y of a layer with the given weights (in the order of visit()) over one batch of 2 x 4 tokens.
std::vector<double> output(const Layer& layer, const std::vector<double>& values, const AttentionInfo<double>& info) {
  Context ctx(1);
  auto params = layer.params<const double>();
  bind_params(params, values.data());
  const auto x = detail::random_values(sentences * 4 * width, 6, 0);
  const Matrix<const double> input(x.data(), sentences * 4, width);
  std::vector<double> y(x.size());
  Layer::Cache cache;
  layer.forward(ctx, params, input, input, info, {y.data(), sentences * 4, width}, cache);
  return y;
}
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}
TEST_CASE("shared key heads are as many heads with equal keys and values") {
  const Layer shared{width, 4, 3, true, 0.6, 1, 2}, wide{width, 4, 3, true, 0.6, 1};
  auto narrow_params = shared.params<const double>(), wide_params = wide.params<const double>();
  index_t narrow_total = 0, wide_total = 0;
  const auto narrow_list = list_params(narrow_params, &narrow_total), wide_list = list_params(wide_params, &wide_total);
  const auto narrow = detail::random_values(narrow_total, 5, 0);
  std::vector<double> expanded(static_cast<std::size_t>(wide_total), 0);
  for (std::size_t p = 0; p < wide_list.size(); ++p) {
    const auto& from = narrow_list[p];
    const auto& to = wide_list[p];
    for (index_t i = 0; i < to.shape.rows; ++i)
      for (index_t j = 0; j < to.shape.cols; ++j) {
        const index_t source = from.shape.cols == to.shape.cols ? j : j / 6 * 3 + j % 3;  // heads 0, 1 read key head 0
        expanded[static_cast<std::size_t>(to.offset + i * to.shape.cols + j)] =
            narrow[static_cast<std::size_t>(from.offset + i * from.shape.cols + source)];
      }
  }
  const AttentionInfo<double> info{sentences, 4, 4, nullptr, true, 0, {}, 0};
  const auto y = output(shared, narrow, info), expected = output(wide, expanded, info);
  CHECK(y == expected);  // the same products
  expanded[static_cast<std::size_t>(wide_list[2].offset)] += 0.01;
  CHECK(output(wide, expanded, info) != y);
}
TEST_CASE("rotation turns pairs of columns, and depends on distances alone") {
  Context ctx(1);
  const Layer layer{width, 4, 6, true, 0.6, 1, 2};
  auto params = layer.params<const double>();
  index_t total = 0;
  list_params(params, &total);
  const auto values = detail::random_values(total, 5, 0);
  const auto at = [&](std::vector<std::int32_t> positions) {
    const Tokens tokens{sentences, 4, nullptr, nullptr, nullptr, 0, nullptr, positions.data()};
    return output(layer, values,
                  {sentences, 4, 4, nullptr, true, 0, {}, 0, rotation_table<double, TestBackend>(ctx, tokens, 50, 6)});
  };
  const auto y = at({0, 0});
  CHECK(worst(y, at({7, 3000})) < 1e-11);
  CHECK(worst(y, output(layer, values, {sentences, 4, 4, nullptr, true, 0, {}, 0})) > 1e-2);
  const Tokens from_one{1, 2, nullptr, nullptr, nullptr, 1, nullptr};
  const auto table = rotation_table<double, TestBackend>(ctx, from_one, 50, 6);
  std::vector<double> turned = {1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1, -1, 0, 1, 0, 2, 0, 1, 1, 1, 1, 1, 1};
  const std::vector<double> before = turned;
  const Matrix<double> x(turned.data(), 2, 12);
  TestBackend::for_each_row(ctx, 2, RotateRow<P>{x, table, 1});
  for (std::size_t r = 0; r < 2; ++r)
    for (std::size_t h = 0; h < 2; ++h)
      for (std::size_t j = 0; j < 3; ++j) {
        const std::size_t first = r * 12 + h * 6 + j;
        const double angle = static_cast<double>(r + 1) * std::pow(50.0, -static_cast<double>(j) / 3);
        const double a = before[first], b = before[first + 3];
        CHECK(std::abs(turned[first] - (a * std::cos(angle) - b * std::sin(angle))) < 1e-14);
        CHECK(std::abs(turned[first + 3] - (a * std::sin(angle) + b * std::cos(angle))) < 1e-14);
      }
  TestBackend::for_each_row(ctx, 2, RotateRow<P>{x, table, -1});
  CHECK(worst(turned, before) < 1e-14);
  CHECK_THROWS_WITH_AS((rotation_table<double, TestBackend>(ctx, from_one, 50, 5)),
                       "attention: rotary positions need heads of an even width; got 5", Error);
}
TEST_CASE("a window is a mask") {
  auto params = attention.params<const double>();
  index_t total = 0;
  list_params(params, &total);
  const auto values = detail::random_values(total, 5, 0);
  for (const index_t window : {1, 2, 3, 4}) {
    std::vector<double> bias;
    for (index_t h = 0; h < heads; ++h)
      for (index_t i = 0; i < 4; ++i)
        for (index_t j = 0; j < 4; ++j) bias.push_back(j > i || j + window <= i ? -1e4 : 0);
    const auto y = output(attention, values, {sentences, 4, 4, nullptr, true, 0, {}, window});
    CHECK(worst(y, output(attention, values, {sentences, 4, 4, nullptr, false, 0, {bias.data(), heads * 4, 4}, 0})) <
          1e-14);
    CHECK((worst(y, output(attention, values, {sentences, 4, 4, nullptr, true, 0, {}, 0})) > 1e-3) == (window < 4));
  }
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

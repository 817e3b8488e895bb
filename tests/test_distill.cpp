// SPDX-License-Identifier: Apache-2.0
// test_distill.cpp -- the loss with a teacher: its gradient against difference quotients, with planted faults; what it
// is without a teacher; the same bits on any number of threads; a whole student. The row functor against naive loops is
// in backend_body.hpp. Read next: include/sparsemoe/nn/distill.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/io/weights.hpp"
#include "sparsemoe/nn/distill.hpp"
#include "sparsemoe/testing/check_layer.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace sparsemoe;
using model_body::With;
using ConstViews = std::vector<Matrix<const double>>;
using Views = std::vector<Matrix<double>>;

template <class T>
std::vector<T> values(index_t n, std::uint64_t seed) {
  std::vector<T> out;
  for (const double v : detail::random_values(n, seed, 0, 2)) out.push_back(T(v));
  return out;
}

TEST_CASE("distillation: share, temperature, smoothing, z-loss and ignored targets; the gradient's faults") {
  Cpu::Context ctx(1);
  const std::vector<std::int32_t> target = {3, -1, 0, 8, 2};
  std::vector<double> taught = values<double>(5 * 9, 3);
  std::fill_n(taught.begin() + 9, 9, std::numeric_limits<double>::quiet_NaN());  // of the row that does not count
  const Matrix<const double> teacher(taught.data(), 5, 9);
  for (const double share : {0.25, 1.0})
    for (const double temperature : {1.0, 3.0}) {
      CAPTURE(share);
      CAPTURE(temperature);
      Distillation<Fp64, Cpu> layer{CrossEntropyConfig::smoothed(0.1, 9), share, temperature};
      layer.hard.z = 0.01;
      const auto forward = [&](const auto&, const ConstViews& x, Matrix<double> y) {  // 0.7 times the loss
        std::vector<double> logits(x[0].data, x[0].data + x[0].size());
        const auto sums = layer(ctx, Matrix<double>(logits.data(), 5, 9), teacher, target.data(), 0);
        CHECK(sums.tokens == 4);
        CHECK(sums.loss == doctest::Approx((1 - share) * sums.hard + share * temperature * temperature * sums.soft));
        y(0, 0) = 0.7 * sums.loss;
      };
      const auto run = [&](auto change) {
        const auto backward = [&](const auto&, auto&, const ConstViews& x, Matrix<const double> dy, const Views& dx) {
          std::copy(x[0].data, x[0].data + x[0].size(), dx[0].data);
          layer(ctx, dx[0], teacher, target.data(), 0.7 * dy(0, 0));
          change(dx[0]);
        };
        return check_layer<Cpu>(ctx, layer, {{5, 9}}, {1, 1}, forward, backward);
      };
      const LayerReport sound = run([](Matrix<double>) {});
      INFO(sound.text());
      CHECK(sound.passed());
      CHECK_FALSE(run([](Matrix<double> d) { d(1, 0) = 1e-3; }).passed());   // an ignored row has a gradient
      CHECK_FALSE(run([](Matrix<double> d) { d(0, 3) += 1e-3; }).passed());  // the target's point mass
      CHECK_FALSE(run([&](Matrix<double> d) {                                // the temperature's factor is forgotten
                    for (index_t i = 0; i < d.size(); ++i) d.data[i] /= temperature + (temperature > 1 ? 0 : 0.01);
                  })
                      .passed());
    }
}

template <class P>
void no_share_is_the_plain_loss() {
  using S = typename P::storage;
  Cpu::Context ctx(1);
  const index_t rows = 13, n = 77;
  std::vector<S> plain = values<S>(rows * n, 5), taught = values<S>(rows * n, 6), with = plain;
  std::vector<std::int32_t> target;
  for (std::int32_t r = 0; r < rows; ++r) target.push_back(r % 5 == 2 ? -1 : r * 5);
  const auto config = CrossEntropyConfig::smoothed(0.1, n);
  const auto a = CrossEntropy<P, Cpu>{config}(ctx, {plain.data(), rows, n}, target.data(), 0.5);
  const Distillation<P, Cpu> layer{config, 0, 2};
  const auto b =
      layer(ctx, Matrix<S>(with.data(), rows, n), Matrix<const S>(taught.data(), rows, n), target.data(), 0.5);
  CHECK(std::memcmp(plain.data(), with.data(), plain.size() * sizeof(S)) == 0);
  CHECK(a.loss == b.loss);
  CHECK(a.hard == b.hard);
  CHECK(a.hard == a.loss);
  CHECK(a.nll == b.nll);
  CHECK(a.correct == b.correct);
  CHECK(b.soft == 0);
}
TEST_CASE("a share of 0 is the loss without a teacher, to the bit") {
  no_share_is_the_plain_loss<Fp64>();
  no_share_is_the_plain_loss<Fp32>();
  no_share_is_the_plain_loss<Bf16>();
}

TEST_CASE("what does not fit is refused in a sentence") {
  Cpu::Context ctx(1);
  std::vector<float> x(12), y(12);
  const std::vector<std::int32_t> target(3, 0);
  const Matrix<float> logits(x.data(), 3, 4);
  Distillation<Fp32, Cpu> layer{CrossEntropyConfig{}, 0.25, 1};
  CHECK_THROWS_WITH(layer(ctx, logits, Matrix<const float>(y.data(), 4, 3), target.data(), 0),
                    "distillation: the teacher's logits are (4, 3), the student's (3, 4)");
  layer.share = 1.5;
  CHECK_THROWS_WITH(layer.check(), "distillation: the teacher's share of the loss must be in [0, 1]; got 1.5");
  layer = {CrossEntropyConfig{}, 0.5, 0};
  CHECK_THROWS_WITH(layer.check(), "distillation: the temperature must be positive; got 0");
}

using Student = EncoderDecoder<With<Dense, Fp64>>;
constexpr index_t vocabulary = 23;

/// One pass of a student with this teacher, in evaluation mode; the gradient is left in the student's weights.
template <class Model>
LossSums learn(Cpu::Context& ctx, Model& student, Model& teacher, const model_body::CopyBatch& batch, double share,
               double temperature) {
  using P = typename Model::P;
  using S = typename P::storage;
  Solo solo;
  const auto view = batch.view();
  const Matrix<S> read = teacher.hidden(ctx, view.source, view.target, solo);
  std::vector<S> taught(static_cast<std::size_t>(view.target.count() * vocabulary));
  const Distillation<P, Cpu> lesson{student.loss_config(), share, temperature};
  const auto head = [&](Matrix<S> logits, index_t first) {
    const Matrix<S> out(taught.data(), logits.rows, logits.cols);
    teacher.output(ctx, read.slice_rows(first, logits.rows).as_const(), out);
    return lesson(ctx, logits, out.as_const(), view.labels + first, 1.0);
  };
  const LossSums sums = student.loss(ctx, view, solo, 1.0, 0, head);
  ctx.arena.reset();
  return sums;
}

TEST_CASE("a student that is its teacher has nothing to learn from it, and another has") {
  Cpu::Context ctx(1);
  const auto config = model_body::model_config(vocabulary, 8);
  const model_body::CopyBatch batch(5, 6, vocabulary, 2);
  Student teacher(ctx, config), student(ctx, config);
  teacher.weights.initialise(ctx, 1);
  student.weights.initialise(ctx, 1);
  const auto largest = [&] {
    double g = 0;
    for (index_t i = 0; i < student.weights.total(); ++i) g = std::max(g, std::abs(student.weights.gradient()[i]));
    return g;
  };
  const LossSums same = learn(ctx, student, teacher, batch, 1, 1.5);
  const auto labels = std::count_if(batch.labels.begin(), batch.labels.end(), [](auto l) { return l >= 0; });
  CHECK(same.tokens == static_cast<double>(labels));
  CHECK(largest() < 1e-12);
  student.weights.initialise(ctx, 2);
  const LossSums other = learn(ctx, student, teacher, batch, 1, 1.5);
  CHECK(largest() > 1e-3);
  CHECK(other.soft > same.soft);  // same.soft is the teacher's entropy, the least there is
}

TEST_CASE("logits in two steps are the logits in one") {
  Cpu::Context ctx(1);
  Solo solo;
  const model_body::CopyBatch batch(5, 6, vocabulary, 2);
  Student model(ctx, model_body::model_config(vocabulary, 8));
  model.weights.initialise(ctx, 1);
  const auto view = batch.view();
  const index_t n = view.target.count();
  std::vector<double> whole(static_cast<std::size_t>(n * vocabulary)), part(static_cast<std::size_t>(3 * vocabulary));
  model.logits(ctx, view.source, view.target, solo, {whole.data(), n, vocabulary});
  const Matrix<double> hidden = model.hidden(ctx, view.source, view.target, solo);
  model.output(ctx, hidden.slice_rows(4, 3).as_const(), {part.data(), 3, vocabulary});
  CHECK(std::equal(part.begin(), part.end(), whole.begin() + 4 * vocabulary));
}

TEST_CASE("a student takes over what it shares with its teacher's file, and nothing of another shape") {
  Cpu::Context ctx(1);
  const auto weights = [](std::vector<ParamInfo> list) {
    index_t total = 0;
    for (auto& p : list) p.offset = total, total += reserved(p.shape, p.init);
    return Weights<Fp32, Cpu>(std::move(list), total, true);
  };
  const auto file = std::filesystem::temp_directory_path() / join("sparsemoe-distill-", ::getpid(), ".safetensors");
  const Init normal = Init::normal(1);
  auto teacher =
      weights({{"moe.wi", 0, stack_of<float>(4, 2, 3), normal}, {"shared", 0, matrix_of<float>(3, 5), normal}});
  teacher.initialise(ctx, 1);
  save_weights(ctx, teacher, {}, file);
  auto student =
      weights({{"shared", 0, matrix_of<float>(3, 5), normal}, {"ffn.wi", 0, matrix_of<float>(2, 6), normal}});
  student.initialise(ctx, 2);
  const auto before = student.get(ctx);
  CHECK(load_shared_weights(ctx, student, file) == 15);
  const auto after = student.get(ctx), taught = teacher.get(ctx);
  const auto at = [](const auto& w, const std::vector<float>& values, std::size_t leaf) {
    const auto first = values.begin() + w.list()[leaf].offset;
    return std::vector<float>(first, first + w.list()[leaf].shape.size());
  };
  CHECK(at(student, after, 0) == at(teacher, taught, 1));
  CHECK(at(student, after, 0) != at(student, before, 0));
  CHECK(at(student, after, 1) == at(student, before, 1));
  auto other = weights({{"ffn.wi", 0, matrix_of<float>(2, 6), normal}, {"shared", 0, matrix_of<float>(5, 3), normal}});
  other.initialise(ctx, 2);
  const auto kept = other.get(ctx);
  CHECK_THROWS_AS(load_shared_weights(ctx, other, file), FileError);
  CHECK(other.get(ctx) == kept);
  std::filesystem::remove(file);
}

TEST_CASE("1, 2 and 4 threads give the same bits") {
  const index_t rows = 301, n = 517;
  std::vector<std::int32_t> target;
  for (std::int32_t r = 0; r < rows; ++r) target.push_back(r % 7 == 3 ? -1 : r);
  const auto taught = values<float>(rows * n, 8);
  std::vector<float> first;
  LossSums sums;
  for (const int threads : {1, 2, 4}) {
    Cpu::Context ctx(threads);
    auto logits = values<float>(rows * n, 7);
    const Distillation<Fp32, Cpu> layer{CrossEntropyConfig::smoothed(0.1, n), 0.25, 2};
    const auto now = layer(ctx, Matrix<float>(logits.data(), rows, n), Matrix<const float>(taught.data(), rows, n),
                           target.data(), 0.3);
    if (threads == 1) first = logits, sums = now;
    CAPTURE(threads);
    CHECK(std::memcmp(first.data(), logits.data(), first.size() * sizeof(float)) == 0);
    CHECK(sums.loss == now.loss);
    CHECK(sums.soft == now.soft);
    CHECK(sums.hard == now.hard);
  }
}

}  // namespace

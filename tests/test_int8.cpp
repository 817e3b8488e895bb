// test_int8.cpp -- expert weights rounded to int8: the error is at most half a step of the column, nothing else moves.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "sparsemoe/infer/int8.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

TEST_CASE("a column has at most 255 values, its largest stays, and nothing moves by more than half a step") {
  const index_t rows = 300, cols = 3;
  std::vector<float> w(static_cast<std::size_t>(rows * cols), 0);
  const Random random{3};
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < 2; ++j)  // the last column is all zeros
      w[static_cast<std::size_t>(i * cols + j)] = static_cast<float>(
          random.normal(Purpose::test, static_cast<std::uint64_t>(i * cols + j)) * (j == 0 ? 1 : 100));
  const std::vector<float> before = w;
  round_columns_to_int8(w.data(), rows, cols);
  for (index_t j = 0; j < cols; ++j) {
    float most = 0;
    for (index_t i = 0; i < rows; ++i)
      most = std::fmax(most, std::fabs(before[static_cast<std::size_t>(i * cols + j)]));
    for (index_t i = 0; i < rows; ++i) {
      const float was = before[static_cast<std::size_t>(i * cols + j)], is = w[static_cast<std::size_t>(i * cols + j)];
      CHECK(std::fabs(is - was) <= most / 254 * 1.0001f);
      const float q = most > 0 ? is / most * 127 : 0;
      CHECK(std::fabs(q - std::round(q)) < 1e-4f);
      if (std::fabs(was) == most) CHECK(is == was);
    }
  }
}
TEST_CASE("the experts of a model are rounded, and nothing else") {
  Cpu::Context ctx(1);
  EncoderDecoder<With<TopK<2>>, With<Task>> model(ctx, model_config(17, 12), false);
  model.weights.initialise(ctx, 3);
  const index_t total = model.weights.total();
  const std::vector<float> before(model.weights.storage(), model.weights.storage() + total);
  const index_t rounded = round_experts_to_int8(ctx, model.weights);
  CHECK(rounded == 2 * 4 * 2 * 12 * 24);  // two sparse layers of 4 experts, in and out
  for (const ParamInfo& p : model.weights.list()) {
    CAPTURE(p.name);
    bool moved = false;
    for (index_t i = p.offset; i < p.offset + p.shape.size(); ++i)
      moved = moved || model.weights.storage()[i] != before[static_cast<std::size_t>(i)];
    CHECK(moved == is_expert_matrix(p));
  }
}

}  // namespace

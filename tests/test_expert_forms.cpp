// SPDX-License-Identifier: Apache-2.0
// test_expert_forms.cpp -- expert matrices that are not plain values in memory: int8 gives the bits of the same
// rounding in plain weights, a mapped file those of the loaded one, and only the pages of the experts that are used are
// touched.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/infer/int8.hpp"
#include "sparsemoe/io/mapped_weights.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/model_body.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace model_body;
namespace fs = std::filesystem;

TEST_CASE("a column has at most 255 values, and nothing moves by more than half a step") {
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
      if (std::fabs(was) == most) CHECK(std::fabs(is - was) <= 1e-6f * most);
    }
  }
}

EncoderDecoderConfig config(WeightForm form) {
  EncoderDecoderConfig c = model_config(17, 64);
  c.encoder.hidden = 200;
  c.decoder.hidden = 4096;  // a megabyte a matrix: many pages
  c.encoder.moe.expert_form = c.decoder.moe.expert_form = form;
  return c;
}
/// All logits of a batch, target by target.
template <class Model>
std::vector<float> logits(typename Model::Context& ctx, Model& model, bool one_task = false) {
  CopyBatch batch(5, 6, 17, 8);
  if (one_task) std::fill(batch.task.begin(), batch.task.end(), 0);
  Solo solo;
  const index_t n = batch.sentences * batch.target_length * 17;
  std::vector<typename Model::S> out(static_cast<std::size_t>(n));
  model.logits(ctx, batch.source_tokens(), batch.target_tokens(), solo,
               {out.data(), batch.sentences * batch.target_length, 17});
  std::vector<float> wide;
  for (const auto v : out) wide.push_back(static_cast<float>(v));
  return wide;
}
bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
template <class P>
using Model = EncoderDecoder<With<TopK<2>, P>, With<Task, P>>;

template <class P>
void int8_model() {
  using S = typename P::storage;
  CAPTURE(std::string(P::name));
  Cpu::Context ctx(2);
  const ScratchDirectory folder;
  const fs::path path = folder.path / "model.safetensors";
  Model<P> plain(ctx, config(WeightForm::plain), false), held(ctx, config(WeightForm::int8), false);
  plain.weights.initialise(ctx, 3);
  save_weights(ctx, plain.weights, {}, path);
  const auto before = logits(ctx, plain);
  load_weights(ctx, held.weights, path);
  const auto got = logits(ctx, held);
  CHECK_FALSE(same(got, before));  // it does round
  auto host = plain.weights.get(ctx);
  for (const ParamInfo& p : plain.weights.list())
    if (p.role == Role::expert)
      for (index_t e = 0; e < p.shape.batch; ++e)
        round_columns_to_int8(host.data() + p.offset + e * p.shape.rows * p.shape.cols, p.shape.rows, p.shape.cols);
  plain.weights.set(ctx, host);
  CHECK(same(got, logits(ctx, plain)));

  const index_t weights = 2 * 4 * 64 * (200 + 4096), scales = 4 * (2 * 64 + 200 + 4096);
  const ExpertBytes bytes = expert_bytes(held.weights), full = expert_bytes(plain.weights);
  CHECK(bytes.weights == weights);
  CHECK(bytes.held == weights + 4 * scales);
  CHECK(full.held == weights * index_t(sizeof(S)));
  CHECK(bytes.plain == full.held);
  // Not only said: that is what the buffer is smaller by, up to the padding of four leaves.
  const index_t saved = (plain.weights.total() - held.weights.total()) * index_t(sizeof(S));
  CHECK(std::abs(saved - (full.held - bytes.held)) <= 4 * param_alignment * index_t(sizeof(S)));
  CHECK_THROWS_WITH_AS(save_weights(ctx, held.weights, {}, path), doctest::Contains("is not held as plain values"),
                       Error);
}
TEST_CASE("a model with int8 experts has the bits of one whose experts are rounded") {
  int8_model<Fp32>();
  int8_model<Bf16>();
}
TEST_CASE("experts in another form are not trained") {
  Cpu::Context ctx(1);
  CHECK_THROWS_WITH_AS((Model<Fp32>(ctx, config(WeightForm::int8), true)), doctest::Contains("only infer"), Error);
}

/// The file with its tensors one byte later, so that none is aligned.
void shift(const fs::path& path) {
  std::string all = read_file(path);
  std::uint64_t header = 0;
  std::memcpy(&header, all.data(), 8);
  all.insert(static_cast<std::size_t>(8 + header), " ");
  ++header;
  std::memcpy(all.data(), &header, 8);
  atomic_write(path, all);
}

template <class P>
void mapped_model(bool shifted) {
  CAPTURE(std::string(P::name));
  CAPTURE(shifted);
  Cpu::Context ctx(2);
  const ScratchDirectory folder;
  const fs::path path = folder.path / "model.safetensors";
  Model<P> plain(ctx, config(WeightForm::plain), false), held(ctx, config(WeightForm::file), false);
  plain.weights.initialise(ctx, 4);
  save_weights(ctx, plain.weights, {}, path);
  load_weights(ctx, plain.weights, path);
  if (shifted) shift(path);
  load_weights(ctx, held.weights, path);
  const MappedWeights mapped(held, path);
  CHECK(mapped.bytes() == 4u * 2 * 4 * 64 * (200 + 4096));
  CHECK(expert_bytes(held.weights).held == 0);
  CHECK(held.weights.total() + 2 * 4 * 64 * (200 + 4096) <= plain.weights.total());
  CHECK(same(logits(ctx, held), logits(ctx, plain)));
}
TEST_CASE("experts that stay in their file give the bits of loaded ones, at any alignment") {
  for (const bool shifted : {false, true}) {
    mapped_model<Fp32>(shifted);
    mapped_model<Bf16>(shifted);
  }
}

TEST_CASE("a file of bf16 is multiplied by a bf16 model and refused by an fp32 one") {
  Cpu::Context ctx(1);
  const ScratchDirectory folder;
  const fs::path path = folder.path / "model.safetensors";
  Model<Bf16> plain(ctx, config(WeightForm::plain), false), held(ctx, config(WeightForm::file), false);
  plain.weights.initialise(ctx, 5);
  std::vector<TensorView> views;
  for (const ParamInfo& p : plain.weights.list())
    views.push_back(
        {p.name, p.init.wide ? DType::kF32 : DType::kBF16, file_shape(p.shape), plain.weights.storage() + p.offset});
  write_safetensors(path, views);
  load_weights(ctx, held.weights, path);
  const MappedWeights mapped(held, path);
  CHECK(mapped.bytes() == 2u * 2 * 4 * 64 * (200 + 4096));
  CHECK(same(logits(ctx, held), logits(ctx, plain)));

  Model<Fp32> wide(ctx, config(WeightForm::file), false);
  CHECK_THROWS_WITH_AS(MappedWeights(wide, path), doctest::Contains("is BF16; it can stay in its file only as F32"),
                       FileError);
}

/// Of [data, data + bytes), the whole pages, and how many of them this process has touched.
std::pair<index_t, index_t> touched_pages(const void* data, index_t bytes) {
  const index_t page = ::sysconf(_SC_PAGESIZE);
  const auto at = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(data));
  const index_t first = (at + page - 1) / page, count = (at + bytes) / page - first;
  std::vector<std::uint64_t> entries(static_cast<std::size_t>(count));
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  const auto size = static_cast<std::size_t>(count) * 8;
  const ssize_t got = ::pread(fd, entries.data(), size, static_cast<off_t>(first * 8));
  ::close(fd);
  REQUIRE(got == static_cast<ssize_t>(size));
  index_t present = 0;
  for (const auto e : entries) present += static_cast<index_t>(e >> 63);
  return {count, present};
}
TEST_CASE("a decoder routed by task touches the matrices of its task's experts alone") {
  Cpu::Context ctx(1);
  const ScratchDirectory folder;
  const fs::path path = folder.path / "model.safetensors";
  {
    Model<Fp32> plain(ctx, config(WeightForm::plain), false);
    plain.weights.initialise(ctx, 6);
    save_weights(ctx, plain.weights, {}, path);
  }
  Model<Fp32> model(ctx, config(WeightForm::file), false);
  load_weights(ctx, model.weights, path);
  const MappedWeights mapped(model, path);
  Choice<2> chosen{};
  std::vector<Tensor<const float>> matrices;
  model.visit_weights([&](const std::string& name, auto& t, const Leaf& = {}) {
    if (name == "decoder.layers.1.moe.router.weight") chosen = best<2>(Row<const float>{t.data, t.cols});
    if (name.starts_with("decoder.layers.1.moe.experts.w")) matrices.push_back(t);
  });
  REQUIRE(matrices.size() == 2);
  for (const auto& t : matrices) CHECK(touched_pages(t.data, t.size() * 4).second == 0);
  logits(ctx, model, true);
  for (const auto& t : matrices)
    for (index_t e = 0; e < 4; ++e) {
      CAPTURE(e);
      const auto [pages, touched] = touched_pages(t.matrix(e).data, t.rows * t.cols * 4);
      CHECK(pages >= 250);
      if (e == chosen.expert[0] || e == chosen.expert[1])
        CHECK(touched == pages);
      else
        CHECK(touched < pages / 2);  // a fault maps its page's neighbours too, which may be the next expert's
    }
}
TEST_CASE("choices that need no states are asked for before the stack runs, others are not") {
  Cpu::Context ctx(1);
  const ScratchDirectory folder;
  const fs::path path = folder.path / "model.safetensors";
  using Hashed = EncoderDecoder<With<TopK<2>>, With<Hash>>;
  Hashed plain(ctx, config(WeightForm::plain), false), held(ctx, config(WeightForm::file), false);
  plain.weights.initialise(ctx, 7);
  save_weights(ctx, plain.weights, {}, path);
  load_weights(ctx, held.weights, path);
  const MappedWeights mapped(held, path);
  CHECK(same(logits(ctx, held), logits(ctx, plain)));

  const auto asked = [&](auto router) {
    MoeConfig c;
    c.experts = 4, c.width = 64, c.hidden = 4096, c.tasks = 3, c.expert_form = WeightForm::file;
    using Layer = MoE<With<decltype(router)>>;
    const Layer layer(c, router);
    auto w = layer.template params<const float>();
    held.visit_weights([&](const std::string& name, auto& t, const Leaf& = {}) {
      if (name == "decoder.layers.1.moe.experts.wi") w.experts.wi = t;
      if (name == "decoder.layers.1.moe.experts.wo") w.experts.wo = t;
    });
    const std::vector<float> gate = {0, 3, 1, 2, 3, 2, 1, 0, 1, 0, 3, 2};  // (tasks, E)
    w.gate.data = gate.data();
    const std::vector<std::int32_t> ids = {5, 9, 2, 9}, task = {0, 2};
    const std::vector<std::uint8_t> valid = {1, 1, 0, 1};  // the 2 is padding
    typename Layer::Cache cache;
    layer.fetch(ctx, w, {2, 2, ids.data(), valid.data(), task.data(), 0, nullptr}, cache);
    return cache.fetched;
  };
  CHECK(asked(Hash{}) == std::vector<std::uint8_t>{0, 1, 0, 0});         // 5 and 9, modulo 4
  CHECK(asked(TaskTopK<1>{}) == std::vector<std::uint8_t>{0, 1, 1, 0});  // the best of tasks 0 and 2
  CHECK(asked(TopK<2>{}).empty());
}

}  // namespace

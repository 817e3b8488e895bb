// SPDX-License-Identifier: Apache-2.0
// test_hf.cpp -- Hugging Face directories: what is written is what was read, in one file or in shards, and each thing
// that does not fit is refused by name before a weight changes. The models' numbers: tools/conformance.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/hf/t5.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;
const fs::path t5 = fs::path(SPARSEMOE_TEST_DATA) / "goldens/models/t5_relu_a";

using Spec = hf::T5Spec<Fp32, Cpu, hf::AnyActivation<false>>;
using Model = EncoderDecoder<Spec, Spec>;
struct Loaded {
  Cpu::Context ctx{1};
  hf::Config config;
  Model model;
  hf::NameMap names;
  explicit Loaded(const fs::path& directory)
      : config(directory),
        model(ctx, hf::t5_model_config(config, hf::Tensors(directory)), false),
        names(hf::t5_names("T5", "DenseReluDense", false, model.config().tie_embeddings)) {}
  /// The values of all weights, leaf by leaf; there may be gaps between leaves.
  std::vector<float> values() {
    const std::vector<float> flat = model.weights.get(ctx);
    std::vector<float> out;
    for (const ParamInfo& p : model.weights.list())
      out.insert(out.end(), flat.begin() + p.offset, flat.begin() + p.offset + p.shape.size());
    return out;
  }
  void load() { hf::load(ctx, model.weights, names, hf::Tensors(config.path().parent_path())); }
};

/// What is thrown while loading a copy of the checkpoint that `spoil` has changed: its tensors, and its config.
struct Stored {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;
};
std::vector<Stored> read_all(const fs::path& directory) {
  std::vector<Stored> all;
  const hf::Tensors tensors(directory);
  for (const auto& t : tensors.all()) {
    all.push_back({t.info->name, t.info->dtype, t.info->shape, std::vector<std::byte>(t.info->bytes())});
    t.shard->read(*t.info, all.back().data.data());
  }
  return all;
}
void write_all(const fs::path& file, const std::vector<Stored>& all) {
  std::vector<TensorView> views;
  for (const Stored& s : all) views.push_back({s.name, s.dtype, s.shape, s.data.data()});
  write_safetensors(file, views);
}
std::string refusal(const std::function<void(std::vector<Stored>&, Json&)>& spoil) {
  ScratchDirectory scratch;
  std::vector<Stored> all = read_all(t5);
  Json config = read_json(t5 / "config.json");
  spoil(all, config);
  write_all(scratch.path / "model.safetensors", all);
  write_json(scratch.path / "config.json", config);
  try {
    Loaded l(scratch.path);
    l.model.weights.initialise(l.ctx, 1);
    const std::vector<float> before = l.values();
    try {
      l.load();
    } catch (const Error& e) {
      if (std::string(e.what()).find("not finite") == std::string::npos) CHECK(l.values() == before);
      throw;
    }
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
Stored& named(std::vector<Stored>& all, const std::string& name) {
  for (Stored& s : all)
    if (s.name == name) return s;
  FAIL("no tensor ", name);
  return all[0];
}

TEST_CASE("what is written is what was read: F32, F16, BF16, one file and shards") {
  Loaded first(t5);
  first.load();
  const std::vector<float> weights = first.values();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    for (const std::uint64_t shard : {std::uint64_t{1} << 40, std::uint64_t{10000}}) {
      CAPTURE(dtype_name(dtype));
      CAPTURE(shard);
      ScratchDirectory scratch;
      const fs::path out = scratch.path / "model";
      hf::save(first.ctx, first.model.weights, first.names, first.config, out, {dtype, shard});
      const bool sharded = fs::exists(out / "model.safetensors.index.json");
      CHECK(sharded == (shard == 10000));
      if (sharded) CHECK(ShardedReader(out / "model.safetensors.index.json").shards().size() > 2);
      Loaded again(out);
      again.load();
      const std::vector<float> back = again.values();
      REQUIRE(back.size() == weights.size());
      for (std::size_t i = 0; i < back.size(); ++i) {
        const float w = weights[i], expected = dtype == DType::kF32   ? w
                                               : dtype == DType::kF16 ? static_cast<float>(fp16(w))
                                                                      : static_cast<float>(bf16(w));
        REQUIRE(back[i] == expected);
      }
      if (dtype == DType::kF32 && !sharded) {  // the same tensors, byte for byte
        const std::vector<Stored> theirs = read_all(t5), ours = read_all(out);
        REQUIRE(theirs.size() == ours.size());
        for (std::size_t i = 0; i < ours.size(); ++i) {
          CHECK(ours[i].name == theirs[i].name);
          CHECK(ours[i].shape == theirs[i].shape);
          CHECK(ours[i].data == theirs[i].data);
        }
      }
      Json config = read_json(out / "config.json"), original = read_json(t5 / "config.json");
      CHECK(config["torch_dtype"] == (dtype == DType::kF32   ? "float32"
                                      : dtype == DType::kF16 ? "float16"
                                                             : "bfloat16"));
      config.erase("torch_dtype"), original.erase("torch_dtype");
      CHECK(config == original);
      CHECK_THROWS_WITH_AS(hf::save(first.ctx, first.model.weights, first.names, first.config, out),
                           doctest::Contains("already exists"), FileError);
    }
}

TEST_CASE("what does not fit is refused by name, and no weight changes") {
  const std::string wi = "encoder.block.1.layer.1.DenseReluDense.wi.weight";
  CHECK(refusal([](auto&, auto&) {}) == "");
  CHECK(refusal([&](auto& all, auto&) {
          std::erase_if(all, [&](const Stored& s) { return s.name == wi; });
        }).find("tensor '" + wi + "' is missing") != std::string::npos);
  CHECK(refusal([&](auto& all, auto&) {
          std::swap(named(all, wi).shape[0], named(all, wi).shape[1]);
        }).find("has shape [16, 32], expected [32, 16]") != std::string::npos);
  CHECK(refusal([&](auto& all, auto&) { named(all, wi).dtype = DType::kI32; }).find("is I32, expected F64, F32, F16") !=
        std::string::npos);
  CHECK(refusal([&](auto& all, auto&) {
          all.push_back(named(all, wi));
          all.back().name = "encoder.block.9.layer.1.DenseReluDense.wi.weight";
        }).find("tensor 'encoder.block.9.layer.1.DenseReluDense.wi.weight' has no place in a T5 model") !=
        std::string::npos);
  const auto with_alias = [&](const std::string& name, bool same) {
    return refusal([&](auto& all, auto&) {
      all.push_back(named(all, "shared.weight"));
      all.back().name = name;
      if (!same) all.back().data[5] ^= std::byte{1};
    });
  };
  CHECK(with_alias("lm_head.weight", true) == "");
  CHECK(with_alias("encoder.embed_tokens.weight", true) == "");
  CHECK(with_alias("lm_head.weight", false) == "");  // a head of its own
  CHECK(with_alias("encoder.embed_tokens.weight", false)
            .find("'encoder.embed_tokens.weight' must be the same as 'shared.weight'") != std::string::npos);
  CHECK(with_alias("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", false) == "");
  CHECK(refusal([&](auto& all, auto&) { named(all, "shared.weight").name = "encoder.embed_tokens.weight"; }) == "");
  CHECK(refusal([](auto&, auto& config) { config.erase("d_kv"); }).find("config.json: has no key \"d_kv\"") !=
        std::string::npos);
  CHECK(refusal([](auto&, auto& config) {
          config["num_heads"] = "two";
        }).find("key \"num_heads\" must be an integer") != std::string::npos);
  CHECK(refusal([](auto&, auto& config) { config["num_layers"] = 2; }).find("has no place in a T5 model") !=
        std::string::npos);
  // transformers 5 ties where the file has no head, whatever config.json says
  CHECK(refusal([](auto&, auto& config) { config["tie_word_embeddings"] = false; }) == "");
  CHECK(refusal([](auto&, auto& config) {
          config["vocab_size"] = 1 << 20;
        }).find("config.json: describes a model of at least 16.8M parameters, the tensors beside it hold") !=
        std::string::npos);
  CHECK(refusal([&](auto& all, auto&) {
          reinterpret_cast<float*>(named(all, wi).data.data())[7] = std::numeric_limits<float>::quiet_NaN();
        }).find("tensor \"" + wi + "\" has a value that is not finite, its element 7: nan") != std::string::npos);
}

TEST_CASE("a directory without weights, or with pickled ones, is told so") {
  ScratchDirectory scratch;
  CHECK_THROWS_WITH_AS(hf::Tensors(scratch.path), doctest::Contains("has neither model.safetensors nor"), FileError);
  atomic_write(scratch.path / "pytorch_model.bin", "x");
  CHECK_THROWS_WITH_AS(hf::Tensors(scratch.path), doctest::Contains("safe_serialization=True"), FileError);
  CHECK_THROWS_AS(hf::Config(scratch.path), FileError);
  atomic_write(scratch.path / "config.json", "[1]");
  CHECK_THROWS_WITH_AS(hf::Config(scratch.path), doctest::Contains("must hold an object"), FileError);
}

TEST_CASE("a parameter without a rule is named") {
  Loaded l(t5);
  l.names.rules.pop_back();
  l.names.rules.erase(l.names.rules.begin());
  CHECK_THROWS_WITH_AS(hf::map_names(l.names, l.model.weights.list()), doctest::Contains("has no place for parameter"),
                       Error);
}

}  // namespace

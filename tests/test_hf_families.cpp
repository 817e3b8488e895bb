// SPDX-License-Identifier: Apache-2.0
// test_hf_families.cpp -- config.json of every family, without a model: each key that transformers writes has a place
// in the family's list, other keys are refused; sizes, heads, activations, sparse layers and rotary positions are what
// transformers makes of them; files are taken as leniently as there. Read next: include/sparsemoe/hf/keys.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/hf/mixtral.hpp"
#include "sparsemoe/hf/nllb.hpp"
#include "sparsemoe/hf/switch_transformer.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;
using doctest::Contains;
const fs::path data = fs::path(SPARSEMOE_TEST_DATA);

hf::Config config_of(const Json& json) { return hf::Config(json, fs::path("dir/config.json")); }
hf::Config golden(const char* name) { return hf::Config(data / "goldens/models" / name); }
std::string refusal_of(const hf::Config& config) {
  try {
    hf::check_keys(config);
  } catch (const FileError& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("every key that transformers writes has a place in its family's list, and no other has") {
  const Json all = read_json(data / "hf/configs.json");
  for (const auto& [family, versions] : all.items())
    for (const auto& [version, json] : versions.items()) {
      CAPTURE(family);
      CAPTURE(version);
      CHECK(refusal_of(config_of(json)) == "");
      CHECK(refusal_of(config_of(json).with({{"num_layer", 3}})).find("dir/config.json: unknown key \"num_layer\"") ==
            0);
      CHECK(refusal_of(config_of(json).with({{"novelty", nullptr}})) == "");
      CHECK(refusal_of(config_of(json).with({{"quantization_config", {{"bits", 4}}}})).find("quantization_config") !=
            std::string::npos);
      CHECK(refusal_of(config_of(json).with({{"pruned_heads", {{"0", {1}}}}})).find("pruned_heads") !=
            std::string::npos);
      CHECK(
          refusal_of(config_of(json).with({{"is_encoder_decoder", family == "mixtral"}})).find("is_encoder_decoder") !=
          std::string::npos);
    }
  for (const auto& entry : fs::directory_iterator(data / "goldens/models")) {  // written by 4.38
    CAPTURE(entry.path().string());
    if (fs::exists(entry.path() / "config.json")) CHECK(refusal_of(hf::Config(entry.path())) == "");
  }
  CHECK_THROWS_WITH_AS(hf::check_keys(config_of({{"model_type", "bert"}})),
                       Contains("\"model_type\" is \"bert\", expected one of t5, mt5, umt5"), FileError);
}

TEST_CASE("training keys do not refuse inference") {
  const hf::Config mixtral = golden("mixtral_a").with({{"attention_dropout", 0.1}, {"router_jitter_noise", 3.0}});
  CHECK(hf::mixtral_config(mixtral).decoder.moe.jitter == 0);
  CHECK_THROWS_WITH_AS(hf::mixtral_config(mixtral, true), Contains("attention_dropout"), FileError);
  const hf::Config two = golden("switch_a").with({{"num_selected_experts", 2}});  // stored, and read by no release
  CHECK(refusal_of(two) == "");
  CHECK_NOTHROW(hf::switch_transformer_config(two));
  CHECK(hf::t5_config(golden("t5_relu_a").with({{"dropout_rate", 1.0}})).encoder.dropout == 0);
  const hf::Config nllb = golden("nllb_a").with({{"expert_capacity", nullptr}});
  CHECK_NOTHROW(hf::nllb_router(nllb));
  CHECK_THROWS_WITH_AS(hf::nllb_router(nllb, true), Contains("expert_capacity"), FileError);
}

TEST_CASE("activations: dense_act_fn before feed_forward_proj, gated-gelu is the tanh form") {
  using hf::Function;
  const auto t5 = [](Json json) {
    json["model_type"] = json.value("model_type", "t5");
    const hf::T5Activation a = hf::t5_activation(config_of(json));
    return std::pair(a.function, a.gated);
  };
  CHECK(t5({{"feed_forward_proj", "relu"}}) == std::pair(Function::relu, false));
  CHECK(t5({{"feed_forward_proj", "gelu"}}) == std::pair(Function::gelu, false));
  CHECK(t5({{"feed_forward_proj", "gated-gelu"}}) == std::pair(Function::gelu_tanh, true));
  CHECK(t5({{"feed_forward_proj", "gated-gelu"}, {"dense_act_fn", "gelu"}}) == std::pair(Function::gelu, true));
  CHECK(t5({{"feed_forward_proj", "gated-gelu"}, {"is_gated_act", false}}) == std::pair(Function::gelu_tanh, false));
  CHECK(t5({{"feed_forward_proj", "gated-swish"}}) == std::pair(Function::silu, true));
  CHECK(t5(Json::object()) == std::pair(Function::relu, false));
  CHECK(t5({{"model_type", "umt5"}}) == std::pair(Function::gelu_tanh, true));
  CHECK_THROWS_WITH_AS(t5({{"feed_forward_proj", "gated-mish"}}), Contains("\"feed_forward_proj\" is \"gated-mish\""),
                       FileError);
}

TEST_CASE("heads: what both generations mean by tied and scaled") {
  const auto scaled = [](Json json) {
    json["d_model"] = 16;
    const double scale = hf::t5_output_scale(config_of(json));
    CHECK((scale == 0.25 || scale == 1));
    return scale == 0.25;
  };
  CHECK(scaled({{"model_type", "t5"}}));
  CHECK(!scaled({{"model_type", "t5"}, {"tie_word_embeddings", false}}));
  CHECK(!scaled({{"model_type", "t5"}, {"tie_word_embeddings", true}, {"scale_decoder_outputs", false}}));
  CHECK(scaled({{"model_type", "umt5"}}));
  CHECK(!scaled({{"model_type", "mt5"}}));
  CHECK(scaled({{"model_type", "mt5"}, {"tie_word_embeddings", true}, {"transformers_version", "4.57.6"}}));
  CHECK(!scaled({{"model_type", "mt5"}, {"tie_word_embeddings", true}, {"transformers_version", "5.24.0"}}));

  ScratchDirectory scratch;
  const auto own = [&](const std::vector<float>& head, bool said_tied) {
    const std::vector<float> table = {1, 2, 3, 4};
    std::vector<TensorView> views = {{"shared.weight", DType::kF32, {2, 2}, table.data()}};
    if (!head.empty()) views.push_back({"lm_head.weight", DType::kF32, {2, 2}, head.data()});
    write_safetensors(scratch.path / "model.safetensors", views);
    return hf::own_head(hf::Tensors(scratch.path), hf::t5_head(), said_tied);
  };
  CHECK(!own({}, true));
  CHECK(!own({}, false));
  CHECK(!own({1, 2, 3, 4}, true));
  CHECK(own({1, 2, 3, 4}, false));
  CHECK(own({1, 2, 3, 5}, true));
}

TEST_CASE("sparse layers of a Switch Transformer, with transformers' step") {
  const auto sparse = [](Json change) {
    hf::Config config = golden("switch_a");
    Json json = config.json();
    json.erase("encoder_sparse_step");
    for (const auto& [key, value] : change.items()) json[key] = value;
    return hf::switch_transformer_config(config_of(json)).encoder.experts_of_layer;
  };
  using List = std::vector<index_t>;
  CHECK(sparse({{"num_sparse_encoder_layers", 2}}) == List{0, 4, 0, 4});
  CHECK(sparse({{"num_sparse_encoder_layers", 0}}) == List{0, 4, 0, 0});
  CHECK(sparse({{"num_sparse_encoder_layers", 4}}) == List{4, 4, 4, 4});
  CHECK(sparse({{"num_sparse_encoder_layers", 9}}) == List{0, 0, 0, 0});
  CHECK(sparse({{"num_sparse_encoder_layers", 2}, {"encoder_sparse_step", 3}}) == List{0, 4, 0, 0});
  CHECK(sparse({{"num_sparse_encoder_layers", 0}, {"num_layers", 1}}) == List{4});
}

TEST_CASE("sizes: each key has limits, and the sentence names it") {
  const auto most = std::numeric_limits<index_t>::max();
  for (const char* key : {"vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
                          "relative_attention_num_buckets"})
    for (const index_t n : {index_t{0}, index_t{-1}, index_t{1'000'000'000}, most}) {
      CAPTURE(key);
      CAPTURE(n);
      const std::string words = join("config.json: key \"", key, "\" is ", n);
      CHECK_THROWS_WITH_AS(hf::t5_config(golden("t5_relu_a").with({{key, n}})), Contains(words.c_str()), FileError);
    }
  const hf::Config t5 = golden("t5_relu_a");
  CHECK_THROWS_WITH_AS(hf::t5_config(t5.with({{"relative_attention_max_distance", 16}})), Contains("from 17"),
                       FileError);
  CHECK_THROWS_AS(hf::t5_config(t5.with({{"relative_attention_num_buckets", 300}})), FileError);
  CHECK_THROWS_WITH_AS(hf::t5_config(t5.with({{"layer_norm_epsilon", -1e-6}})), Contains("layer_norm_epsilon"),
                       FileError);
  CHECK(hf::t5_config(t5.with({{"num_decoder_layers", nullptr}})).decoder.layers == 3);
  CHECK_THROWS_WITH_AS(hf::t5_config(t5.with({{"num_hidden_layers", 7}})),
                       Contains("\"num_hidden_layers\" is 7, expected 3, as \"num_layers\" says"), FileError);
  // All at their limits: no product overflows.
  StackConfig s;
  s.layers = hf::Limits::layers, s.width = hf::Limits::width, s.heads = s.head_width = hf::Limits::heads;
  s.hidden = hf::Limits::hidden, s.sparse_every = 1, s.moe.experts = hf::Limits::experts;
  CHECK(hf::matrix_parameters(s, true, true) > 1e20);
  CHECK(relative_bucket(-index_t{1} << 40, false, 32, 128) == 31);
  CHECK(relative_bucket(index_t{1} << 40, true, 32, 128) == 31);
}

TEST_CASE("rotary positions: frequencies and factor of every type are transformers'") {
  const Json all = read_json(data / "hf/rope.json");
  const index_t positions = all.at("max_position_embeddings").get<index_t>();
  for (const auto& [name, golden_values] : all.items()) {
    if (!golden_values.is_object()) continue;
    CAPTURE(name);
    const Json& rope = golden_values.at("rope");
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
      const hf::Rope r = hf::rope_of(config_of({{key, rope}, {"max_position_embeddings", positions}}), 4, 1e6, 131072);
      CHECK(r.theta == rope.at("rope_theta").get<double>());
      CHECK(r.scaling.factor == doctest::Approx(golden_values.at("factor").get<double>()).epsilon(1e-6));
      CHECK_NOTHROW(r.scaling.check("decoder", 4));
      Cpu::Context ctx(1);
      for (const auto& [list, length] : {std::pair{"frequencies", positions / 2}, {"long", index_t{40}}}) {
        // The angle of place 1 in a sentence of that length is the frequency.
        const Matrix<const double> table = rotation_table<double, Cpu>(ctx, Tokens{1, length}, r.theta, 4, r.scaling);
        for (index_t j = 0; j < 2; ++j) {
          const double angle = golden_values.at(list)[static_cast<std::size_t>(j)].get<double>();
          CHECK(table(1, j) == doctest::Approx(r.scaling.factor * std::cos(angle)).epsilon(1e-6));
          CHECK(table(1, 2 + j) == doctest::Approx(r.scaling.factor * std::sin(angle)).epsilon(1e-6));
        }
      }
    }
  }
  const auto rope = [](const Json& json) { return hf::rope_of(config_of(json), 4, 1e6, 131072); };
  CHECK(rope(Json::object()).theta == 1e6);
  CHECK(rope({{"rope_theta", 500.0}}).theta == 500);
  CHECK(rope({{"rope_theta", 500.0}, {"rope_parameters", {{"rope_theta", 600.0}}}}).theta == 600);
  CHECK_THROWS_WITH_AS(rope({{"rope_scaling", {{"type", "su"}}}}),
                       Contains("in \"rope_scaling\": key \"type\" is \"su\""), FileError);
  CHECK_THROWS_WITH_AS(rope({{"partial_rotary_factor", 0.5}}), Contains("partial_rotary_factor"), FileError);
  CHECK_THROWS_WITH_AS(rope({{"rope_parameters", {{"rope_type", "linear"}}}}), Contains("has no key \"factor\""),
                       FileError);
  CHECK_THROWS_WITH_AS(
      rope({{"rope_parameters", {{"rope_type", "longrope"}, {"long_factor", {1.0}}, {"short_factor", {1.0}}}}}),
      Contains("for each of the 2 pairs"), FileError);
}

TEST_CASE("files: one file before an index, an index as lenient as transformers', tensors of all experts") {
  ScratchDirectory scratch;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8};
  write_safetensors(
      scratch.path / "model-00001-of-00001.safetensors",
      std::vector<TensorView>{{"a", DType::kF32, {2}, values.data()}, {"b", DType::kF32, {2}, values.data()}});
  atomic_write(scratch.path / "model.safetensors.index.json",
               R"({"metadata": {"total_size": 7.5, "more": [{"x": 1}]}, "extra": {"y": [1]}, )"
               R"("weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  const hf::Tensors shards(scratch.path);
  CHECK(shards.all().size() == 2);
  CHECK(shards.find("b").info != nullptr);
  CHECK(shards.warning() == "");
  CHECK(shards.elements() == 4);
  write_safetensors(scratch.path / "model.safetensors",
                    std::vector<TensorView>{{"c", DType::kF32, {2}, values.data()}});
  const hf::Tensors both(scratch.path);
  CHECK(both.find("c").info != nullptr);
  CHECK(both.warning().find("is read, not the shards") != std::string::npos);

  // (E, 2 F, D) = (2, 2 1, 2): gate and up of each expert.
  write_safetensors(
      scratch.path / "model.safetensors",
      std::vector<TensorView>{{"model.layers.0.mlp.experts.gate_up_proj", DType::kF32, {2, 2, 2}, values.data()}});
  const hf::Tensors fused(scratch.path);
  const hf::NameMap map = hf::mixtral_names(false);
  for (const auto& [name, first] : {std::pair{"wi", std::uint64_t{0}}, {"wg", std::uint64_t{2}}}) {
    ParamInfo leaf;
    leaf.name = std::string("decoder.layers.0.moe.experts.") + name;
    leaf.shape.batch = 2, leaf.shape.rows = 2, leaf.shape.cols = 1, leaf.shape.rank = 3;
    const std::vector<hf::MappedTensor> mapped = hf::map_names(map, {leaf});
    REQUIRE(mapped.size() == 2);
    for (std::size_t e = 0; e < 2; ++e) {
      const auto place = hf::parts::place_of(map, fused, leaf, mapped[e]);
      REQUIRE(place.tensor.info != nullptr);
      CHECK(place.shape == std::vector<std::int64_t>{2, 2, 2});
      CHECK(place.first == first + 4 * e);
    }
  }
  CHECK(hf::parts::unused_name(map, "model.layers.31.self_attn.rotary_emb.inv_freq"));
  CHECK(!hf::parts::unused_name(map, "model.layers.31.self_attn.q_proj.weight"));
  CHECK(hf::parts::unused_name(hf::nllb_names(true, true), "model.decoder.embed_positions.weights"));
}

TEST_CASE("NLLB: the dense family has its own names; sentences are computed alone where slots are shared") {
  CHECK(!hf::nllb_mixes_sentences(golden("nllb_a")));
  CHECK(hf::nllb_mixes_sentences(golden("nllb_a").with({{"moe_eval_capacity_token_fraction", 0.25}})));
  CHECK(hf::nllb_mixes_sentences(golden("nllb_a").with({{"second_expert_policy", "random"}})));
  const hf::Config dense = hf::Config(data / "hf/m2m");
  CHECK(!hf::nllb_mixes_sentences(dense));
  CHECK(hf::nllb_config(dense).decoder.sparse_every == 0);
  CHECK(hf::nllb_config(golden("nllb_a").with({{"encoder_sparse_step", 0}})).encoder.sparse_every == 0);
  CHECK_THROWS_WITH_AS(hf::nllb_config(golden("nllb_a").with({{"router_dtype", "bfloat16"}})), Contains("router_dtype"),
                       FileError);
}

}  // namespace

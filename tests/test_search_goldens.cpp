// test_search_goldens.cpp -- greedy and beam search give what Hugging Face's generate() gave for a T5 and a Switch
// Transformer with random weights: the same tokens, and scores within 1e-9 of the reference run in double.
// Data: tests/data/goldens/models (README.md there). Read next: test_search.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"
#include "sparsemoe/routers/switch.hpp"

namespace {

using namespace sparsemoe;

template <class RouterType>
struct T5 : SpecDefaults {
  using Router = RouterType;
  using Precision = Fp64;
  using Backend = Cpu;
  using Collective = Solo;
  template <class P, class B>
  using Norm = RmsNorm<P, B>;
};

EncoderDecoderConfig config_of(index_t encoder_layers, index_t decoder_layers) {
  EncoderDecoderConfig c;
  c.vocabulary = 64;
  c.sinusoidal = false;
  c.embedding_scale = 1;
  c.output_scale = 0.25;  // width^-0.5
  StackConfig& s = c.encoder;
  s.width = 16, s.heads = 2, s.head_width = 8, s.hidden = 32;
  s.bias = false, s.relative_positions = true, s.attention_scale = 1;
  s.moe.experts = 4;
  c.decoder = s;
  c.encoder.layers = encoder_layers, c.decoder.layers = decoder_layers;
  return c;
}

/// The reference's name of our parameter; `e` is the expert.
std::string reference_name(std::string name, index_t e, bool switch_names) {
  const auto replace = [&](const std::string& from, const std::string& to) {
    if (const auto at = name.find(from); at != name.npos) name.replace(at, from.size(), to);
  };
  const std::string last = name.starts_with("decoder") ? "layer.2." : "layer.1.";
  const std::string ffn = last + (switch_names ? "mlp." : "DenseReluDense.");
  replace(".layers.", ".block.");
  replace("relative_position.", "block.0.layer.0.SelfAttention.relative_attention_bias.");
  replace("final_norm.", "final_layer_norm.");
  replace("self_attention_norm.", "layer.0.layer_norm.");
  replace("self_attention.", "layer.0.SelfAttention.");
  replace("cross_attention_norm.", "layer.1.layer_norm.");
  replace("cross_attention.", "layer.1.EncDecAttention.");
  replace("feed_forward_norm.", last + "layer_norm.");
  replace("moe.router.weight", ffn + "router.classifier.weight");
  replace("moe.experts.", ffn + "experts.expert_" + std::to_string(e) + ".");
  replace("ffn.", ffn);
  if (name.ends_with(".wi") || name.ends_with(".wo")) name += ".weight";
  return name;
}

template <class Model>
void load(Cpu::Context& ctx, Model& model, const std::filesystem::path& path, bool switch_names) {
  const SafetensorsReader file(path);
  std::vector<double> host(static_cast<std::size_t>(model.weights.total()), 0);
  for (const ParamInfo& p : model.weights.list()) {
    const Tensor<float>& t = p.shape;
    const bool as_it_is = t.rank < 2 || p.name == "shared.weight" || p.name.find("relative_position") != p.name.npos;
    for (index_t e = 0; e < t.batch; ++e) {
      std::vector<float> from(static_cast<std::size_t>(t.rows * t.cols));
      const TensorInfo& info = file.at(reference_name(p.name, e, switch_names));
      REQUIRE(info.bytes() == from.size() * sizeof(float));
      file.read(info, from.data());
      double* to = host.data() + p.offset + e * t.rows * t.cols;
      for (index_t i = 0; i < t.rows; ++i)
        for (index_t j = 0; j < t.cols; ++j)
          to[i * t.cols + j] =
              static_cast<double>(from[static_cast<std::size_t>(as_it_is ? i * t.cols + j : j * t.rows + i)]);
    }
  }
  model.weights.set(ctx, host);
}

struct Integers {
  index_t rows, cols;
  std::vector<std::int64_t> values;
  Integers(const SafetensorsReader& file, const std::string& name) {
    const TensorInfo& info = file.at(name);
    rows = info.shape[0], cols = info.shape[1];
    values.resize(static_cast<std::size_t>(rows * cols));
    file.read(name, DType::kI64, info.shape, values.data());
  }
  std::int64_t operator()(index_t r, index_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

template <class Router>
void check_model(const std::string& name, index_t encoder_layers, index_t decoder_layers, bool has_ngram_run) {
  const std::filesystem::path directory = std::filesystem::path(SPARSEMOE_TEST_DATA) / "goldens/models" / name;
  Cpu::Context ctx(1);
  EncoderDecoder<T5<Router>, T5<Router>> model(ctx, config_of(encoder_layers, decoder_layers), false);
  load(ctx, model, directory / "model.safetensors", !std::is_same_v<Router, Dense>);
  const SafetensorsReader golden(directory / "generate.safetensors");
  const Integers ids(golden, "in/input_ids"), mask(golden, "in/attention_mask");
  const std::vector<std::int32_t> source(ids.values.begin(), ids.values.end()),
      task(static_cast<std::size_t>(ids.rows), 0);
  const std::vector<std::uint8_t> valid(mask.values.begin(), mask.values.end());

  const auto compare = [&](const std::string& run, const SearchOptions& options) {
    CAPTURE(run);
    Solo solo;
    const SearchResult found =
        search(ctx, model, solo, {ids.rows, ids.cols, source.data(), valid.data(), task.data(), 0, nullptr}, options);
    const Integers expected(golden, run + "/sequences");
    std::vector<double> scores;
    if (const TensorInfo* info = golden.find("f64/" + run + "/sequences_scores")) {
      scores.resize(static_cast<std::size_t>(expected.rows));
      golden.read(info->name, DType::kF64, {expected.rows}, scores.data());
    }
    for (index_t r = 0; r < expected.rows; ++r) {
      CAPTURE(r);
      const auto& outputs = found[static_cast<std::size_t>(r / options.nbest)];
      REQUIRE(static_cast<index_t>(outputs.size()) == options.nbest);
      const Hypothesis& h = outputs[static_cast<std::size_t>(r % options.nbest)];
      std::vector<std::int32_t> tokens;
      bool ended = false;
      for (index_t c = 1; c < expected.cols && !ended; ++c) {
        ended = expected(r, c) == options.end;
        if (!ended) tokens.push_back(static_cast<std::int32_t>(expected(r, c)));
      }
      CHECK(h.tokens == tokens);
      CHECK(h.ended == ended);
      if (!scores.empty()) CHECK(std::abs(h.score - scores[static_cast<std::size_t>(r)]) < 1e-9);
    }
  };
  SearchOptions options;
  options.begin = 0, options.end = 1, options.max_length = 12;
  compare("greedy", options);
  options.no_repeat_ngram = 2;
  options.min_length = 6;
  if (has_ngram_run) compare("greedy_norep2", options);
  options.no_repeat_ngram = options.min_length = 0;
  options.beams = options.nbest = 4;
  compare("beam4", options);
  options.nbest = 2;
  options.length_penalty = 2;
  options.stopping = Stopping::first_found;
  compare("beam4_lp2_early", options);
}

TEST_CASE("T5: greedy, no bigram twice, four beams, early stopping") { check_model<Dense>("t5_relu_a", 3, 2, true); }
TEST_CASE("Switch Transformer: greedy, four beams, early stopping") { check_model<Switch>("switch_a", 4, 4, false); }

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// test_hf_generation.cpp -- generation_config.json: every key is obeyed, has no effect for a reason, or is refused by
// name with the file. Read next: docs/decoding.md.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "sparsemoe/hf/generation_config.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
using hf::GenerationConfig;

/// A directory with a config.json of 64 ids, and generation_config.json unless `text` is empty.
struct Directory {
  ScratchDirectory scratch;
  std::filesystem::path path = scratch.path;
  explicit Directory(const std::string& text, const std::string& config = R"({"vocab_size": 64})") {
    std::ofstream(path / "config.json") << config;
    if (!text.empty()) std::ofstream(path / "generation_config.json") << text;
  }
  GenerationConfig read() const { return GenerationConfig::of(hf::Config(path)); }
};
GenerationConfig of(const std::string& text) { return Directory(text).read(); }
void refuses(const std::string& text, const std::string& what) {
  CAPTURE(text);
  std::string said;
  try {
    of(text);
  } catch (const Error& e) {
    said = e.what();
  }
  CHECK(said.find("generation_config.json: ") != std::string::npos);
  CHECK_MESSAGE(said.find(what) != std::string::npos, said);
}

TEST_CASE("what transformers obeys is read") {
  const GenerationConfig g = of(R"({"num_beams": 4, "num_return_sequences": 2, "early_stopping": "never",
    "length_penalty": 0.6, "no_repeat_ngram_size": 3, "max_new_tokens": 7, "max_length": 9, "min_length": 3,
    "min_new_tokens": 2, "repetition_penalty": 1.5, "encoder_repetition_penalty": 1.2,
    "encoder_no_repeat_ngram_size": 4, "suppress_tokens": [5, 6], "begin_suppress_tokens": [7],
    "forced_eos_token_id": 1, "eos_token_id": [1, 2], "bad_words_ids": [[8], [9, 10], [2]],
    "sequence_bias": [[[3, 4], 2.5]], "exponential_decay_length_penalty": [5, 1.1], "remove_invalid_values": true,
    "renormalize_logits": true, "do_sample": false})");
  CHECK(g.beams == 4);
  CHECK(g.outputs == 2);
  CHECK(g.stopping == Stopping::none_can);
  CHECK(g.length_penalty == 0.6);
  CHECK(g.no_repeat_ngram == 3);
  CHECK(g.max_new_tokens == 7);
  CHECK(g.max_length == 9);
  CHECK(g.min_new_tokens == 2);
  using Ids = std::vector<std::int32_t>;
  const ScoreRules& r = g.rules;
  CHECK(r.min_total == 3);
  CHECK(r.repetition_penalty == 1.5);
  CHECK(r.source_penalty == 1.2);
  CHECK(r.source_ngram == 4);
  CHECK(r.suppressed == Ids{5, 6});
  CHECK(r.suppressed_first == Ids{7});
  CHECK(r.forced_last == Ids{1});
  REQUIRE(r.biases.size() == 3);  // an end is no bad word
  CHECK(r.biases[0].ids == Ids{3, 4});
  CHECK(r.biases[0].bias == 2.5);
  CHECK(r.biases[1].ids == Ids{8});
  CHECK(std::isinf(r.biases[2].bias));
  CHECK(r.decay_start == 5);
  CHECK(r.decay == 1.1);
  CHECK(r.remove_invalid);
  CHECK(r.renormalise);
  CHECK_FALSE(g.sampling);
}
TEST_CASE("of a sequence that has two biases the last counts, beside a bad word of the same ids") {
  const ScoreRules r =
      of(R"({"sequence_bias": [[[3, 4], 9.0], [[5], 1.0], [[3, 4], -2.5]], "bad_words_ids": [[5]]})").rules;
  REQUIRE(r.biases.size() == 3);
  CHECK(r.biases[0].ids == std::vector<std::int32_t>{3, 4});
  CHECK(r.biases[0].bias == -2.5);
  CHECK(r.biases[1].bias == 1.0);
  CHECK(std::isinf(r.biases[2].bias));
}
TEST_CASE("a file made from config.json gives way to keys of generation that config.json has") {
  const std::string made = R"({"_from_model_config": true, "num_beams": 2, "eos_token_id": 1})";
  const auto end_of = [](const Directory& d) { return hf::SpecialTokens::of(hf::Config(d.path)).end; };
  const Directory says(made, R"({"vocab_size": 64, "num_beams": 3, "max_length": 12, "eos_token_id": 5})");
  CHECK(says.read().beams == 3);
  CHECK(says.read().max_length == 12);
  CHECK(end_of(says) == 5);
  const Directory usual(made, R"({"vocab_size": 64, "num_beams": 1, "max_length": 20, "eos_token_id": 5})");
  CHECK(usual.read().beams == 2);
  CHECK(end_of(usual) == 1);
  const Directory own(R"({"_from_model_config": false, "num_beams": 2})", R"({"vocab_size": 64, "num_beams": 3})");
  CHECK(own.read().beams == 2);
  refuses(R"({"_from_model_config": 3})", "key \"_from_model_config\"");
}
TEST_CASE("null is absent, and what asks for nothing is taken") {
  std::string all = "{";
  for (const auto& k : hf::generation_keys())
    all += (all.size() > 1 ? ", \"" : "\"") + std::string(k.name) + "\": null";
  const GenerationConfig g = of(all + "}");
  CHECK(g.beams == 1);
  CHECK_FALSE(g.max_length.has_value());
  CHECK_FALSE(g.rules.reads_text());
  CHECK(of(R"({"num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": 1.0, "token_healing": false,
    "temperature": 0.7, "top_k": 5, "cache_implementation": "static", "suppress_tokens": [],
    "begin_suppress_tokens": []})")
            .rules.suppressed.empty());
}
TEST_CASE("what is not offered is refused by name") {
  const std::set<std::string> own = {"do_sample"};
  int refused = 0;
  for (const auto& k : hf::generation_keys()) {
    if (k.use != hf::KeyUse::refused || own.count(k.name) != 0) continue;
    ++refused;
    refuses("{\"" + std::string(k.name) + "\": 3}", "key \"" + std::string(k.name) + "\" is 3, which asks for ");
  }
  CHECK(refused > 10);
  const GenerationConfig g = of(R"({"do_sample": true, "temperature": 0.7})");
  CHECK(g.sampling);
  CHECK_THROWS_AS(g.require_search(), Error);
  refuses(R"({"num_beam": 4})", "key \"num_beam\" is none that generation knows of");
  refuses(R"({"cache_implementation": "quantized"})", "key \"cache_implementation\" is \"quantized\"");
}
TEST_CASE("values that make no sense are refused by name") {
  for (const char* text : {R"({"num_beams": 0})",
                           R"({"num_beams": 65})",
                           R"({"num_beams": "4"})",
                           R"({"early_stopping": 1})",
                           R"({"early_stopping": "always"})",
                           R"({"length_penalty": "1"})",
                           R"({"no_repeat_ngram_size": -1})",
                           R"({"max_new_tokens": 0})",
                           R"({"max_length": -1})",
                           R"({"min_length": -1})",
                           R"({"repetition_penalty": 0})",
                           R"({"repetition_penalty": -1.5})",
                           R"({"encoder_repetition_penalty": 0.0})",
                           R"({"suppress_tokens": [64]})",
                           R"({"suppress_tokens": [-1]})",
                           R"({"begin_suppress_tokens": "a"})",
                           R"({"bad_words_ids": []})",
                           R"({"bad_words_ids": [3]})",
                           R"({"bad_words_ids": [[]]})",
                           R"({"bad_words_ids": [[64]]})",
                           R"({"sequence_bias": [[[3]]]})",
                           R"({"sequence_bias": {"3": 1.0}})",
                           R"({"forced_eos_token_id": 64})",
                           R"({"exponential_decay_length_penalty": [5]})",
                           R"({"exponential_decay_length_penalty": [5, 0]})",
                           R"({"renormalize_logits": 1})",
                           R"({"num_return_sequences": 0})"}) {
    const std::string key = std::string(text).substr(2, std::string(text).find('"', 2) - 2);
    refuses(text, "key \"" + key);
  }
}
TEST_CASE("without the file config.json says it, and its other keys are not looked at") {
  const Directory legacy("", R"({"vocab_size": 64, "num_beams": 3, "max_length": 12, "d_model": 4})");
  CHECK(legacy.read().beams == 3);
  CHECK(legacy.read().max_length == 12);
  const Directory both(R"({"length_penalty": 2.0})", R"({"vocab_size": 64, "num_beams": 3})");
  CHECK(both.read().beams == 1);
  CHECK(both.read().length_penalty == 2.0);
}

}  // namespace

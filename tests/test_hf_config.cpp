// SPDX-License-Identifier: Apache-2.0
// test_hf_config.cpp -- what is read of a checkpoint's config.json and generation_config.json: every id and size is
// checked where it is read, and a sentence names file and key. No model is made. Read next:
// include/sparsemoe/hf/config.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <string>

#include "sparsemoe/hf/special_tokens.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
using doctest::Contains;

TEST_CASE("special tokens: several ends are kept, and each id is below the vocabulary") {
  ScratchDirectory scratch;
  const auto special = [&](const Json& config, const Json& generation) {
    write_json(scratch.path / "config.json", config);
    std::filesystem::remove(scratch.path / "generation_config.json");
    if (!generation.is_null()) write_json(scratch.path / "generation_config.json", generation);
    return hf::SpecialTokens::of(hf::Config(scratch.path));
  };
  const Json config = {{"vocab_size", 64}, {"eos_token_id", 1}, {"pad_token_id", 0}, {"decoder_start_token_id", 3}};

  hf::SpecialTokens t = special(config, nullptr);
  CHECK(t.begin == 3);
  CHECK(t.end == 1);
  CHECK(t.ends == std::vector<std::int32_t>{1});
  CHECK(t.padding == 0);
  CHECK(t.first == -1);

  t = special(config, {{"eos_token_id", {5, 63}}, {"pad_token_id", nullptr}, {"bos_token_id", 7}});
  CHECK(t.begin == 7);  // of the same file before decoder_start_token_id of the other
  CHECK(t.end == 5);
  CHECK(t.ends == std::vector<std::int32_t>{5, 63});
  CHECK(t.padding == 0);
  CHECK(special(config, Json::object()).ends.empty());  // as transformers: generation_config.json has no end

  for (const char* key :
       {"eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id"})
    for (const index_t id : {index_t{-1}, index_t{-5}, index_t{64}, index_t{1'000'000'000}, index_t{1} << 40}) {
      CAPTURE(key);
      CAPTURE(id);
      const std::string words =
          join("generation_config.json: key \"", key, "\" has the id ", id, ", expected one from 0");
      CHECK_THROWS_WITH_AS(special(config, {{key, id}}), Contains(words.c_str()), FileError);
    }
  CHECK_THROWS_WITH_AS(special(config, {{"eos_token_id", {1, 64}}}), Contains("has the id 64"), FileError);
  CHECK_THROWS_WITH_AS(special(config, {{"eos_token_id", Json::array()}}), Contains("\"eos_token_id\" is []"),
                       FileError);
  CHECK_THROWS_WITH_AS(special(config, {{"pad_token_id", {1, 2}}}), Contains("expected one id"), FileError);
  CHECK_THROWS_WITH_AS(special(config, {{"pad_token_id", 1.5}}), Contains("must be an integer"), FileError);
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// fuzz/tokenizer.cpp -- libFuzzer target: bytes as the files of a tokenizer, each up to a NUL: a text,
// tokenizer_config.json, added_tokens.json, special_tokens_map.json, tokenizer.json; what is left is spiece.model. An
// Error, or ids of the text within the vocabulary that turn into text again.
#include "examples/generation/tokenizer.hpp"

#include <cstdlib>

#include "memory_directory.hpp"
#include "sparsemoe/text/input.hpp"

namespace moe = sparsemoe;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const std::string text = moe::repair_utf8(fuzz::take(rest)).text;
  for (const char* name : {"tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "tokenizer.json"}) {
    const std::string_view bytes = fuzz::take(rest);
    if (bytes.empty())
      fuzz::remove(name);
    else
      fuzz::put(name, bytes);
  }
  if (rest.empty())
    fuzz::remove("spiece.model");
  else
    fuzz::put("spiece.model", rest);
  constexpr std::int32_t vocabulary = 400;
  for (const char* type : {"t5", "nllb-moe", "mixtral"}) {
    const moe::Json json = {{"model_type", type}, {"vocab_size", vocabulary}, {"eos_token_id", 1}};
    try {
      const generation::Tokenizer tokenizer(moe::hf::Config(json, fuzz::directory() / "config.json"));
      const generation::Ids ids = tokenizer.encode(text, 3);
      for (const std::int32_t id : ids)
        if (id < 0 || id >= vocabulary) std::abort();
      const std::string back = tokenizer.decode(ids);
      if (moe::find_invalid_utf8(back)) std::abort();
    } catch (const moe::Error&) {
    }
  }
  return 0;
}

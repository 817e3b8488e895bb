// SPDX-License-Identifier: Apache-2.0
// fuzz/json.cpp -- libFuzzer target: bytes as a JSON config. A FileError, or a document that survives a round trip; a
// config that is accepted is finite and comes back from its own JSON.
#include <cmath>
#include <cstdlib>

#include "sparsemoe/io/json_config.hpp"

namespace moe = sparsemoe;

namespace fuzz {

enum class Kind { one, two };
constexpr std::array<std::string_view, 2> field_names(Kind) { return {"one", "two"}; }

struct Inner {
  int layers = 6;
  std::uint8_t small = 3;
  template <class F>
  void visit(F&& f) {
    f("layers", layers, "");
    f("small", small, "");
  }
};

struct Config {
  Inner model;
  double rate = 1;
  float dropout = 0;
  bool flag = true;
  std::int64_t wide = 0;
  std::string name;
  Kind kind = Kind::one;
  std::vector<int> experts;
  std::vector<float> scales;
  template <class F>
  void visit(F&& f) {
    f("model", model, "");
    f("rate", rate, "");
    f("dropout", dropout, "");
    f("flag", flag, "");
    f("wide", wide, "");
    f("name", name, "");
    f("kind", kind, "");
    f("experts", experts, "");
    f("scales", scales, "");
  }
};

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const moe::Json json = moe::parse_json({reinterpret_cast<const char*>(data), size}, "input");
    if (moe::parse_json(moe::dump_json(json), "again") != json) std::abort();
    fuzz::Config config, back;
    moe::from_json(config, json, "input");
    if (!std::isfinite(config.rate) || !std::isfinite(config.dropout)) std::abort();
    moe::from_json(back, moe::to_json(config), "again");
    if (moe::to_json(back) != moe::to_json(config)) std::abort();
  } catch (const moe::FileError& error) {
    if (error.path() != "input") std::abort();
  }
  return 0;
}

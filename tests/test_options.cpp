// SPDX-License-Identifier: Apache-2.0
// test_options.cpp -- one field list, three uses: command line, JSON file, saved config.
// Main idea: every mistake a user can make is one sentence that names the option and, where possible, the cure.
// Read next: include/sparsemoe/io/json_config.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/io/options.hpp"

namespace app {

enum class Schedule { constant, cosine };
constexpr std::array<std::string_view, 2> field_names(Schedule) { return {"constant", "cosine"}; }

struct Model {
  int layers = 6;
  std::int64_t width = 512;
  template <class F>
  void visit(F&& f) {
    f("layers", layers, "number of layers");
    f("width", width, "model width");
  }
  void check() const { sparsemoe::require(layers >= 1, "layers must be at least 1, got ", layers); }
};

struct Config {
  Model model;
  double learning_rate = 1e-3;
  float dropout = 0.1f;
  bool bf16 = true;
  std::uint8_t small = 3;
  std::string name = "run";
  std::filesystem::path data = "data";
  Schedule schedule = Schedule::cosine;
  std::vector<int> experts{8, 16};
  template <class F>
  void visit(F&& f) {
    f("model", model, "");
    f("learning_rate", learning_rate, "peak learning rate");
    f("dropout", dropout, "dropout probability");
    f("bf16", bf16, "compute in bfloat16");
    f("small", small, "a small number");
    f("name", name, "name of the run");
    f("data", data, "folder of the corpus");
    f("schedule", schedule, "learning-rate schedule");
    f("experts", experts, "experts per sparse layer");
  }
  void check() const { sparsemoe::require(dropout >= 0 && dropout < 1, "dropout must be in [0, 1), got ", dropout); }
};

}  // namespace app

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;

std::string problem(const std::string& json) {
  app::Config config;
  const std::string before = to_json(config).dump();
  try {
    from_json(config, parse_json(json, "c.json"), "c.json");
  } catch (const FileError& error) {
    CHECK(to_json(config).dump() == before);  // all or nothing
    return error.what();
  }
  return "";
}

struct ConfigFile {
  fs::path path = fs::temp_directory_path() / ("sparsemoe-options-" + std::to_string(::getpid()) + ".json");
  explicit ConfigFile(const std::string& text) { atomic_write(path, text); }
  ~ConfigFile() { fs::remove(path); }
};

/// Exit status of the parser, or -1 to go on.
int run(app::Config& config, std::vector<std::string> words) {
  CLI::App cli("test");
  add_options(cli, config);
  std::vector<const char*> argv{"test"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_command_line(cli, static_cast<int>(argv.size()), argv.data(), config).value_or(-1);
}

TEST_CASE("a config survives the way to JSON and back") {
  app::Config config;
  config.model.layers = 3;
  config.learning_rate = 0.1;
  config.dropout = 0.3f;
  config.bf16 = false;
  config.small = 200;
  config.schedule = app::Schedule::constant;
  config.experts = {};
  config.data = "d/\u00f8";
  const Json json = to_json(config);
  app::Config back;
  from_json(back, parse_json(dump_json(json), "x"), "x");
  CHECK(to_json(back) == json);
  CHECK(back.dropout == 0.3f);
  CHECK(json["dropout"].dump() == "0.3");
  CHECK(json.begin().key() == "model");
  CHECK(json["schedule"] == "constant");
}

TEST_CASE("a mistake in a config file is one sentence") {
  CHECK(problem("{}").empty());
  CHECK(problem(R"({"dropout": 0})").empty());
  CHECK(problem(R"({"lerning_rate": 1})") == "c.json: unknown key \"lerning_rate\"; did you mean \"learning_rate\"?");
  CHECK(problem(R"({"learning-rate": 1})") == "c.json: unknown key \"learning-rate\"; did you mean \"learning_rate\"?");
  CHECK(problem(R"({"zzzzzzzz": 1})") == "c.json: unknown key \"zzzzzzzz\"");
  CHECK(problem(R"({"model": {"layer": 1}})") == "c.json: unknown key \"model.layer\"; did you mean \"layers\"?");
  CHECK(problem(R"({"model": {"layers": "six"}})") == "c.json: key \"model.layers\" must be an integer, got \"six\"");
  CHECK(problem(R"({"model": 3})") == "c.json: key \"model\" must be an object, got 3");
  CHECK(problem("[]") == "c.json: the config must be an object, got []");
  CHECK(problem(R"({"model": {"layers": 2.0}})") == "c.json: key \"model.layers\" must be an integer, got 2.0");
  CHECK(problem(R"({"model": {"layers": 4294967296}})").find("must be between -2147483648 and 2147483647") !=
        std::string::npos);
  CHECK(problem(R"({"small": 256})") == "c.json: key \"small\" must be between 0 and 255, got 256");
  CHECK(problem(R"({"small": -1})") == "c.json: key \"small\" must be between 0 and 255, got -1");
  CHECK(problem(R"({"bf16": 1})") == "c.json: key \"bf16\" must be true or false, got 1");
  CHECK(problem(R"({"learning_rate": null})") == "c.json: key \"learning_rate\" must be a number, got null");
  CHECK(problem(R"({"name": 1})") == "c.json: key \"name\" must be a string, got 1");
  CHECK(problem(R"({"schedule": "linear"})") ==
        "c.json: key \"schedule\" must be one of constant, cosine, got \"linear\"");
  CHECK(problem(R"({"experts": [1, "x"]})") == "c.json: key \"experts[1]\" must be an integer, got \"x\"");
  CHECK(problem(R"({"dropout": 2})") == "c.json: dropout must be in [0, 1), got 2");
  CHECK(problem(R"({"model": {"layers": 0}})") == "c.json: layers must be at least 1, got 0");
  CHECK(problem(R"({"dropout": 0, "dropout": 0.1})") == "c.json: duplicate key \"dropout\"");
  CHECK(problem("{\"name\": \"\xff\"}").find("not valid JSON") != std::string::npos);
  CHECK(problem("{\n  \"dropout\": 0,\n  \"name\" 1\n}") == "c.json: is not valid JSON near byte 28, line 3");
  CHECK(problem(std::string(100'000, '[')).find("nested") != std::string::npos);
  CHECK(problem(std::string("{}\0", 3)).find("NUL") != std::string::npos);
}

TEST_CASE("defaults yield to the config file, and that to the command line, in any order") {
  const ConfigFile file(R"({"learning_rate": 0.5, "bf16": false, "model": {"layers": 2}, "name": "from file"})");
  for (const bool config_first : {true, false}) {
    app::Config config;
    std::vector<std::string> words{"--learning-rate", "0.25", "--model-width=64", "--schedule", "constant"};
    words.insert(config_first ? words.begin() : words.end(), {"--config", file.path.string()});
    CHECK(run(config, words) == -1);
    CHECK(config.learning_rate == 0.25);
    CHECK(config.bf16 == false);
    CHECK(config.model.layers == 2);
    CHECK(config.model.width == 64);
    CHECK(config.name == "from file");
    CHECK(config.dropout == 0.1f);
    CHECK(config.schedule == app::Schedule::constant);
  }
}

TEST_CASE("flags, lists, paths and small integers parse") {
  app::Config config;
  CHECK(run(config, {"--no-bf16", "--experts", "1", "2", "3", "--data", "a b", "--name", "x"}) == -1);
  CHECK(config.bf16 == false);
  CHECK(config.experts == std::vector<int>{1, 2, 3});
  CHECK(config.data == "a b");
  CHECK(run(config, {"--bf16"}) == -1);
  CHECK(config.bf16 == true);
  CHECK(run(config, {"--small", "200"}) == -1);
  CHECK(config.small == 200);
}

TEST_CASE("usage errors leave with status 64, help with 0") {
  app::Config config;
  CHECK(run(config, {"--lerning-rate", "1"}) == 64);
  CHECK(run(config, {"--learning-rate", "fast"}) == 64);
  CHECK(run(config, {"--schedule", "linear"}) == 64);
  CHECK(run(config, {"--dropout", "1.5"}) == 64);
  CHECK(run(config, {"--model-layers", "0"}) == 64);
  CHECK(run(config, {"--small", "300"}) == 64);
  CHECK(run(config, {"--config", "/nonexistent.json"}) == 64);
  const ConfigFile file(R"({"nam": 1})");
  CHECK(run(config, {"--config", file.path.string()}) == 64);
  CHECK(run(config, {"--help"}) == 0);
}

}  // namespace

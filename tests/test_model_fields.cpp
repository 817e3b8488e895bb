// SPDX-License-Identifier: Apache-2.0
// test_model_fields.cpp -- the field list of a stack's configuration: JSON and back, names, and what a program picks.
// Read next: include/sparsemoe/model/stack_config.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>

#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/model/stack_config.hpp"

namespace {

using namespace sparsemoe;

std::string problem(const char* json) {
  try {
    StackConfig config;
    from_json(config, parse_json(json, "c.json"), "c.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("a stack's configuration survives the way to JSON and back") {
  StackConfig config;
  config.layers = 7, config.kv_heads = 2, config.dropout = 0.25, config.bias = false;
  config.rotary.frequencies = {1, 0.5};
  config.moe.experts = 12, config.moe.free.nulls = 3, config.moe.shared_hidden = 9, config.moe.z_coefficient = 0.5;
  config.moe.priority = Priority::score, config.moe.rounding = CapacityRounding::ceil;
  config.moe.balance_scope = LossScope::sequence;
  config.hidden_of_layer = {4, 8};
  const Json json = to_json(config);
  StackConfig back;
  from_json(back, json, "c.json");
  CHECK(to_json(back) == json);
  CHECK(back.moe.free.nulls == 3);
  CHECK(back.moe.priority == Priority::score);
  CHECK(back.moe.balance_scope == LossScope::sequence);
  CHECK(back.moe.rounding == CapacityRounding::ceil);
  CHECK(back.rotary.frequencies.size() == 2);
  CHECK(json["balance_loss"] == config.moe.balance_coefficient);
  CHECK(json["rounding"] == "ceil");
}

TEST_CASE("no two fields have one name, and every field is one of its own") {
  StackConfig config;
  std::set<std::string> names;
  std::set<const void*> places;
  config.visit([&](const char* name, auto& field, const char* help) {
    CHECK_MESSAGE(names.insert(name).second, name);
    CHECK_MESSAGE(places.insert(&field).second, name);
    CHECK_MESSAGE(std::string(help).size() > 3, name);
  });
  CHECK(names.size() == 49);
}

TEST_CASE("mistakes name the field") {
  CHECK(problem("{}") == "");
  CHECK(problem(R"({"expert": 4})") == "c.json: unknown key \"expert\"; did you mean \"experts\"?");
  CHECK(problem(R"({"experts": "many"})") == "c.json: key \"experts\" must be an integer, got \"many\"");
  CHECK(problem(R"({"priority": "first"})") ==
        "c.json: key \"priority\" must be one of position, random, batch, score, got \"first\"");
  CHECK(problem(R"({"rotary": {"limit": 0.5}})") == "c.json: key \"rotary.limit\" must be an integer, got 0.5");
}

TEST_CASE("a program shows some fields, in its own order") {
  StackConfig config;
  std::string shown;
  visit_fields(config, {"experts", "width", "balance_loss"}, [&](const char* name, auto& field, const char*) {
    shown += std::string(name) + " ";
    if constexpr (std::is_same_v<decltype(field), double&>) field = 0.75;
  });
  CHECK(shown == "experts width balance_loss ");
  CHECK(config.moe.balance_coefficient == 0.75);
  CHECK_THROWS_WITH_AS(visit_fields(config, {"wdith"}, [](auto&&...) {}), "config: there is no field 'wdith'", Error);
}

}  // namespace

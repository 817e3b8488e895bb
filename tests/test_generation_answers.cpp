// SPDX-License-Identifier: Apache-2.0
// test_generation_answers.cpp -- requests and answers of examples/generation/answers.hpp: rows that can be counted.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <string>

#include "examples/generation/answers.hpp"
#include "sparsemoe/error.hpp"

namespace {
using namespace generation;
using sparsemoe::Error;

Request json(const std::string& row) { return read_request(row, RowFormat::json, BadBytes::refused, "input:7"); }

TEST_CASE("white space of any kind is an empty line") {
  for (const char* text : {"", " ", "\t \v\f", "\u00A0", "\u3000\u2003", "\u200B\u200D", "\uFEFF", "\u2060 \u200E"}) {
    CHECK(sparsemoe::is_blank(text));
    CHECK(Request{text, {}}.empty());
  }
  for (const char* text : {"a", " . ", "\u00A0\u00E9", "\xFF", "\u0301"}) CHECK_FALSE(sparsemoe::is_blank(text));
}
TEST_CASE("bytes that are no UTF-8 become U+FFFD, as Python's errors=replace") {
  const auto repaired = [](std::string_view text, std::size_t replaced) {
    const auto out = sparsemoe::repair_utf8(text);
    CHECK(out.replaced == replaced);
    CHECK_FALSE(sparsemoe::find_invalid_utf8(out.text).has_value());
    return out.text;
  };
  CHECK(repaired("caf\u00E9", 0) == "caf\u00E9");
  CHECK(repaired("caf\xE9 au", 1) == "caf\uFFFD au");
  CHECK(repaired("\xF0\x9F\x98", 1) == "\uFFFD");              // a cut character is one
  CHECK(repaired("\xE0\x80\x80", 3) == "\uFFFD\uFFFD\uFFFD");  // an overlong form is none at all
  CHECK(repaired("\xED\xA0\x80", 3) == "\uFFFD\uFFFD\uFFFD");  // nor is a surrogate
  CHECK(repaired("\xF4\x90\x80\x80", 4) == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(repaired("\xC3(", 1) == "\uFFFD(");
  CHECK(repaired("\xE2\x82 \x80", 2) == "\uFFFD \uFFFD");
  CHECK(utf8_line("a\xFF", BadBytes::replaced, "input:7") == "a\uFFFD");
  CHECK_THROWS_WITH_AS(utf8_line("a\xFF", BadBytes::refused, "input:7"), "input:7: not valid UTF-8 at byte 1", Error);
}
TEST_CASE("a row of JSON is a text with line breaks, or ids") {
  CHECK(json(R"({"text": "a\nb"})").text == "a\nb");
  CHECK(json(R"({"source": "c", "line": 4, "outputs": []})").text == "c");
  CHECK(json(R"({"ids": [3, 4]})").ids == std::vector<std::int32_t>{3, 4});
  CHECK(json(R"({"ids": []})").empty());
  CHECK(json("\xEF\xBB\xBF{\"text\": \"a\"}").text == "a");
  CHECK(json("  ").empty());
  CHECK_THROWS_WITH_AS(json("{\"text\": "), "input:7: is not valid JSON near byte 10, line 1", Error);
  CHECK_THROWS_WITH_AS(json("[1]"), "input:7: must be an object with \"text\", \"source\" or \"ids\"", Error);
  CHECK_THROWS_WITH_AS(json(R"({"txt": "a"})"), "input:7: must have one of \"text\", \"source\" and \"ids\"; it has 0",
                       Error);
  CHECK_THROWS_WITH_AS(json(R"({"text": "a", "ids": [1]})"),
                       "input:7: must have one of \"text\", \"source\" and \"ids\"; it has 2", Error);
  CHECK_THROWS_WITH_AS(json(R"({"text": 3})"), "input:7: key \"text\" must be a string, got 3", Error);
  CHECK_THROWS_AS(json(R"({"ids": [1.5]})"), Error);
  CHECK_THROWS_AS(json(R"({"ids": [4294967296]})"), Error);
}
TEST_CASE("one row for each answer, whatever its text") {
  const std::vector<Answer> answers = {{"a\nb\tc\r", -0.5, true}, {"C:\\d", -1, false}};
  CHECK(answer_rows({RowFormat::text, false}, 3, "x", answers) == "a\\nb\tc\\r\nC:\\d\n");
  CHECK(answer_rows({RowFormat::text, true}, 3, "x", answers) == "3\t-0.5\ta\\nb\\tc\\r\n3\t-1\tC:\\d\n");
  CHECK(answer_rows({RowFormat::json, false}, 3, "x\ny", answers) ==
        R"({"line":3,"source":"x\ny","outputs":[{"text":"a\nb\tc\r","score":-0.5,"ended":true},)"
        R"({"text":"C:\\d","score":-1.0,"ended":false}]})"
        "\n");
}
}  // namespace

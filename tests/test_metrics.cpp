// SPDX-License-Identifier: Apache-2.0
// BLEU and chrF against numbers of the real sacreBLEU, and the UTF-8 reader against malformed bytes.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sparsemoe/text/bleu.hpp"
#include "sparsemoe/text/chrf.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace sm = sparsemoe;

namespace {
using Lines = std::vector<std::string>;

nlohmann::json read_cases() {
  std::ifstream in(std::string(SPARSEMOE_TEST_DATA) + "/sacrebleu_cases.json");
  REQUIRE(in);
  return nlohmann::json::parse(in);
}

bool close(double a, double b) { return std::abs(a - b) <= 1e-9; }
}  // namespace

TEST_CASE("BLEU equals sacreBLEU to 1e-9") {
  const auto data = read_cases();
  REQUIRE(data["cases"].size() >= 40);
  for (const auto& c : data["cases"]) {
    CAPTURE(c["name"].get<std::string>());
    CAPTURE(c["tokenizer"].get<std::string>());
    const auto got = sm::corpus_bleu(c["hypotheses"].get<Lines>(), c["references"].get<Lines>(),
                                     sm::bleu_tokenizer_named(c["tokenizer"].get<std::string>()));
    CHECK(got.hypothesis_length == c["hypothesis_length"].get<std::size_t>());
    CHECK(got.reference_length == c["reference_length"].get<std::size_t>());
    CHECK(close(got.score, c["bleu"]));
    CHECK(close(got.brevity_penalty, c["brevity_penalty"]));
    for (std::size_t n = 0; n < 4; ++n) CHECK(close(got.precisions[n], c["precisions"][n]));
  }
}

TEST_CASE("chrF and chrF++ equal sacreBLEU to 1e-9") {
  const auto all = read_cases();
  for (const auto& c : all["cases"]) {
    CAPTURE(c["name"].get<std::string>());
    const auto hyps = c["hypotheses"].get<Lines>(), refs = c["references"].get<Lines>();
    CHECK(close(sm::corpus_chrf(hyps, refs).score, c["chrf"]));
    CHECK(close(sm::corpus_chrf(hyps, refs, sm::ChrfKind::chrf2_plus_plus).score, c["chrf_plus_plus"]));
  }
}

TEST_CASE("the comparison can fail: another tokenizer or another text gives another number") {
  const Lines hyp{"A well-known plan, really."}, ref{"A well-known plan really."};
  CHECK_FALSE(close(sm::corpus_bleu(hyp, ref, sm::BleuTokenizer::mteval13a).score,
                    sm::corpus_bleu(hyp, ref, sm::BleuTokenizer::none).score));
  CHECK_FALSE(close(sm::corpus_chrf(hyp, ref).score, sm::corpus_chrf(ref, ref).score));
}

TEST_CASE("signatures name everything that changes the number") {
  CHECK(sm::bleu_signature(sm::BleuTokenizer::mteval13a) ==
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:sparsemoe-" SPARSEMOE_VERSION);
  CHECK(sm::chrf_signature(sm::ChrfKind::chrf2_plus_plus) ==
        "nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:sparsemoe-" SPARSEMOE_VERSION);
}

TEST_CASE("Chinese is scored with zh, Japanese by characters, everything else with 13a") {
  CHECK(sm::bleu_tokenizer_for("zh_CN") == sm::BleuTokenizer::zh);
  CHECK(sm::bleu_tokenizer_for("zh-TW") == sm::BleuTokenizer::zh);
  CHECK(sm::bleu_tokenizer_for("ja") == sm::BleuTokenizer::characters);
  CHECK(sm::bleu_tokenizer_for("ko") == sm::BleuTokenizer::mteval13a);
  CHECK(sm::bleu_tokenizer_for("pt_BR") == sm::BleuTokenizer::mteval13a);
}

TEST_CASE("unequal or empty lists, unknown names and malformed text are refused") {
  CHECK_THROWS_WITH_AS(sm::corpus_bleu({"a"}, {}), "BLEU: 1 hypotheses for 0 references", sm::Error);
  CHECK_THROWS_AS(sm::corpus_bleu({}, {}), sm::Error);
  CHECK_THROWS_AS(sm::corpus_chrf({"a"}, {"a", "b"}), sm::Error);
  CHECK_THROWS_AS(sm::corpus_chrf({}, {}), sm::Error);
  CHECK_THROWS_AS(sm::bleu_tokenizer_named("intl"), sm::Error);
  CHECK_THROWS_WITH_AS(sm::corpus_bleu({"ab\xff"}, {"a"}), "text: not valid UTF-8 at byte 2", sm::Error);
}

TEST_CASE("malformed UTF-8 is reported at its byte") {
  struct Case {
    std::string text;
    std::size_t at;
  };
  const std::vector<Case> bad = {
      {"a\x80", 1},             // continuation without a lead
      {"\xC0\xAF", 0},          // overlong '/'
      {"ok\xE0\x80\xAF", 2},    // overlong in three bytes
      {"\xF0\x80\x80\xAF", 0},  // overlong in four
      {"x\xED\xA0\x80", 1},     // surrogate
      {"\xF4\x90\x80\x80", 0},  // U+110000
      {"\xF8\x88\x80\x80\x80", 0},
      {"\xC3\xA9\xC3", 2},  // cut off
      {"\xE2\x82", 0},
      {"\xE2\x28\xA1", 0},
  };
  for (const auto& c : bad) {
    CAPTURE(c.at);
    const auto found = sm::find_invalid_utf8(c.text);
    REQUIRE(found.has_value());
    CHECK(*found == c.at);
    CHECK_THROWS_AS(sm::decode_utf8(c.text), sm::Error);
  }
  CHECK_THROWS_WITH_AS(sm::require_utf8("a\x80", "notes.txt:3"), "notes.txt:3: not valid UTF-8 at byte 1", sm::Error);
}

TEST_CASE("every scalar value survives encode and decode") {
  std::u32string all;
  for (char32_t c = 0; c <= 0x10FFFF; ++c)
    if (c < 0xD800 || c > 0xDFFF) all.push_back(c);
  const std::string bytes = sm::encode_utf8(all);
  CHECK_FALSE(sm::find_invalid_utf8(bytes).has_value());
  CHECK(sm::decode_utf8(bytes) == all);
  CHECK_THROWS_AS(sm::encode_utf8(std::u32string(1, char32_t{0xD800})), sm::Error);
  CHECK_THROWS_AS(sm::encode_utf8(std::u32string(1, char32_t{0x110000})), sm::Error);
}

TEST_CASE("words are split where Python splits them") {
  CHECK(sm::split_words(U" a\u00a0b\u3000c\u200bd\u2028e\x1c") ==
        std::vector<std::u32string_view>{U"a", U"b", U"c\u200bd", U"e"});
  CHECK(sm::strip(U"\u0085 x \u205f") == U"x");
  CHECK(sm::split_words(U"").empty());
}

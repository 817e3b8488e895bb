// SPDX-License-Identifier: Apache-2.0
// test_generation_tokenizer.cpp -- text to the ids of T5, NLLB, M2M-100, Mixtral and ByT5 checkpoints and back, by
// small SentencePiece models trained here: special tokens in text, sentinels, shifted ids, languages, and files that
// are wrong. What transformers itself gives is in test_generation_tokenizer_goldens.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sentencepiece_trainer.h>
#include <utf8proc.h>

#include <fstream>

#include "examples/generation/tokenizer.hpp"
#include "sparsemoe/io/directory.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace generation;

/// A directory of a checkpoint with a tokenizer of 34 pieces. Its ids: "--pad_id=0 ...".
void make_directory(const fs::path& directory, const std::string& type, const std::string& file,
                    const std::string& ids) {
  std::ofstream text(directory / "text");
  for (int i = 0; i < 50; ++i) text << "the small house is red\nthe old mouse is near the house\n";
  text.close();
  REQUIRE(sentencepiece::SentencePieceTrainer::Train(
              "--minloglevel=2 --vocab_size=34 --hard_vocab_limit=false --input=" + (directory / "text").string() +
              " --model_prefix=" + (directory / "m").string() + " " + ids)
              .ok());
  fs::rename(directory / "m.model", directory / file);
  moe::write_json(directory / "config.json", {{"model_type", type}});
}
/// The library's own view of the model.
struct Library : sentencepiece::SentencePieceProcessor {
  explicit Library(const fs::path& file) { REQUIRE(Load(file.string()).ok()); }
};
Tokenizer open(const fs::path& directory) { return Tokenizer{moe::hf::Config(directory)}; }

const std::string t5_ids = "--pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1";

TEST_CASE("T5: an end, and sentinels that count down from the end of the vocabulary") {
  ScratchDirectory d;
  make_directory(d.path, "t5", "spiece.model", t5_ids);
  const Tokenizer t = open(d.path);
  const Ids plain = t.encode("the red house", 0);
  REQUIRE(plain.size() > 2);
  CHECK(plain.back() == 1);
  CHECK(t.decode(plain) == "the red house");
  const Library own(d.path / "spiece.model");
  CHECK(Ids(plain.begin(), plain.end() - 1) == own.EncodeAsIds("the red house"));
  const Ids hidden = t.encode("the <extra_id_0> house <extra_id_1>", 0);
  const int last = own.GetPieceSize() + 99;
  CHECK(std::count(hidden.begin(), hidden.end(), last) == 1);
  CHECK(std::count(hidden.begin(), hidden.end(), last - 1) == 1);
  CHECK(hidden[hidden.size() - 2] == last - 1);
  CHECK(t.decode(hidden) == "the <extra_id_0> house <extra_id_1>");
  CHECK_FALSE(t.multilingual());
}

TEST_CASE("T5: special tokens in a text are one token each, and one end is enough") {
  ScratchDirectory d;
  make_directory(d.path, "t5", "spiece.model", t5_ids);
  const Tokenizer t = open(d.path);
  const Ids the = t.encode("the", 0);
  Ids expected(the.begin(), the.end());
  expected.insert(expected.end(), {0, 2});
  expected.insert(expected.end(), the.begin(), the.end());
  CHECK(t.encode("the</s><pad><unk>the", 0) == expected);
  CHECK(t.encode("</s>", 0) == Ids{1});
  CHECK(t.decode(expected) == "the the");
}

TEST_CASE("ids are those of the files, not counted") {
  ScratchDirectory d;
  make_directory(d.path, "t5", "spiece.model", t5_ids);
  moe::write_json(d.path / "added_tokens.json", {{"<extra_id_0>", 90}, {"[X]", 95}});
  const Tokenizer t = open(d.path);
  CHECK(t.encode("[X]", 0) == Ids{95, 1});
  CHECK(t.encode("<extra_id_0>", 0) == Ids{90, 1});
  moe::write_json(d.path / "tokenizer_config.json",  // then added_tokens.json does not count
                  {{"added_tokens_decoder",
                    {{"77", {{"content", "[Y]"}, {"lstrip", true}, {"rstrip", false}, {"special", false}}}}},
                   {"extra_ids", 0}});
  const Tokenizer other = open(d.path);
  Ids the = other.encode("the", 0);
  the.back() = 77;  // in place of the end
  Ids expected = the;
  expected.push_back(1);
  CHECK(other.encode("the  [Y]", 0) == expected);
  CHECK(other.encode("[X]", 0) != Ids{95, 1});
  expected = the;
  expected.insert(expected.end(), the.begin(), the.end());
  CHECK(other.decode(expected) == "the [Y] the [Y]");
}

TEST_CASE("mT5: a model that has the sentinels as pieces gets none") {
  ScratchDirectory d;
  make_directory(d.path, "mt5", "spiece.model", t5_ids + " --user_defined_symbols=\xE2\x96\x81<extra_id_0>");
  const Library own(d.path / "spiece.model");
  const Ids ids = open(d.path).encode("the <extra_id_0> house", 0);
  CHECK(std::count(ids.begin(), ids.end(), own.PieceToId("\xE2\x96\x81<extra_id_0>")) == 1);
}

TEST_CASE("NLLB: ids one later than SentencePiece's, the mask and the languages behind them") {
  ScratchDirectory d;
  make_directory(d.path, "nllb-moe", "sentencepiece.bpe.model", "");
  const Library own(d.path / "sentencepiece.bpe.model");
  CHECK(open(d.path).languages().size() == 202);
  moe::write_json(d.path / "special_tokens_map.json",
                  {{"additional_special_tokens", {"ace_Arab", {{"content", "eng_Latn"}}, "fra_Latn"}}});
  const Tokenizer t = open(d.path);
  const std::int32_t english = t.language("eng_Latn", "--from");
  CHECK(english == own.GetPieceSize() + 3);
  CHECK_THROWS_WITH_AS(t.language("xx", "--to"),
                       doctest::Contains("--to: the checkpoint does not know the language 'xx'"), moe::Error);
  const Ids ids = t.encode("the house", english);
  CHECK(ids.front() == english);
  CHECK(ids.back() == 2);
  const std::vector<int> pieces = own.EncodeAsIds("the house");
  REQUIRE(ids.size() == pieces.size() + 2);
  for (std::size_t i = 0; i < pieces.size(); ++i) CHECK(ids[i + 1] == pieces[i] + 1);
  CHECK(t.decode(ids) == "the house");
  CHECK(t.encode("the <mask>", english)[ids.size() - 2] == own.GetPieceSize() + 1);
  moe::write_json(d.path / "tokenizer_config.json", {{"legacy_behaviour", true}});
  const Ids legacy = open(d.path).encode("the house", english);
  CHECK(legacy[legacy.size() - 2] == 2);
  CHECK(legacy.back() == english);
  moe::write_json(d.path / "added_tokens.json", {{"<mask>", 60}, {"eng_Latn", 61}, {"xyz_Latn", 62}});
  CHECK(open(d.path).language("xyz_Latn", "--to") == 62);
  CHECK(open(d.path).language("eng_Latn", "--to") == 61);
}

TEST_CASE("M2M-100: ids of vocab.json, languages as __en__ behind them") {
  ScratchDirectory d;
  make_directory(d.path, "m2m_100", "sentencepiece.bpe.model", "");
  const Library own(d.path / "sentencepiece.bpe.model");
  moe::Json vocabulary = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
  for (int i = own.GetPieceSize() - 1; i > 2; --i) vocabulary[own.IdToPiece(i)] = vocabulary.size();
  moe::write_json(d.path / "vocab.json", vocabulary);
  const Tokenizer t = open(d.path);
  const std::int32_t english = t.language("en", "--from");
  CHECK(english == static_cast<std::int32_t>(vocabulary.size()) + 18);  // af, am, ar, ast, ...
  const Ids ids = t.encode("the house", english);
  const std::vector<std::string> pieces = own.EncodeAsPieces("the house");
  REQUIRE(ids.size() == pieces.size() + 2);
  CHECK(ids.front() == english);
  for (std::size_t i = 0; i < pieces.size(); ++i) CHECK(ids[i + 1] == vocabulary[pieces[i]]);
  CHECK(ids.back() == 2);
  CHECK(t.decode(ids) == "the house");
  vocabulary["the"] = 4;  // a second piece of that id
  moe::write_json(d.path / "vocab.json", vocabulary);
  CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains("must be 0, 1, ..., each once"), moe::FileError);
}

TEST_CASE("Mixtral: a begin in front, no end, unless tokenizer_config.json says so") {
  ScratchDirectory d;
  make_directory(d.path, "mixtral", "tokenizer.model", "");
  const Tokenizer t = open(d.path);
  const Ids ids = t.encode("the mouse", 0);
  CHECK(ids.front() == 1);
  CHECK(ids.back() != 2);
  CHECK(t.decode(ids) == "the mouse");
  CHECK(std::count(ids.begin(), ids.end(), 2) == 0);
  const Ids turns = t.encode("the mouse</s>the mouse", 0);
  CHECK(turns.size() == 2 * ids.size());
  CHECK(turns[ids.size()] == 2);
  moe::write_json(d.path / "tokenizer_config.json", {{"add_bos_token", false}, {"add_eos_token", true}});
  const Ids ended = open(d.path).encode("the mouse", 0);
  CHECK(ended.front() != 1);
  CHECK(ended.back() == 2);
}

TEST_CASE("ByT5: bytes and 125 sentinels, no file") {
  ScratchDirectory d;
  moe::write_json(d.path / "config.json", {{"model_type", "t5"}, {"tokenizer_class", "ByT5Tokenizer"}});
  const Tokenizer t = open(d.path);
  CHECK(t.encode("a\xC3\xA9", 0) == Ids{100, 198, 172, 1});
  CHECK(t.encode("a <extra_id_0> b </s>", 0) == Ids{100, 35, 259, 35, 101, 1});
  CHECK(t.encode("<extra_id_124>", 0) == Ids{383, 1});
  CHECK(t.decode({100, 198, 172, 198, 101, 1, 0}) ==
        "a\xC3\xA9"
        "b");
}

TEST_CASE("a directory without a tokenizer says what it wants; hostile models are refused") {
  ScratchDirectory d;
  moe::write_json(d.path / "config.json", {{"model_type", "t5"}});
  CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains("has no tokenizer.json, spiece.model"), moe::FileError);
  const auto refused = [&](const std::string& bytes, const char* sentence) {
    moe::atomic_write(d.path / "spiece.model", bytes);
    CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains(sentence), moe::FileError);
  };
  refused("no model", "not a SentencePiece model");
  refused("", "not a SentencePiece model");
  refused(std::string("\x0A\x7F", 2), "not a SentencePiece model");
  refused(std::string("\x0A\x05\x0A\x03"
                      "a\0b",
                      7),
          "piece 1 is not a text");
  refused(std::string("\x0A\x08\x0A\x01"
                      "a\x15\x00\x00\xC0\x7F",
                      10),
          "piece 1 has a score that is not finite");
  refused(std::string("\x0A\x03\x0A\x01"
                      "a\x1A\x04\x12\x02\xFF\xFF",
                      11),
          "its precompiled_charsmap is damaged");
  std::string map(1024, '\0');  // every byte leads to a block beyond the end
  for (std::size_t i = 0; i < 256; ++i) map.replace(4 * i, 4, std::string{static_cast<char>(i), 4, 4, 0});
  const std::string charsmap = std::string("\0\4\0\0", 4) + map + std::string(1, '\0');
  refused(std::string("\x0A\x03\x0A\x01"
                      "a\x1A\x88\x08\x12\x85\x08",
                      11) +
              charsmap,
          "charsmap is damaged");
}

TEST_CASE("ids and texts are those of transformers 4.57 and 5.24") {
  std::size_t directories = 0, rows = 0;
  for (const auto& entry : moe::list_directory(fs::path(SPARSEMOE_TEST_DATA) / "tokenizers")) {
    const moe::Json golden = moe::read_json(entry.path() / "golden.json");
    const Tokenizer t = open(entry.path());
    const auto language = golden["language"].get<std::string>();
    const std::int32_t from = language.empty() ? 0 : t.language(language, "--from");
    CAPTURE(entry.path().string());
    for (const auto& row : golden["encode"]) {
      CAPTURE(row[0].get<std::string>());
      CHECK(t.encode(row[0].get<std::string>(), from) == row[1].get<Ids>());
      ++rows;
    }
    for (const auto& row : golden["decode"]) {
      CAPTURE(row[0].dump());
      CHECK(t.decode(row[0].get<Ids>()) == row[1].get<std::string>());
    }
    ++directories;
  }
  CHECK(directories >= 10);
  CHECK(rows >= 60 * directories);
}

TEST_CASE("tokenizer.json: what is not offered is named with its place, and what is wrong is one sentence") {
  ScratchDirectory d;
  moe::write_json(d.path / "config.json", {{"model_type", "t5"}});
  const moe::Json unigram = {
      {"type", "Unigram"}, {"unk_id", 0}, {"vocab", {{"<unk>", 0.0}, {"</s>", 0.0}, {"a", -1.0}}}};
  const moe::Json bpe = {
      {"type", "BPE"}, {"vocab", {{"<unk>", 0}, {"</s>", 1}, {"a", 2}, {"aa", 3}}}, {"merges", {"a a"}}};
  const auto refused = [&](const moe::Json& json, const char* sentence) {
    moe::write_json(d.path / "tokenizer.json", json);
    CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains(sentence), moe::FileError);
  };
  const auto with = [](moe::Json json, const char* key, const moe::Json& value) {
    json[key] = value;
    return json;
  };
  moe::write_json(d.path / "tokenizer.json", {{"model", unigram}});
  CHECK(open(d.path).encode("aab", 0) == Ids{2, 2, 0});
  moe::write_json(d.path / "tokenizer.json", {{"model", bpe}});
  CHECK(open(d.path).encode("aaab", 0) == Ids{3, 2});
  refused({{"model", {{"type", "WordPiece"}, {"vocab", moe::Json::object()}}}},
          "tokenizer.json: \"model\" is of type \"WordPiece\", which is not offered; Unigram and BPE are");
  refused({{"model", unigram}, {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Nmt"}}}}}}},
          "\"normalizer.normalizers[0]\" is of type \"Nmt\"");
  refused({{"model", unigram}, {"pre_tokenizer", {{"type", "ByteLevel"}}}},
          "\"pre_tokenizer\" is of type \"ByteLevel\"");
  refused({{"model", unigram}, {"decoder", {{"type", "WordPiece"}}}}, "\"decoder\" is of type \"WordPiece\"");
  refused({{"model", unigram}, {"post_processor", {{"type", "RobertaProcessing"}}}}, "\"post_processor\" is of type");
  refused(
      {{"model", unigram}, {"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "[ab]"}}}, {"content", ""}}}},
      "has the pattern \"[ab]\"");
  refused({{"model", unigram}, {"colour", 1}}, "has an unknown key \"colour\"");
  refused({{"model", with(unigram, "colour", 1)}}, "\"model\" (Unigram) has an unknown key \"colour\"");
  refused({{"model", with(unigram, "unk_id", 3)}}, "key \"unk_id\" must be an integer from 0 to 2, got 3");
  refused({{"model", with(unigram, "vocab", {{"a", "b"}})}},
          "has an entry in \"model.vocab\" that is not a piece with one number");
  refused({{"model", with(bpe, "vocab", {{"a", 0}, {"b", 0}})}}, "has the id 0 twice");
  refused({{"model", with(bpe, "vocab", {{"a", 1e9}})}}, "has the id 1e+09, expected an integer from 0 to 2^24");
  refused({{"model", with(bpe, "merges", {"a b"})}}, "they and what they make must be pieces");
  refused({{"model", with(bpe, "merges", {"a"})}}, "has a merge that is not two pieces");
  refused({{"model", with(bpe, "dropout", 0.1)}}, "key \"dropout\" is not offered");
  refused({{"model", unigram}, {"added_tokens", {{{"content", "a"}, {"id", 7}}}}},
          "token \"a\" has the id 7, but it is piece 2");
  refused({{"model", unigram}, {"added_tokens", {{{"content", "x"}, {"id", 2}}}}},
          "token \"x\" has the id 2 of the piece \"a\"");
  refused({{"model", unigram}, {"added_tokens", {{{"content", "x"}, {"id", -2}}}}}, "must be an id from 0");
  refused({{"version", "1.0"}}, "has no \"model\"");
  moe::atomic_write(d.path / "tokenizer.json", R"({"model": {"vocab": {"a": 1})");
  CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains("is not valid JSON near byte"), moe::FileError);
  moe::atomic_write(d.path / "tokenizer.json", "[" + std::string(100, '[') + "]");
  CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains("is nested more than 16 deep"), moe::FileError);
  moe::write_json(d.path / "tokenizer_config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  fs::remove(d.path / "tokenizer.json");
  moe::atomic_write(d.path / "spiece.model", "x");
  CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains("has no tokenizer.json, which its tokenizer_class needs"),
                       moe::FileError);
}

TEST_CASE("tokenizer.json says what its tokens are, and what stands around a text") {
  ScratchDirectory d;
  const moe::Json unigram = {
      {"type", "Unigram"}, {"unk_id", 0}, {"vocab", {{"<unk>", 0.0}, {"</s>", 0.0}, {"a", -1.0}, {" ", -1.0}}}};
  const moe::Json tokens = {{{"content", "[X]"}, {"id", 4}, {"lstrip", true}, {"normalized", false}},
                            {{"content", "b"}, {"id", 5}, {"single_word", true}, {"normalized", true}}};
  const moe::Json end = {{"type", "TemplateProcessing"},
                         {"single", {{{"Sequence", {{"id", "A"}}}}, {{"SpecialToken", {{"id", "</s>"}}}}}},
                         {"pair", moe::Json::array()},
                         {"special_tokens", {{"</s>", {{"id", "</s>"}, {"ids", {1}}, {"tokens", {"</s>"}}}}}}};
  moe::Json file = {{"model", unigram}, {"added_tokens", tokens}, {"post_processor", end}};
  moe::write_json(d.path / "config.json", {{"model_type", "umt5"}});
  moe::write_json(d.path / "tokenizer.json", file);
  moe::write_json(d.path / "added_tokens.json", {{"[X]", 4}, {"b", 5}});  // names no properties
  CHECK(open(d.path).encode("a [X]a", 0) == Ids{2, 4, 2, 1});
  CHECK(open(d.path).encode("aba b", 0) == Ids{2, 0, 2, 3, 5, 1});
  moe::write_json(d.path / "tokenizer_config.json",
                  {{"added_tokens_decoder", {{"4", {{"content", "[X]"}, {"lstrip", false}}}}}});
  CHECK(open(d.path).encode("a [X]a", 0) == Ids{2, 3, 4, 2, 1});

  moe::write_json(d.path / "tokenizer_config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                                     {"add_bos_token", true},
                                                     {"add_eos_token", true},
                                                     {"eos_token", "</s>"}});
  CHECK(open(d.path).encode("a", 0) == Ids{2, 1});
  file["post_processor"] = nullptr;
  moe::write_json(d.path / "tokenizer.json", file);
  CHECK(open(d.path).encode("a", 0) == Ids{2});
  fs::remove(d.path / "tokenizer_config.json");
  CHECK(open(d.path).encode("a", 0) == Ids{2});
}

TEST_CASE("a token that is a single word and takes the space around it looks before it takes") {
  ScratchDirectory d;
  make_directory(d.path, "t5", "spiece.model", t5_ids);
  const moe::Json word = {{"content", "eth"}, {"lstrip", true}, {"rstrip", true}, {"single_word", true}};
  moe::write_json(d.path / "tokenizer_config.json", {{"added_tokens_decoder", {{"77", word}}}, {"extra_ids", 0}});
  const Tokenizer t = open(d.path);
  Ids the = t.encode("the", 0);
  the.pop_back();
  Ids before = {77}, behind = the;
  before.insert(before.end(), the.begin(), the.end());
  before.push_back(1);
  behind.insert(behind.end(), {77, 1});
  CHECK(t.encode("eth the", 0) == before);
  CHECK(t.encode("the eth", 0) == behind);
  for (const char* text : {"theeth", "eththe"}) {
    const Ids ids = t.encode(text, 0);
    CHECK(std::count(ids.begin(), ids.end(), 77) == 0);
  }
}

TEST_CASE("NLLB: what is no piece becomes unk_token") {
  ScratchDirectory d;
  make_directory(d.path, "nllb-moe", "sentencepiece.bpe.model", "");
  const auto unknown_is = [&](const char* unknown, std::int32_t id) {
    moe::Json decoder;
    for (const char* content : {"<s>", "<pad>", "</s>", "<unk>"})
      decoder[std::to_string(decoder.size())] = {{"content", content}, {"special", true}};
    moe::write_json(d.path / "tokenizer_config.json",
                    {{"added_tokens_decoder", decoder}, {"unk_token", unknown}, {"additional_special_tokens", {"aa"}}});
    const Tokenizer t = open(d.path);
    const Ids ids = t.encode("the Q", t.language("aa", "--from"));
    CHECK(ids[ids.size() - 2] == id);
  };
  unknown_is("<unk>", 3);
  unknown_is("<pad>", 1);
}

TEST_CASE("what the small files must not say") {
  ScratchDirectory d;
  make_directory(d.path, "t5", "spiece.model", t5_ids);
  const auto refused = [&](const char* file, const moe::Json& json, const char* sentence) {
    moe::write_json(d.path / file, json);
    CHECK_THROWS_WITH_AS(open(d.path), doctest::Contains(sentence), moe::FileError);
    fs::remove(d.path / file);
  };
  refused("added_tokens.json", {{"[X]", -1}}, "key \"[X]\" must be an id from 0 to 2147483647, got -1");
  refused("added_tokens.json", {{"[X]", 4294967297}}, "must be an id from 0 to 2147483647");
  refused("added_tokens.json", {{"[X]", nullptr}}, "must be an id");
  refused("added_tokens.json", {{"[X]", moe::Json::array()}}, "must be an id");
  refused("added_tokens.json", {{"[X]", 90}, {"[Y]", 90}}, "id 90 is both \"[X]\" and \"[Y]\"");
  refused("added_tokens.json", moe::Json::array(), "must hold an object");
  refused("special_tokens_map.json", {{"eos_token", 3}}, "key \"eos_token\" must be a string or an object, got 3");
  refused("special_tokens_map.json", {{"eos", "x"}}, "has an unknown key \"eos\"");
  refused("special_tokens_map.json", {{"additional_special_tokens", "x"}}, "must be a list of tokens");
  refused("tokenizer_config.json", {{"colour", "red"}}, "tokenizer_config.json: has an unknown key \"colour\"");
  refused("tokenizer_config.json", {{"tokenizer_class", "BertTokenizer"}},
          "key \"tokenizer_class\" is \"BertTokenizer\"");
  refused("tokenizer_config.json", {{"do_lower_case", true}}, "key \"do_lower_case\" is true, which is not offered");
  refused("tokenizer_config.json", {{"sp_model_kwargs", {{"alpha", 0.1}}}}, "key \"sp_model_kwargs\" is not offered");
  refused("tokenizer_config.json", {{"extra_ids", -1}}, "key \"extra_ids\" is -1");
  refused("tokenizer_config.json", {{"added_tokens_decoder", {{"x", {{"content", "[X]"}}}}}},
          "must be an id with an object");
  moe::write_json(d.path / "config.json", {{"model_type", "t5"}, {"vocab_size", 40}});
  refused("added_tokens.json", {{"[X]", 1000}}, "token \"[X]\" has the id 1000; vocab_size of config.json is 40");
  CHECK_THROWS_WITH_AS(open(d.path).encode("the <extra_id_0>", 0), doctest::Contains("its vocab_size is 40"),
                       moe::Error);
}

}  // namespace

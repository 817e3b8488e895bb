// test_generation_tokenizer.cpp -- text to the ids of T5, NLLB and Mixtral checkpoints and back, by small SentencePiece
// models trained here: sentinels, shifted ids, languages.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sentencepiece_trainer.h>

#include <fstream>

#include "examples/generation/tokenizer.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace generation;

/// A directory of a checkpoint with a tokenizer of 60 pieces. Its ids: "--pad_id=0 ...".
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

TEST_CASE("T5: an end, and sentinels that count down from the end of the vocabulary") {
  ScratchDirectory d;
  make_directory(d.path, "t5", "spiece.model", "--pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1");
  const Tokenizer t{moe::hf::Config(d.path)};
  const moe::hf::SpecialTokens special{0, 1, 0, -1};
  const Ids plain = t.encode("the red house", 0, special);
  REQUIRE(plain.size() > 2);
  CHECK(plain.back() == 1);
  CHECK(t.decode(plain) == "the red house");
  sentencepiece::SentencePieceProcessor own;
  REQUIRE(own.Load((d.path / "spiece.model").string()).ok());
  CHECK(Ids(plain.begin(), plain.end() - 1) == own.EncodeAsIds("the red house"));
  const Ids hidden = t.encode("the <extra_id_0> house <extra_id_1>", 0, special);
  const int last = own.GetPieceSize() + 99;
  CHECK(std::count(hidden.begin(), hidden.end(), last) == 1);
  CHECK(std::count(hidden.begin(), hidden.end(), last - 1) == 1);
  CHECK(hidden[hidden.size() - 2] == last - 1);
  CHECK(t.decode(hidden) == "the <extra_id_0> house <extra_id_1>");
  CHECK_FALSE(t.multilingual());
}

TEST_CASE("NLLB: ids one later than SentencePiece's, languages behind them") {
  ScratchDirectory d;
  make_directory(d.path, "nllb-moe", "sentencepiece.bpe.model", "");
  CHECK_THROWS_AS(Tokenizer{moe::hf::Config(d.path)}, moe::FileError);  // no special_tokens_map.json
  moe::write_json(d.path / "special_tokens_map.json",
                  {{"additional_special_tokens", {"ace_Arab", "eng_Latn", "fra_Latn"}}});
  const Tokenizer t{moe::hf::Config(d.path)};
  sentencepiece::SentencePieceProcessor own;
  REQUIRE(own.Load((d.path / "sentencepiece.bpe.model").string()).ok());
  const std::int32_t english = t.language("eng_Latn", "--from");
  CHECK(english == own.GetPieceSize() + 2);
  CHECK_THROWS_WITH_AS(t.language("xx", "--to"),
                       doctest::Contains("--to: the checkpoint does not know the language 'xx'"), moe::Error);
  const Ids ids = t.encode("the house", english, {2, 2, 1, -1});
  CHECK(ids.front() == english);
  CHECK(ids.back() == 2);
  const std::vector<int> pieces = own.EncodeAsIds("the house");
  REQUIRE(ids.size() == pieces.size() + 2);
  for (std::size_t i = 0; i < pieces.size(); ++i) CHECK(ids[i + 1] == pieces[i] + 1);
  CHECK(t.decode(ids) == "the house");
}

TEST_CASE("Mixtral: a begin in front, no end") {
  ScratchDirectory d;
  make_directory(d.path, "mixtral", "tokenizer.model", "");
  const Tokenizer t{moe::hf::Config(d.path)};
  const Ids ids = t.encode("the mouse", 0, {1, 2, -1, -1});
  CHECK(ids.front() == 1);
  CHECK(ids.back() != 2);
  CHECK(t.decode(ids) == "the mouse");
}

TEST_CASE("a directory without a tokenizer says what it wants") {
  ScratchDirectory d;
  moe::write_json(d.path / "config.json", {{"model_type", "t5"}});
  CHECK_THROWS_WITH_AS(Tokenizer{moe::hf::Config(d.path)}, doctest::Contains("has no spiece.model"), moe::FileError);
  moe::atomic_write(d.path / "spiece.model", "no model");
  CHECK_THROWS_WITH_AS(Tokenizer{moe::hf::Config(d.path)}, doctest::Contains("not a SentencePiece model"),
                       moe::FileError);
}

}  // namespace

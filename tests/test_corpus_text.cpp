// SPDX-License-Identifier: Apache-2.0
// Users' own text: packed files, bad rows, names, sets they bring, tokenizers of tiny corpora, tags in text.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "sparsemoe/io/file.hpp"
#include "tests/scratch.hpp"
#include "tools/corpus/child.hpp"
#include "tools/corpus/hold_out.hpp"
#include "tools/corpus/import.hpp"
#include "tools/corpus/leaks.hpp"
#include "tools/corpus/read_corpus.hpp"
#include "tools/corpus/tokenizer.hpp"
#include "tools/corpus/train_tokenizer.hpp"

namespace fs = std::filesystem;
using nmt::RowUse;
using sparsemoe::Error;

namespace {

struct Files : ScratchDirectory {
  fs::path operator()(const std::string& name, const std::string& text) const {
    sparsemoe::atomic_write(path / name, text);
    return path / name;
  }
};

template <class Call>
std::string message(Call call) {
  try {
    call();
  } catch (const Error& problem) {
    return problem.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// The summary of a TSV file with this content, or what is wrong with it.
std::string summary(const Files& files, const std::string& text, const nmt::ImportOptions& options = {}) {
  const auto path = files("own.tsv", text);
  nmt::ParallelReader reader(options);
  std::string problem = message([&] {
    reader.read_tsv(path, RowUse::any);
    reader.take();
  });
  return problem == "no error" ? reader.counts().summary() : problem;
}

nmt::Corpus divide(const nmt::ParallelText& text, nmt::HoldOutReport* report = nullptr, std::uint64_t seed = 0) {
  nmt::HoldOutReport own;
  nmt::SplitOptions options;
  options.seed = seed;
  return nmt::split_parallel(text, options, report != nullptr ? *report : own);
}

bool leaks(const nmt::Corpus& corpus) {
  const auto found = nmt::check_leaks(corpus, {});
  return found.english + found.normalised + found.targets != 0;
}

/// Rows of distinct words in two languages.
nmt::ParallelText many_rows(int rows) {
  nmt::ParallelText text{{"en", "de"}, {}, {}};
  for (int i = 0; i < rows; ++i) {
    std::string word;
    for (int n = i + 1; n > 0; n /= 7) word += std::string(1, static_cast<char>('a' + n % 7));
    text.rows.push_back({"cup " + word, "Tasse " + word});
  }
  return text;
}

}  // namespace

TEST_CASE("text is read plain, from gzip and from xz; members one after another") {
  const Files files;
  const auto plain = files("a", "one\ntwo\n");
  CHECK(nmt::read_text(plain) == "one\ntwo\n");
  nmt::run_program({"gzip", "-k", plain.string()});
  nmt::run_program({"xz", "-k", plain.string()});
  CHECK(nmt::read_text(files.path / "a.gz") == "one\ntwo\n");
  CHECK(nmt::read_text(files.path / "a.xz") == "one\ntwo\n");
  const std::string gz = sparsemoe::read_file(files.path / "a.gz"), xz = sparsemoe::read_file(files.path / "a.xz");
  CHECK(nmt::read_text(files("b", gz + gz)) == "one\ntwo\none\ntwo\n");
  CHECK(nmt::read_text(files("b", xz + xz)) == "one\ntwo\none\ntwo\n");
  CHECK(nmt::read_text(files("b", "")).empty());
  const auto wrong = [&](const std::string& bytes) { return message([&] { nmt::read_text(files("b", bytes)); }); };
  CHECK(contains(wrong(gz.substr(0, gz.size() - 5)), "b: is cut short: its gzip data has no end"));
  CHECK(contains(wrong(xz.substr(0, xz.size() - 5)), "b: is cut short: its xz data has no end"));
  CHECK(contains(wrong(gz + "junk"), "b: is damaged"));
  CHECK(contains(wrong(std::string(gz).replace(12, 4, "????")), "b: is damaged"));
  CHECK(contains(wrong(std::string(xz).replace(24, 4, "????")), "b: is damaged"));
  CHECK(contains(wrong("BZh91AY&SY..."), "b: is packed with bzip2: unpack it first"));
  CHECK(contains(wrong(std::string("\xFF\xFE"
                                   "a\0b\0",
                                   6)),
                 "b: is UTF-16"));
  CHECK(contains(wrong(std::string("\xFF\xFE\0\0a\0\0\0", 8)), "b: is UTF-32: convert it to UTF-8 first"));
  CHECK(contains(wrong(std::string("a\0b\0c\0d\0e\0", 10)), "b: is UTF-16LE: convert"));
  CHECK(contains(wrong(std::string("\0a\0b\0c\0d\0e", 10)), "b: is UTF-16BE: convert"));
  CHECK(contains(wrong(std::string(9, '\0')), "b: begins with a NUL byte"));
}

TEST_CASE("pipes, devices, loops, holes and bombs are one sentence at once") {
  const Files files;
  const auto wrong = [](const fs::path& path) { return message([&] { nmt::read_text(path); }); };
  CHECK(contains(wrong(files.path / "none"), "none: cannot open for reading: No such file"));
  CHECK(contains(wrong(files.path), "not a regular file"));
  CHECK(contains(wrong("/dev/zero"), "/dev/zero: not a regular file"));
  REQUIRE(::mkfifo((files.path / "pipe").c_str(), 0600) == 0);
  CHECK(contains(wrong(files.path / "pipe"), "pipe: not a regular file"));
  fs::create_symlink("loop", files.path / "loop");
  CHECK(contains(wrong(files.path / "loop"), "Too many levels of symbolic links"));
  const auto hole = files("hole", "");
  fs::resize_file(hole, std::uint64_t{4} << 40);
  CHECK(contains(wrong(hole), "hole: has 4398046511104 bytes, more than "));
  fs::resize_file(hole, std::uint64_t{1} << 30);
  CHECK(contains(wrong(hole), "begins with a NUL byte"));
  nmt::run_program({"sh", "-c", "yes | head -c 80000000 | gzip >\"$0\"", (files.path / "bomb.gz").string()});
  CHECK(contains(wrong(files.path / "bomb.gz"), "bomb.gz: unpacks to more than 67108864 bytes"));
  nmt::run_program({"sh", "-c", "yes | head -c 80000000 | xz -0 >\"$0\"", (files.path / "bomb.xz").string()});
  CHECK(contains(wrong(files.path / "bomb.xz"), "bomb.xz: unpacks to more than 67108864 bytes"));
}

TEST_CASE("rows that cannot be used are counted by reason, and refused if strict") {
  const Files files;
  nmt::ImportOptions strict;
  strict.strict = true;
  CHECK(summary(files,
                "\xEF\xBB\xBF"
                "en\tde\r\na cup\teine Tasse\r\n",
                strict) == "1 rows read: 1 kept");
  const std::string rows = "en\tde\na\tb\n\tb\na\t \nx \xff\ty\na\na\tb\tc\n";
  CHECK(summary(files, rows) ==
        sparsemoe::join("6 rows read: 1 kept, 2 with other columns than the header, 1 not UTF-8, 2 empty; the first: ",
                        files.path.string(), "/own.tsv:6 with other columns than the header, ", files.path.string(),
                        "/own.tsv:5 not UTF-8, ", files.path.string(), "/own.tsv:3 empty"));
  CHECK(contains(summary(files, rows, strict), "own.tsv:3: no text in en"));
  CHECK(contains(summary(files, "en\tde\na\tb\na\t \n", strict), "own.tsv:3: no translation"));
  CHECK(contains(summary(files, "en\tde\na\tb\tc\n", strict), "own.tsv:2: 3 columns, the header has 2"));
  CHECK(contains(summary(files, "en\tde\na\tb\n\t\xC3\x28\n", strict), "own.tsv:3: not valid UTF-8 at byte 1"));
  CHECK(contains(summary(files, std::string("en\tde\na\0\tb\n", 11), strict), "own.tsv:2: a NUL byte"));
  CHECK(contains(summary(files, "en\tde\n\tb\n"), "no row is left: 1 rows read: 0 kept, 1 empty"));
  nmt::ImportOptions shorter;
  shorter.max_characters = 3;
  CHECK(contains(summary(files, "en\tde\näöü\tb\nlong\tb\n", shorter), "2 rows read: 1 kept, 1 over-long"));
  nmt::ImportOptions distinct;
  distinct.drop_identical = true;
  CHECK(contains(summary(files, "en\tde\tfr\na\ta\tb\nc\tc\tc\n", distinct), "2 rows read: 1 kept, 1 identical"));
  CHECK(contains(summary(files, "en\tde\na\ta\n"), "1 kept"));
}

TEST_CASE("a file that is no table of languages is refused") {
  const Files files;
  CHECK(contains(summary(files, ""), "own.tsv: empty file"));
  CHECK(contains(summary(files, "en\na\n"), "own.tsv:1: expected two or more"));
  CHECK(contains(summary(files, "the file\tden fil\n"), "own.tsv:1: 'the file' cannot name a language"));
  CHECK(contains(summary(files, "en\ten\na\tb\n"), "own.tsv:1: en names two columns"));
  CHECK(contains(summary(files, "en\tde\tdeu\na\tb\tc\n"), "own.tsv:1: de and deu names two columns"));
  CHECK(contains(summary(files, "en\tde\n"), "a header and no text"));
  CHECK(contains(summary(files, "en\tsr@latin\tl00\neng\ta\tb\n"), "1 kept"));
  nmt::ParallelReader reader({});
  CHECK(contains(message([&] { reader.read_tsv(files.path / "none.tsv", RowUse::any); }), "none.tsv: cannot open"));
}

TEST_CASE("pairs of files, several of them, in any codes") {
  const Files files;
  const auto pair = [&](const std::string& a, const std::string& b, bool strict = false) {
    nmt::ImportOptions options;
    options.strict = strict;
    const auto x = files("src.en", a), y = files("src.de", b);
    return message([&] { nmt::ParallelReader(options).read_pair(x, y, "en", "de", RowUse::any); });
  };
  CHECK(pair("one\ntwo\n", "eins\nzwei\n") == "no error");
  CHECK(contains(pair("one\ntwo\n", "eins\n"), "src.en:2: "));
  CHECK(pair("one\n\n", "eins\nzwei\n") == "no error");
  CHECK(contains(pair("one\n\n", "eins\nzwei\n", true), "src.en:2: no text in en"));
  CHECK(contains(pair("one\ntwo\n", "eins\n\u00a0\n", true), "src.de:2: no translation"));
  CHECK(contains(pair("one\n", "\xED\xA0\x80\n", true), "src.de:1: not valid UTF-8 at byte 0"));
  nmt::ParallelReader reader({});
  reader.read_pair(files("a", "one\n"), files("b", "eins\n"), "en", "de", RowUse::any);
  reader.read_pair(files("a", "two\n"), files("b", "deux\n"), "eng", "fr", RowUse::any);
  reader.read_pair(files("a", "drei\n"), files("b", "three\n"), "deu_Latn", "en", RowUse::dev);
  CHECK(contains(message([&] { reader.read_pair(files("a", "x"), files("b", "y"), "de", "fr", RowUse::any); }),
                 "neither is en, the first language of the corpus"));
  CHECK(contains(message([&] { reader.read_pair(files("a", "x"), files("b", "y"), "en", "it", RowUse::test); }),
                 "the training text has no language 'it'"));
  CHECK(contains(message([&] { reader.read_pair(files("a", "x"), files("b", "y"), "en", "eng", RowUse::any); }),
                 "both en"));
  const auto text = reader.take();
  CHECK(text.languages == std::vector<std::string>{"en", "de", "fr"});
  CHECK(text.rows ==
        std::vector<std::vector<std::string>>{{"one", "eins", ""}, {"two", "", "deux"}, {"three", "drei", ""}});
  CHECK(text.use == std::vector<RowUse>{RowUse::any, RowUse::any, RowUse::dev});
}

TEST_CASE("own text is divided without shared sources or targets") {
  nmt::ParallelText text{{"en", "de"}, {}, {}};
  for (int i = 0; i < 400; ++i) {
    const std::string w =
        std::string(1, static_cast<char>('a' + i % 20)) + std::string(1, static_cast<char>('a' + i / 20));
    text.rows.push_back({"cup " + w, "Tasse " + w});
    if (i % 4 == 0) text.rows.push_back({"Cup " + w + "!", "andere Tasse " + w});
    if (i % 5 == 0) text.rows.push_back({"cup " + w, "Tasse " + w});
  }
  nmt::HoldOutReport report;
  const auto corpus = divide(text, &report);
  CHECK(report.repeated == 80);
  CHECK(corpus.split("test").ids.size() > 0);
  CHECK(corpus.split("test").ids.size() <= 29);  // a twentieth of the 580 rows
  CHECK(corpus.split("dev").ids.size() > 0);
  CHECK(corpus.split("train").ids.size() + corpus.split("test").ids.size() + corpus.split("dev").ids.size() == 500);
  CHECK_FALSE(leaks(corpus));
  for (auto& row : text.rows) row[1] = "always the same";
  nmt::HoldOutReport one_group;
  CHECK(divide(text, &one_group).split("test").ids.empty());  // one group: nothing can be held out
  CHECK(contains(nmt::why_empty("dev", 500, one_group), "the largest such group has 580 of the 580 rows"));
  CHECK(contains(nmt::why_empty("dev", 500, {}), "there are only 0; bring one by --dev-pair"));
}

TEST_CASE("rows without a letter are different texts, in the split as in the check") {
  nmt::ParallelText text = many_rows(36);
  for (const char* symbols : {"\u266a", "...", "?!", "\U0001F44D"}) text.rows.push_back({symbols, symbols});
  for (std::uint64_t seed = 0; seed < 20; ++seed) CHECK_FALSE(leaks(divide(text, nullptr, seed)));
}

TEST_CASE("sets that users bring stay whole, and train shares nothing with them") {
  nmt::ParallelText text = many_rows(100);
  text.use.assign(100, RowUse::any);
  const auto add = [&](std::string a, std::string b, RowUse use) {
    text.rows.push_back({std::move(a), std::move(b)});
    text.use.push_back(use);
  };
  add("A new sentence", "ein neuer Satz", RowUse::test);
  add("A new sentence", "ein neuer Satz", RowUse::test);  // an official set is taken as it is
  add(text.rows[3][0] + "!", "etwas anderes", RowUse::test);
  add("a dev sentence", "ein Satz", RowUse::dev);
  add("another", "Ein neuer Satz.", RowUse::dev);  // is in test
  nmt::HoldOutReport report;
  const auto corpus = divide(text, &report);
  CHECK(corpus.split("test").ids.size() == 3);
  CHECK(corpus.split("dev").ids.size() == 1);
  CHECK(corpus.split("train").ids.size() == 99);
  CHECK(report.shared == 2);
  CHECK_FALSE(leaks(corpus));
}

TEST_CASE("a tokenizer gives back every text and knows its tags") {
  const Files files;
  nmt::ParallelText text{{"en", "de"}, {}, {}};
  for (int i = 0; i < 300; ++i)
    text.rows.push_back({sparsemoe::join("the kettle number ", i, " is hot <2de>"),
                         sparsemoe::join("der Kessel Nummer ", i, " ist heiß ▅ <2en>")});
  const auto corpus = divide(text);
  nmt::TokenizerOptions options;
  options.lines = 2000;
  options.vocabulary = 320;
  options.shrink = false;
  CHECK(nmt::train_tokenizer(corpus, options, files.path / "spm.model") == 320);
  const nmt::Tokenizer tokenizer(files.path / "spm.model");
  CHECK(tokenizer.size() == 320);
  for (const std::string line :
       {"the kettle", "日本語 and \U0001F44D", "Größe  two spaces", "", "a <2en> b", "<2de>", "<2en><2de></s><pad>"}) {
    const auto ids = tokenizer.encode(line);
    CHECK(tokenizer.decode(ids) == line);
    for (const int control :
         {nmt::Tokenizer::unknown, nmt::Tokenizer::end, nmt::Tokenizer::pad, tokenizer.tag("en"), tokenizer.tag("de")})
      CHECK(std::count(ids.begin(), ids.end(), control) == 0);
  }
  CHECK(tokenizer.tag("de") != tokenizer.tag("en"));
  CHECK(tokenizer.tag("deu_Latn") == tokenizer.tag("de"));
  CHECK_THROWS_AS(tokenizer.tag("fr"), Error);
  CHECK_THROWS_AS(tokenizer.decode({320}), Error);
  const auto train = [&](int vocabulary, bool shrink, const char* name) {
    options.vocabulary = vocabulary, options.shrink = shrink;
    return nmt::train_tokenizer(corpus, options, files.path / name);
  };
  CHECK(contains(message([&] { train(100000, false, "big"); }),
                 "cannot train a tokenizer of 100000 pieces: the text carries at most "));
  CHECK(contains(message([&] { train(5, true, "small"); }),
                 "cannot train a tokenizer of 5 pieces: its characters, bytes and tags are "));
  const int most = train(8000, true, "fitting");
  CHECK(most > 300);
  CHECK(most < 1000);
  CHECK(nmt::Tokenizer(files.path / "fitting").size() == most);
  CHECK(contains(message([&] { nmt::Tokenizer none(files("no.model", "junk")); }), "not a SentencePiece model"));
  CHECK(contains(message([&] { nmt::Tokenizer none("/dev/zero"); }), "not a regular file"));
}

TEST_CASE("tags of older models, which were user-defined symbols, are text in text too") {
  const Files files;
  nmt::ParallelText text = many_rows(300);
  nmt::TokenizerOptions options;
  options.lines = 2000;
  options.vocabulary = 290;
  options.shrink = false;
  nmt::train_tokenizer(divide(text), options, files.path / "new.model");
  std::string bytes = sparsemoe::read_file(files.path / "new.model");
  for (const std::string tag : {"<2en>", "<2de>"}) {  // piece, score (5 bytes), type
    const auto at = bytes.find(tag) + tag.size() + 6;
    REQUIRE(bytes[at] == 3);
    bytes[at] = 4;
  }
  const nmt::Tokenizer now(files.path / "new.model"), before(files("old.model", bytes));
  CHECK(before.tag("de") == now.tag("de"));
  CHECK(before.encode("a <2de> b") == now.encode("a <2de> b"));
  CHECK(before.decode(before.encode("a <2de> b")) == "a <2de> b");
}

TEST_CASE("a text of long lines only has a tokenizer") {
  const Files files;
  nmt::ParallelText text{{"en", "de"}, {}, {}};
  for (int i = 0; i < 3; ++i) {
    std::string a, b;
    for (int k = 0; k < 1200; ++k) a += sparsemoe::join("word", k % 31, " "), b += sparsemoe::join("Wort", k % 29, " ");
    text.rows.push_back({a, b});
  }
  nmt::TokenizerOptions options;
  options.lines = 2000;
  CHECK(nmt::train_tokenizer(divide(text), options, files.path / "spm.model") > 280);
}

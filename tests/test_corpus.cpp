// SPDX-License-Identifier: Apache-2.0
// The corpus builder on small synthetic descriptions: parse, align, filter, split, write, read, import, bad input.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "sparsemoe/io/file.hpp"
#include "sparsemoe/text/language.hpp"
#include "sparsemoe/text/utf8.hpp"
#include "tests/scratch.hpp"
#include "tools/corpus/align.hpp"
#include "tools/corpus/archive.hpp"
#include "tools/corpus/build.hpp"
#include "tools/corpus/child.hpp"
#include "tools/corpus/clean.hpp"
#include "tools/corpus/fetch.hpp"
#include "tools/corpus/hold_out.hpp"
#include "tools/corpus/import.hpp"
#include "tools/corpus/keys.hpp"
#include "tools/corpus/languages.hpp"
#include "tools/corpus/leaks.hpp"
#include "tools/corpus/parse.hpp"
#include "tools/corpus/read_corpus.hpp"
#include "tools/corpus/split.hpp"
#include "tools/corpus/write.hpp"

namespace fs = std::filesystem;
using nmt::Part;
using nmt::Script;
using nmt::Verdict;
using sparsemoe::Error;

namespace {

/// A directory that goes with the test.
struct CorpusScratch : ScratchDirectory {
  fs::path file(const std::string& name, const std::string& text) const {
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

const char* const kEnglish =
    "Package: teapot\nDescription-md5: 0123\nDescription-en: kettle with a whistle\n"
    " Boils water on any stove. It whistles when the\n water is hot.\n .\n It can:\n  * boil water\n  * make\n    tea\n"
    "   +---+\n .\n The end is near\n\n"
    "Package: spoon\nDescription-md5: 4567\nDescription-en: stirs\n";

Verdict verdict(const std::string& english, const std::string& foreign, const std::string& language = "de",
                double ratio = 1.1) {
  return nmt::judge(nmt::examine(english), nmt::examine(foreign), nmt::script_of(language), ratio, nmt::Limits{});
}

nmt::Segment segment(const std::string& english, const std::string& german, const std::string& source) {
  return {{english, german}, 't', {source}, {source}};
}

}  // namespace

TEST_CASE("a translation file becomes stanzas, and one in another language none") {
  const auto read = nmt::parse_translation(kEnglish, "en", "file");
  REQUIRE(read.stanzas.size() == 2);
  CHECK(read.stanzas[0].package == "teapot");
  CHECK(read.stanzas[0].md5 == "0123");
  CHECK(read.stanzas[1].text == "stirs");
  CHECK(nmt::parse_translation(kEnglish, "de", "file").stanzas.empty());
  CHECK(nmt::parse_translation("", "de", "file").stanzas.empty());
}

TEST_CASE("a file that is no translation file is refused at its line") {
  const auto parse = [](const std::string& text) {
    return message([&] { nmt::parse_translation(text, "de", "T-de"); });
  };
  CHECK(contains(parse("<html>\n"), "T-de:1: expected 'Field: value'"));
  CHECK(contains(parse(" text first\n"), "T-de:1: a continuation line"));
  CHECK(contains(parse("Package: a\n\n\nDescription-de: x\n"), "T-de:1: a stanza without"));
  const auto bad = nmt::parse_translation("Package: a\nDescription-md5: 1\nDescription-de: \xff\n", "de", "T-de");
  CHECK(bad.stanzas.empty());
  CHECK(bad.malformed == 1);
}

TEST_CASE("sources default to the package and lose their version") {
  std::unordered_map<std::string, std::string> sources;
  nmt::parse_sources("Package: a\nSource: b (1.2)\n\nPackage: c\n\nPackage: d\nSource: e\n", sources);
  CHECK(sources.at("a") == "b");
  CHECK(sources.at("c") == "c");
  CHECK(sources.at("d") == "e");
}

TEST_CASE("a description falls into text and items, and drawings are dropped") {
  const auto d = nmt::parse_description(nmt::parse_translation(kEnglish, "en", "file").stanzas[0].text);
  CHECK(d.short_line == "kettle with a whistle");
  REQUIRE(d.paragraphs.size() == 3);
  REQUIRE(d.paragraphs[0].size() == 1);
  CHECK(d.paragraphs[0][0].lines.size() == 2);
  REQUIRE(d.paragraphs[1].size() == 3);
  CHECK(d.paragraphs[1][0].kind == nmt::UnitKind::text);
  CHECK(d.paragraphs[1][2].kind == nmt::UnitKind::item);
  CHECK(d.paragraphs[1][2].lines[1] == "tea");
  const auto french = nmt::parse_description("x\n  –\u00a0un point ;\n  - deux");
  REQUIRE(french.paragraphs.size() == 1);
  CHECK(french.paragraphs[0].size() == 2);
  CHECK(french.paragraphs[0][0].lines[0] == "un point ;");
  const auto plain = nmt::parse_description("x\n o no item\n 1. neither\n o");
  REQUIRE(plain.paragraphs.size() == 1);
  CHECK(plain.paragraphs[0].size() == 1);
}

TEST_CASE("lines are joined as each script needs it") {
  nmt::WordCounts words{{"소프트웨어는", 3}, {"새", 5}, {"차", 5}};
  CHECK(nmt::unwrap({"one", "two"}, Script::latin, {}) == "one two");
  CHECK(nmt::unwrap({"well-", "known"}, Script::latin, {}) == "well-known");
  CHECK(nmt::unwrap({"Vor-", "und Nachteile"}, Script::latin, {}) == "Vor- und Nachteile");
  CHECK(nmt::unwrap({"this -", "that"}, Script::latin, {}) == "this - that");
  CHECK(nmt::unwrap({"一二", "三"}, Script::chinese, {}) == "一二三");
  CHECK(nmt::unwrap({"一 GTK", "三"}, Script::chinese, {}) == "一 GTK 三");
  CHECK(nmt::unwrap({"이 소프트", "웨어는 좋다"}, Script::hangul, words) == "이 소프트웨어는 좋다");
  CHECK(nmt::unwrap({"이 새", "차 좋다"}, Script::hangul, words) == "이 새 차 좋다");
}

TEST_CASE("sentences end at stops, not at abbreviations, versions or before lower case") {
  using List = std::vector<std::string>;
  CHECK(nmt::split_sentences("One is here. Two is there! Is it (really?) So.") ==
        List{"One is here.", "Two is there!", "Is it (really?)", "So."});
  CHECK(nmt::split_sentences("Use e.g. Tea, see J. Doe, version 2.5 and x. y") ==
        List{"Use e.g. Tea, see J. Doe, version 2.5 and x. y"});
  CHECK(nmt::split_sentences("これは茶です。とても熱い！") == List{"これは茶です。", "とても熱い！"});
  CHECK(nmt::split_sentences("").empty());
}

TEST_CASE("Gale-Church finds one sentence that became two") {
  const auto beads = nmt::gale_church({50, 100, 40}, {52, 48, 55, 41}, 1.0);
  REQUIRE(beads.size() == 3);
  CHECK(beads[1].english == 1);
  CHECK(beads[1].foreign == 2);
  CHECK(nmt::gale_church({50}, {10, 20, 20}, 1.0).empty());
}

TEST_CASE("units are paired only where the structures agree") {
  const auto flat = [](const std::string& text) {
    return nmt::flatten(nmt::parse_description(text), Script::latin, {});
  };
  const auto en = flat("short\n Text one.\n .\n  * item\n .\n Last.");
  CHECK(nmt::align_units(en, flat("kurz\n Text eins.\n .\n  * Punkt\n .\n Ende.")).size() == 4);
  CHECK(nmt::align_units(en, flat("kurz\n Text eins.\n  * Punkt\n .\n Ende.")).size() == 4);  // flat list agrees
  CHECK(nmt::align_units(en, flat("kurz\n Text eins.\n .\n Kein Punkt\n .\n Ende.")).size() ==
        3);  // one paragraph differs
  CHECK(nmt::align_units(en, flat("kurz\n Nur dies.")).size() == 1);
}

TEST_CASE("a paragraph is split when the lengths agree and stays whole when not") {
  std::vector<nmt::Pair> out;
  nmt::split_paragraph(
      {"Water is boiled here. Tea is made there.", "Wasser wird hier gekocht. Tee macht man dort.", 'p'}, Script::latin,
      1.1, out);
  REQUIRE(out.size() == 2);
  CHECK(out[0].kind == 't');
  CHECK(out[1].foreign == "Tee macht man dort.");
  out.clear();
  nmt::split_paragraph({"Water. Tea is made over there by the many people of this great house of leaves and cups.",
                        "Wasser wird hier von den vielen Leuten dieses großen Hauses voller Tassen gekocht. Tee.", 'p'},
                       Script::latin, 1.0, out);
  REQUIRE(out.size() == 1);
  CHECK(out[0].kind == 'p');
}

TEST_CASE("cleaning composes, drops what cannot be seen and leaves single spaces") {
  CHECK(nmt::clean_text("  cafe\u0301\u00a0\u3000a\u200bb\u00adc\t ") == "caf\u00e9 abc");
  CHECK(nmt::clean_text("e\u200b\u0301 x") == "\u00e9 x");
  CHECK(nmt::clean_text(nmt::clean_text("e\u200b\u0301 x")) == nmt::clean_text("e\u200b\u0301 x"));
  CHECK(nmt::clean_text(" \t\u00a0\u3000\ufeff\u200b") == "");
  CHECK(nmt::clean_text("a\u2581b\u2028c") == "a b c");
  CHECK_THROWS_AS(nmt::clean_text("a\xff"), Error);
  std::string item = "Tee kochen ;";
  nmt::trim_item_end("make tea", item);
  CHECK(item == "Tee kochen");
  item = "Tee kochen.";
  nmt::trim_item_end("make tea.", item);
  CHECK(item == "Tee kochen.");
}

TEST_CASE("each filter drops its own fault and keeps the sound pair") {
  const std::string en = "a small kettle that whistles", de = "ein kleiner Kessel, der pfeift";
  CHECK(verdict(en, de) == Verdict::kept);
  CHECK(verdict(en, de + "\u0085") == Verdict::broken);
  CHECK(verdict(en, "ein groÃ\u009fer Kessel, der pfeift") == Verdict::broken);
  CHECK(verdict(en, "ein kleiner &amp; feiner Kessel") == Verdict::entities);
  CHECK(verdict(en, std::string(700, 'a')) == Verdict::too_long);
  CHECK(verdict("kettle", "Kessel") == Verdict::too_short);
  CHECK(verdict("a 12 34 567 8 9", "ein 12 34 567 8 9") == Verdict::no_letters);
  CHECK(verdict("see https://tea.example/kettle", "siehe https://tea.example/kettle") == Verdict::address);
  CHECK(verdict(en, "A small kettle that Whistles") == Verdict::untranslated);
  CHECK(verdict(en, "whistles kettle: small that") == Verdict::untranslated);
  CHECK(verdict(en, "Kessel") == Verdict::length);
  CHECK(verdict("kettle of 1999 and 2000", "Kessel von 1998 und 2001") == Verdict::numbers);
  CHECK(verdict(en, "маленький чайник со свистком") == Verdict::script);
  CHECK(verdict(en, "маленький чайник со свистком", "ru") == Verdict::kept);
  CHECK(verdict(en, "作为小型水壶会吹口哨", "zh_CN", 0.4) == Verdict::kept);
  CHECK(verdict(en, "Wasserkessel klein pfeift", "zh_CN", 0.9) == Verdict::script);
}

TEST_CASE("word odds tell English from the language they learnt") {
  nmt::WordOdds odds;
  for (int i = 0; i < 20; ++i)
    odds.learn({"the", "water", "is", "hot", "gnu"}, {"das", "wasser", "ist", "warm", "gnu"});
  CHECK(odds.mean({"das", "wasser", "ist"}) > 1);
  CHECK(odds.mean({"the", "water", "is"}) < -1);
  CHECK(odds.mean({"gnu", "gnu", "gnu"}) == doctest::Approx(0));
  CHECK(odds.mean({"the", "water"}) == 0);
}

TEST_CASE("families ignore versions") {
  CHECK(nmt::family_of("gcc-12") == "gcc");
  CHECK(nmt::family_of("gcc-13-cross") == "gcc");
  CHECK(nmt::family_of("wesnoth-1.14") == "wesnoth");
  CHECK(nmt::family_of("7zip") == "7zip");
  CHECK(nmt::family_of("base64codec") == "base64codec");
  CHECK(nmt::family_of("teapot") == "teapot");
}

TEST_CASE("shares are nested: fewer languages never test on what more languages train on") {
  int tested = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto name = sparsemoe::join("package", i);
    for (int low = 0; low < 2; ++low) {
      const Part few = nmt::part_of_family(name, low, 0), many = nmt::part_of_family(name, low + 1, 0);
      if (few != Part::train) CHECK(few == many);
    }
    tested += nmt::part_of_family(name, 2, 0) == Part::test;
  }
  CHECK(tested > 540);  // 32 % of 2000 is 640, standard deviation 21
  CHECK(tested < 740);
}

TEST_CASE("keys replace names, digits and addresses") {
  CHECK(nmt::joined(nmt::key_words("The Teapot (2.15) at http://tea.example/!", {"teapot"})) == "the n 0 0 at url ");
}

TEST_CASE("the split holds out families, caps repeats, and a planted leak is found") {
  std::vector<nmt::Segment> segments;
  const std::vector<std::string> nouns = {"kettle", "spoon", "cup", "river", "stone", "lamp", "garden", "cloud"};
  const std::vector<std::string> verbs = {"carries", "lifts", "finds", "draws", "turns", "holds", "reads"};
  std::uint64_t state = 5;
  const auto pick = [&state](const std::vector<std::string>& list) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return list[(state >> 33) % list.size()];
  };
  for (int i = 0; i < 600; ++i) {
    const auto name =
        "w" + std::string(1, static_cast<char>('a' + i % 26)) + std::string(1, static_cast<char>('a' + i / 26));
    std::string text = name;
    for (int k = 0; k < 4; ++k) text += " " + pick(verbs) + " " + name + pick(nouns);
    segments.push_back(segment(text, "ü" + text, "source" + name));
  }
  const std::string twin = "the same words in every single package";
  for (int i = 0; i < 5; ++i)
    segments.push_back(segment(twin + " " + std::to_string(i), "dasselbe " + std::to_string(i), "other"));
  nmt::SplitOptions options;
  nmt::SplitReport report;
  // "fi" has the largest share held out, which a small test needs.
  auto corpus = nmt::split_segments(segments, {"en", "fi"}, options, report);
  CHECK(corpus.split("test").ids.size() > 50);
  CHECK(corpus.split("dev").ids.size() > 5);
  CHECK(corpus.split("train").ids.size() > 200);
  CHECK(nmt::check_leaks(corpus, options).none());
  CHECK(corpus.split("test").kind(0) == 't');
  CHECK_THROWS_AS(corpus.split("test").kind(99999), Error);
  std::size_t twins = 0;
  for (const auto& [name, rows] : corpus.splits)
    for (const auto& line : rows.text.at("en").lines) twins += line.starts_with(twin);
  CHECK(twins <= options.same_key);

  auto& train = corpus.splits.at("train");
  const auto& test = corpus.split("test");
  SUBCASE("a shared family") {
    train.sources[0] = test.sources[0];
    CHECK(nmt::check_leaks(corpus, options).families == 1);
  }
  SUBCASE("a shared English segment") {
    train.text.at("en").lines[0] = test.text.at("en").lines[0];
    const auto leaks = nmt::check_leaks(corpus, options);
    CHECK(leaks.english == 1);
    CHECK(leaks.near == 1);
  }
  SUBCASE("a shared target, but for case") {
    train.text.at("fi").lines[0] = test.text.at("fi").lines[0] + "!";
    CHECK(nmt::check_leaks(corpus, options).targets == 1);
  }
  SUBCASE("a near duplicate") {
    train.text.at("en").lines[0] = test.text.at("en").lines[0] + " too";
    const auto leaks = nmt::check_leaks(corpus, options);
    CHECK(leaks.english == 0);
    CHECK(leaks.near == 1);
  }
}

TEST_CASE("what is written is read back, and a failed run leaves nothing") {
  const CorpusScratch scratch;
  const nmt::ParallelText text{
      {"en", "de", "fr"}, {{"one cup", "eine Tasse", ""}, {"two cups", "zwei Tassen", "deux tasses"}}, {}};
  nmt::HoldOutReport held;
  const auto corpus = nmt::split_parallel(text, {}, held);
  const auto out = scratch.path / "corpus";
  {
    nmt::NewDirectory folder(out, false);
    nmt::write_corpus(corpus, {"own.tsv", {}, "t", 7, 0}, folder.path());
  }  // not committed
  CHECK_FALSE(fs::exists(out));
  CHECK(fs::is_empty(scratch.path));
  {
    nmt::NewDirectory folder(out, false);
    nmt::write_corpus(corpus, {"own.tsv", {}, "t", 7, 0}, folder.path());
    folder.commit();
  }
  CHECK(sparsemoe::read_file(out / "train" / "de.tsv") == "000000\teine Tasse\n000001\tzwei Tassen\n");
  const auto back = nmt::load_corpus(out);
  CHECK(back.languages == corpus.languages);
  CHECK(back.tokenizer.empty());
  const auto pairs = back.split("train").pairs("fr", "de");
  REQUIRE(pairs.size() == 1);
  CHECK(pairs[0].id == 1);
  CHECK(*pairs[0].target == "zwei Tassen");
  CHECK(back.split("train").text.at("fr").find(0) == nullptr);
  CHECK(contains(message([&] { nmt::NewDirectory again(out, false); }), "exists: choose another --out"));
  CHECK_NOTHROW(nmt::NewDirectory(out, true));
  scratch.file("precious", "x");
  CHECK(contains(message([&] { nmt::NewDirectory again(scratch.path, true); }), "is not a corpus"));
  CHECK(fs::exists(scratch.path / "precious"));
  CHECK(contains(message([&] { nmt::load_corpus(out, {"it"}); }), "no language 'it'; it has en, de, fr"));
  const auto other_names = nmt::load_corpus(out, {"eng_Latn", "ger"});
  CHECK(other_names.languages == std::vector<std::string>{"eng_Latn", "ger"});
  CHECK(other_names.split("train").pairs("eng_Latn", "ger").size() == 2);
  CHECK(contains(message([&] { nmt::load_corpus(out, {"en", "de", "deu"}); }), "'de' and 'deu' are one language"));
  nmt::run_program({"xz", (out / "train" / "de.tsv").string()});
  nmt::run_program({"gzip", (out / "train" / "en.tsv").string()});
  CHECK(nmt::load_corpus(out).split("train").pairs("en", "de").size() == 2);
  nmt::run_program({"gunzip", (out / "train" / "en.tsv.gz").string()});
  scratch.file("corpus/train/en.tsv", "000000\tone cup\n");
  CHECK(contains(message([&] { nmt::load_corpus(out); }), "train/en.tsv: has 1 rows, counts.json says 2: was it cut?"));
  fs::remove(out / "counts.json");
  CHECK(message([&] { nmt::load_corpus(out); }) == "no error");
  scratch.file("corpus/corpus.json", R"({"languages": ["en", "../../etc/passwd"]})");
  CHECK(contains(message([&] { nmt::load_corpus(out); }), "corpus.json: '../../etc/passwd' cannot name a language"));
}

TEST_CASE("a damaged corpus is refused at its line") {
  const CorpusScratch scratch;
  fs::create_directories(scratch.path / "train");
  const auto load = [&] { return message([&] { nmt::load_corpus(scratch.path); }); };
  scratch.file("train/sources.tsv", "000000\tt\tteapot\n");
  const auto en = [&](const std::string& text) {
    scratch.file("train/en.tsv", text);
    return load();
  };
  CHECK(en("000000\tfine\n") == "no error");
  CHECK(en("000000\t  cafe\u0301\u00a0x\n") == "no error");
  CHECK(nmt::load_corpus(scratch.path).split("train").text.at("en").lines[0] == "caf\u00e9 x");  // whoever wrote it
  CHECK(contains(en("000000\n"), "en.tsv:1: 1 columns, expected 2"));
  CHECK(contains(en("000000\ta\n000000\tb\n"), "en.tsv:2: id 0 does not ascend"));
  CHECK(contains(en("00x\ta\n"), "en.tsv:1: '00x' is not an id"));
  CHECK(contains(en("000001\ta\n"), "id 1 is not in sources.tsv"));
  CHECK(contains(en("000000\ta\xff\n"), "en.tsv:1: not valid UTF-8 at byte 8"));
  CHECK(contains(en("000000\t\n"), "empty text"));
  CHECK(contains(en("000000\t\u200b \n"), "empty text"));
  scratch.file("train/sources.tsv", "");
  CHECK(contains(en(""), "the corpus has no rows in train"));
}

TEST_CASE("a child's failure is one sentence with its last line") {
  CHECK(nmt::run_program({"printf", "a b"}) == "a b");
  CHECK(message([] {
          nmt::run_program({"sh", "-c", "echo first >&2; echo last >&2; exit 3"});
        }) == "sh failed (exit 3): last");
  CHECK(contains(message([] { nmt::run_program({"/no/such/program"}); }), "No such file"));
  CHECK(contains(message([] { nmt::run_program({"sh", "-c", "kill -9 $$"}); }), "killed by signal 9"));
}

TEST_CASE("a child has our variables, and ends when we do") {
  CHECK(nmt::run_program({"sh", "-c", "echo $A-$B"}, {"A=1", "B=2"}) == "1-2\n");
  CHECK(contains(message([] {
                   nmt::run_program({"head", "-c", "2000", "/dev/zero"}, {}, 1000);
                 }),
                 "head says more than 1000 bytes"));
}

TEST_CASE("codes and suites cannot smuggle paths or options") {
  for (const char* good : {"de", "pt_BR", "zh_CN", "ast", "sr@latin"}) CHECK_NOTHROW(nmt::require_language_code(good));
  for (const char* bad : {"", "d", "../x", "DE", "de_", "de,fr", "german"})
    CHECK_THROWS_AS(nmt::require_language_code(bad), Error);
  for (const char* good : {"de", "DE", "sr@latin", "eng_Latn2", "l00", "zh-TW", "German", "språk"})
    CHECK_NOTHROW(nmt::require_language_name(good));
  for (const char* bad :
       {"", "../x", "a/b", "a b", "a\tb", "a,b", "<2de>", ".", "-de", "a\u00a0b", "sources", "a\x1b[31m"})
    CHECK_THROWS_AS(nmt::require_language_name(bad), Error);
  const CorpusScratch scratch;
  nmt::FetchOptions options;
  options.work = scratch.path;
  options.suites = {"../sid"};
  CHECK(contains(message([&] { nmt::fetch_suites(options); }), "not the name of a suite"));
}

TEST_CASE("of the machine's apt, proxies are taken over and nothing else") {
  CHECK(nmt::network_settings("Acquire::http::Proxy \"http://p:3128\";\n"
                              "Acquire::http::Proxy::deb.example \"DIRECT\";\n"
                              "Acquire::https::CaInfo \"/ca.pem\";\n"
                              "Acquire::https::Verify-Peer \"false\";\n"
                              "Acquire::http::Proxy-Auto-Detect \"/bin/evil\";\n"
                              "Acquire::AllowInsecureRepositories \"true\";\n"
                              "Acquire::http::Proxy \"x\"; APT::Update::Post-Invoke \"evil\";\n"
                              "APT::Update::Post-Invoke:: \"evil\";") ==
        "Acquire::http::Proxy \"http://p:3128\";\nAcquire::http::Proxy::deb.example \"DIRECT\";\n"
        "Acquire::https::CaInfo \"/ca.pem\";\n");
}

TEST_CASE("index files are believed only as far as a key has signed them") {
  const CorpusScratch scratch;
  const auto lists = [&] { return message([&] { nmt::SuiteLists(scratch.path, "tea", "/no/such/keyring.gpg"); }); };
  CHECK(contains(lists(), "not signed by the archive: it has no signed release file"));
  scratch.file("host_dists_tea_InRelease", "Codename: tea\nSHA256:\n 00 1 main/i18n/Translation-de\n");
  CHECK(contains(lists(), "not signed by the archive: gpgv"));
}

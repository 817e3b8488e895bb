// SPDX-License-Identifier: Apache-2.0
// command.cpp -- the functions of command.hpp, which says what they do.
#include "command.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "build.hpp"
#include "fetch.hpp"
#include "hold_out.hpp"
#include "import.hpp"
#include "leaks.hpp"
#include "read_corpus.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "sparsemoe/text/language.hpp"
#include "split.hpp"
#include "train_tokenizer.hpp"
#include "write.hpp"

namespace nmt {

namespace {

struct CorpusOptions {
  std::string out, source, target;
  std::vector<std::string> tsv, pairs, dev_tsv, dev_pairs, test_tsv, test_pairs;  // pairs: two files each
  std::string kinds = "s,t,p,l";
  FetchOptions fetch;
  ImportOptions import;
  SplitOptions split;
  TokenizerOptions tokenizer;
  bool force = false;

  bool own() const { return !tsv.empty() || !pairs.empty(); }
};

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void print_funnels(const std::vector<std::string>& languages, const std::map<std::string, Funnel>& funnels,
                   const SplitReport& report, const Corpus& corpus) {
  std::printf("%-6s %8s %8s %8s %8s %8s %8s %7s %8s %5s %5s %6s\n", "lang", "descr.", "paragr.", "units", "segments",
              "pass", "unique", "capped", "train", "dev", "test", "ratio");
  for (const auto& language : languages) {
    const Funnel& f = funnels.at(language);
    const auto capped = report.capped.find(language);
    const auto rows = [&](const char* split) { return corpus.split(split).text.at(language).size(); };
    std::printf("%-6s %8zu %8zu %8zu %8zu %8zu %8zu %7zu %8zu %5zu %5zu %6.2f\n", language.c_str(), f.descriptions,
                f.paragraphs, f.units, f.segments, f.passed, f.unique,
                capped == report.capped.end() ? 0 : capped->second, rows("train"), rows("dev"), rows("test"), f.ratio);
  }
  const auto pivot = [&](const char* split) { return corpus.split(split).text.at(corpus.languages[0]).size(); };
  std::printf("%-6s %75zu %5zu %5zu\n", corpus.languages[0].c_str(), pivot("train"), pivot("dev"), pivot("test"));
  std::printf("dropped by rule, all languages:");
  for (std::size_t v = 1; v < verdict_names.size(); ++v) {
    std::size_t sum = 0;
    for (const auto& entry : funnels) sum += entry.second.verdicts[v];
    std::printf("%s %.*s %zu", v > 1 ? "," : "", static_cast<int>(verdict_names[v].size()), verdict_names[v].data(),
                sum);
  }
  std::printf("\ntest pool %zu segments, %zu unlike train\n", report.pool, report.remaining);
}

std::string letters_of(const std::string& list) {
  std::string out;
  for (const char c : list) {
    if (c == ',') continue;
    sparsemoe::require(std::string_view("stpl").find(c) != std::string_view::npos, "--keep-kinds: '", c,
                       "' is none of s (short line), t (sentence), p (paragraph), l (list item)");
    if (out.find(c) == std::string::npos) out += c;
  }
  sparsemoe::require(!out.empty(), "--keep-kinds names no kind");
  return out;
}

// The language of one file of a pair: as `given`, or what its name ends in, as in text.de.gz.
std::string language_of_file(const fs::path& file, const std::string& given) {
  if (!given.empty()) return given;
  const std::string extension = without_packing(file).extension().string();
  const std::string base = extension.substr(std::min<std::size_t>(1, extension.size()), extension.find_first_of("_-@"));
  sparsemoe::require(sparsemoe::is_language_code(base.substr(0, base.find_first_of("_-@"))), "'", file.string(),
                     "' does not end in the code of a language, as text.de does: give --source and --target");
  return extension.substr(1);
}

// Users' text, with the sets they brought; what was left out is said.
Corpus import_text(const CorpusOptions& o) {
  ParallelReader reader(o.import);
  const auto read = [&](const std::vector<std::string>& tables, const std::vector<std::string>& pairs, RowUse use,
                        const char* option) {
    for (const auto& table : tables) reader.read_tsv(table, use);
    sparsemoe::require(pairs.size() % 2 == 0, option, " needs two files each time");
    for (std::size_t i = 0; i < pairs.size(); i += 2)
      reader.read_pair(pairs[i], pairs[i + 1], language_of_file(pairs[i], o.source),
                       language_of_file(pairs[i + 1], o.target), use);
  };
  read(o.tsv, o.pairs, RowUse::any, "--pair");
  read(o.dev_tsv, o.dev_pairs, RowUse::dev, "--dev-pair");
  read(o.test_tsv, o.test_pairs, RowUse::test, "--test-pair");
  const RowCounts counts = reader.counts();
  HoldOutReport report;
  const ParallelText text = reader.take();
  // A set that was brought is never replaced by another one.
  const auto require_rows = [&](const std::vector<std::string>& tables, const std::vector<std::string>& pairs,
                                RowUse use, const char* set) {
    if (tables.empty() && pairs.empty()) return;
    sparsemoe::require(std::find(text.use.begin(), text.use.end(), use) != text.use.end(),
                       tables.empty() ? pairs[0] : tables[0], ": no row is left of the ", set, " set that was given; ",
                       counts.summary(0));
  };
  require_rows(o.dev_tsv, o.dev_pairs, RowUse::dev, "dev");
  require_rows(o.test_tsv, o.test_pairs, RowUse::test, "test");
  Corpus corpus = split_parallel(text, o.split, report);
  const auto rows = [&](const char* split) { return corpus.split(split).ids.size(); };
  sparsemoe::say(counts.summary(report.repeated));
  if (report.shared_dev > 0)
    sparsemoe::say(report.shared_dev, " rows of the dev set left out because they share a text with the test set");
  if (report.shared > report.shared_dev)
    sparsemoe::say(report.shared - report.shared_dev,
                   " rows left out because they share a text with the dev or test set that was given");
  sparsemoe::say("train ", rows("train"), ", dev ", rows("dev"), ", test ", rows("test"));
  sparsemoe::require(rows("train") > 0, "no row is left to train on");
  sparsemoe::require(rows("dev") > 0 || (o.dev_tsv.empty() && o.dev_pairs.empty()),
                     "every row of the dev set that was given shares a text with the test set");
  if (rows("dev") == 0) sparsemoe::say("warning: ", why_empty("dev", o.split.dev, report));
  if (rows("test") == 0) sparsemoe::say("warning: ", why_empty("test", o.split.test, report));
  return corpus;
}

// Throws Error with one sentence when something is wrong; then nothing is left at --out.
void make_corpus(const CorpusOptions& options) {
  const bool own = options.own();
  CorpusAbout about;
  about.seed = options.split.seed;
  about.kinds = letters_of(options.kinds);
  FetchOptions fetch = options.fetch;
  for (std::size_t i = 0; i < fetch.languages.size() && !own; ++i) {
    auto& language = fetch.languages[i];
    if (const auto known = sparsemoe::find_language(language, ddtp_languages()); !known.empty()) language = known;
    require_language_code(language);
    sparsemoe::require(!sparsemoe::same_language(language, "en"),
                       "--languages: English is always there, name the others");
    sparsemoe::require(
        std::count(fetch.languages.begin(), fetch.languages.begin() + static_cast<std::ptrdiff_t>(i), language) == 0,
        "--languages: ", language, " is named twice");
  }
  NewDirectory folder(options.out, options.force);  // before hours of work, not after
  Corpus corpus;
  if (own) {
    about.source = fs::path(options.tsv.empty() ? options.pairs[0] : options.tsv[0]).filename().string();
    about.kinds = "t";
    corpus = import_text(options);
  } else {
    about.source = "ddtp";
    about.suites = fetch.suites;
    fetch_suites(fetch);
    const double start = cpu_seconds();
    std::map<std::string, Funnel> funnels;
    auto segments = build_segments(fetch, about.kinds, Limits{}, funnels);
    std::vector<std::string> languages = {"en"};
    languages.insert(languages.end(), fetch.languages.begin(), fetch.languages.end());
    sparsemoe::say("dividing ", segments.size(), " English segments into train, dev and test");
    SplitReport report;
    corpus = split_segments(segments, languages, options.split, report);
    print_funnels(fetch.languages, funnels, report, corpus);
    std::printf("built in %.0f s of CPU\n", cpu_seconds() - start);
    sparsemoe::require(!corpus.split("train").ids.empty(), "no row is left to train on");
    for (const char* set : {"dev", "test"})
      if (corpus.split(set).ids.empty())
        sparsemoe::say("warning: no ", set, " rows: these suites and languages have too little text to hold some out");
  }
  if (options.tokenizer.vocabulary > 0) {
    sparsemoe::say("training a tokenizer of ", options.tokenizer.vocabulary, " pieces");
    const double start = cpu_seconds();
    about.vocabulary = train_tokenizer(corpus, options.tokenizer, folder.path() / "spm.model");
    sparsemoe::say("tokenizer: ", cpu_seconds() - start, " s of CPU");
  }
  write_corpus(corpus, about, folder.path());
  corpus = {};
  const Leaks leaks = check_leaks(load_corpus(folder.path()), options.split);
  std::printf(
      "recomputed from the files: %zu shared source families, %zu shared %s segments, %zu after normalising, "
      "%zu shared targets, %zu near duplicates; mean best 3-gram Jaccard of test with train %.3f\n",
      leaks.families, leaks.english, own ? "source" : "English", leaks.normalised, leaks.targets, leaks.near,
      leaks.mean_best_jaccard);
  sparsemoe::require(own ? leaks.english + leaks.normalised + leaks.targets == 0 : leaks.none(),
                     "train leaks into dev or test: the corpus was not written");
  folder.commit();
  std::printf("wrote %s\n", options.out.c_str());
}

}  // namespace

const char* const corpus_description =
    "Make a parallel corpus from Debian's translated package descriptions (fetched with apt) or your own text";

void add_corpus_options(CLI::App& app) {
  auto options = std::make_shared<CorpusOptions>();
  CLI::App* command = &app;
  command->add_option("--out", options->out, "Directory to write; must not exist")->required();
  command->add_flag("--force", options->force, "Replace --out if it is a corpus");
  command->add_option("--languages", options->fetch.languages, "Languages besides English")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--suites", options->fetch.suites, "Debian suites, oldest first")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--work", options->fetch.work, "Where fetched files are kept for the next run")
      ->capture_default_str();
  command->add_flag("--refresh", options->fetch.refresh, "Fetch again what --work already has");
  command
      ->add_option("--vocab", options->tokenizer.vocabulary,
                   "Pieces of the tokenizer, less where the text carries less; given, exactly so many; 0 for none")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000));
  command->add_option("--vocab-lines", options->tokenizer.lines, "Lines the tokenizer is trained on")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000000));
  command->add_option("--keep-kinds", options->kinds, "s short line, t sentence, p paragraph, l list item")
      ->capture_default_str();
  command->add_option("--seed", options->split.seed, "Another seed holds out other packages, or other rows")
      ->capture_default_str();
  command->add_option("--dev", options->split.dev, "Most dev rows a language")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000));
  command->add_option("--test", options->split.test, "Most test rows a language")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000));
  const auto tables = [&](const char* name, std::vector<std::string>& files, const char* what) {
    command->add_option(name, files, what)->expected(1, 100000);
  };
  const auto pairs = [&](const char* name, std::vector<std::string>& files, const char* what) {
    command->add_option(name, files, what)->expected(2, 100000);
  };
  tables("--tsv", options->tsv, "Own text: TSV files (.gz, .xz too) whose first line names the languages");
  pairs("--pair", options->pairs, "Own text: two files (.gz, .xz too), line by line translations; may be repeated");
  pairs("--dev-pair", options->dev_pairs, "Own dev set: as --pair; nothing is held out for dev then");
  pairs("--test-pair", options->test_pairs, "Own test set: as --pair; nothing is held out for test then");
  tables("--dev-tsv", options->dev_tsv, "Own dev set: as --tsv");
  tables("--test-tsv", options->test_tsv, "Own test set: as --tsv");
  command->add_option("--source", options->source,
                      "Language of the first file of every pair; default: what its name ends in, as .en or .en.gz");
  command->add_option("--target", options->target, "Language of the second file of every pair; default: likewise");
  command->add_flag("--strict", options->import.strict,
                    "A row of own text that cannot be used is an error; by default it is left out and counted");
  command->add_flag("--drop-identical", options->import.drop_identical, "Leave out translations that are their source");
  command
      ->add_option("--max-characters", options->import.max_characters,
                   "Rows of own text with a longer text are left out; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000));
  command->footer("The archive is the one this machine's apt knows; DDTP_ARCHIVE names another.");
  command->callback([options, command] {
    options->tokenizer.seed = options->split.seed;
    options->tokenizer.shrink = command->count("--vocab") == 0;
    const auto refuse = [command](std::initializer_list<const char*> names, const char* why) {
      for (const char* name : names) sparsemoe::require(command->count(name) == 0, name, " ", why);
    };
    if (options->own())
      refuse({"--languages", "--suites", "--work", "--refresh", "--keep-kinds"},
             "is for package descriptions: not together with --tsv and --pair");
    else
      refuse({"--dev-pair", "--test-pair", "--dev-tsv", "--test-tsv", "--source", "--target", "--strict",
              "--drop-identical", "--max-characters"},
             "is for own text: give --tsv or --pair too");
    if (options->pairs.empty() && options->dev_pairs.empty() && options->test_pairs.empty())
      refuse({"--source", "--target"}, "names the files of --pair: give that too");
    if (options->tokenizer.vocabulary == 0) refuse({"--vocab-lines"}, "does nothing with --vocab 0");
    make_corpus(*options);
  });
}

void add_corpus_command(CLI::App& app) { add_corpus_options(*app.add_subcommand("corpus", corpus_description)); }

}  // namespace nmt

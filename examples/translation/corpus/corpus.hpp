// corpus.hpp -- the command `corpus`: makes a parallel corpus from Debian's package descriptions or from users' files.
// Main idea: fetch, build, split, tokenizer, write, read back, prove that nothing leaks; the steps are in the headers
// included here. Read next: fetch.hpp for the first step, read_corpus.hpp to use the result.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "build.hpp"
#include "fetch.hpp"
#include "import.hpp"
#include "leaks.hpp"
#include "read_corpus.hpp"
#include "split.hpp"
#include "spm.hpp"
#include "write.hpp"

namespace nmt {

struct CorpusOptions {
  std::string out, tsv, source, target;
  std::vector<std::string> pair;
  std::string kinds = "s,t,p,l";
  FetchOptions fetch;
  SplitOptions split;
  TokenizerOptions tokenizer;
  bool force = false;
};

namespace detail {

inline double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

inline void print_funnels(const std::vector<std::string>& languages, const std::map<std::string, Funnel>& funnels,
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

inline std::string letters_of(const std::string& list) {
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

}  // namespace detail

/// Makes the corpus. Throws Error with one sentence when something is wrong; then nothing is left at --out.
inline void make_corpus(const CorpusOptions& options) {
  const bool own = !options.tsv.empty() || !options.pair.empty();
  sparsemoe::require(options.tsv.empty() || options.pair.empty(), "--tsv and --pair exclude each other");
  sparsemoe::require(
      options.pair.empty() || (options.pair.size() == 2 && !options.source.empty() && !options.target.empty()),
      "--pair needs two files, and --source and --target to name their languages");
  sparsemoe::require(options.tokenizer.vocabulary >= 0, "--vocab must not be negative");
  CorpusAbout about;
  about.seed = options.split.seed;
  about.kinds = detail::letters_of(options.kinds);
  about.vocabulary = options.tokenizer.vocabulary;
  for (std::size_t i = 0; i < options.fetch.languages.size(); ++i) {
    const auto& language = options.fetch.languages[i];
    require_language_code(language);
    sparsemoe::require(language != "en", "--languages: English is always there, name the others");
    sparsemoe::require(std::count(options.fetch.languages.begin(), options.fetch.languages.end(), language) == 1,
                       "--languages: ", language, " is named twice");
  }
  NewDirectory folder(options.out, options.force);  // before hours of work, not after
  Corpus corpus;
  if (own) {
    const ParallelText text =
        options.tsv.empty() ? read_parallel_files(options.pair[0], options.pair[1], options.source, options.target)
                            : read_parallel_tsv(options.tsv);
    about.source = fs::path(options.tsv.empty() ? options.pair[0] : options.tsv).filename().string();
    about.kinds = "t";
    corpus = split_parallel(text, options.split);
    say(text.rows.size(), " rows read, train ", corpus.split("train").ids.size(), ", dev ",
        corpus.split("dev").ids.size(), ", test ", corpus.split("test").ids.size());
  } else {
    about.source = "ddtp";
    about.suites = options.fetch.suites;
    fetch_suites(options.fetch);
    const double start = detail::cpu_seconds();
    std::map<std::string, Funnel> funnels;
    auto segments = build_segments(options.fetch, about.kinds, Limits{}, funnels);
    std::vector<std::string> languages = {"en"};
    languages.insert(languages.end(), options.fetch.languages.begin(), options.fetch.languages.end());
    say("dividing ", segments.size(), " English segments into train, dev and test");
    SplitReport report;
    corpus = split_segments(segments, languages, options.split, report);
    detail::print_funnels(options.fetch.languages, funnels, report, corpus);
    std::printf("built in %.0f s of CPU\n", detail::cpu_seconds() - start);
  }
  write_corpus(corpus, about, folder.path());
  if (about.vocabulary > 0) {
    say("training a tokenizer of ", about.vocabulary, " pieces");
    const double start = detail::cpu_seconds();
    train_tokenizer(corpus, options.tokenizer, folder.path() / "spm.model");
    say("tokenizer: ", detail::cpu_seconds() - start, " s of CPU");
  }
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

/// Registers the subcommand `corpus`. Its callback throws sparsemoe::Error; the program turns that into a sentence on
/// standard error and a non-zero exit.
inline void add_corpus_command(CLI::App& app) {
  auto options = std::make_shared<CorpusOptions>();
  CLI::App* command = app.add_subcommand(
      "corpus",
      "Make a parallel corpus from Debian's translated package descriptions (fetched with apt) or your own text");
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
  command->add_option("--vocab", options->tokenizer.vocabulary, "Pieces of the tokenizer; 0 for none")
      ->capture_default_str();
  command->add_option("--vocab-lines", options->tokenizer.lines, "Lines the tokenizer is trained on")
      ->capture_default_str();
  command->add_option("--keep-kinds", options->kinds, "s short line, t sentence, p paragraph, l list item")
      ->capture_default_str();
  command->add_option("--seed", options->split.seed, "Another seed holds out other packages")->capture_default_str();
  command->add_option("--dev", options->split.dev, "Most dev rows a language")->capture_default_str();
  command->add_option("--test", options->split.test, "Most test rows a language")->capture_default_str();
  command->add_option("--tsv", options->tsv, "Own text: a TSV file whose first line names the languages");
  command->add_option("--pair", options->pair, "Own text: two files, line by line translations")->expected(2);
  command->add_option("--source", options->source, "Language of the first file of --pair");
  command->add_option("--target", options->target, "Language of the second file of --pair");
  command->footer("The archive is the one this machine's apt knows; DDTP_ARCHIVE names another.");
  command->callback([options] {
    options->tokenizer.seed = options->split.seed;
    make_corpus(*options);
  });
}

}  // namespace nmt

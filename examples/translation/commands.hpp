// commands.hpp -- the commands that use a trained model: samples and evaluate here, translate in translate.hpp. Each is
// one function of its options. Read next: main.cpp, which registers them.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "run_files.hpp"
#include "scoring.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/report/training_report.hpp"
#include "translate.hpp"

namespace nmt {

struct SampleOptions {
  std::string model, from = "en", out;
  std::vector<std::string> to;
  std::int64_t threads = 0, max_length = 128;
};

/// A few lines of standard input into several languages: printed side by side, and written as the report's
/// samples.json.
inline int samples(SampleOptions o) {
  auto loaded = load_model(o.model, o.threads);
  o.from = require_language(loaded.file, o.from, "--from");
  for (auto& to : o.to) to = require_language(loaded.file, to, "--to");
  std::vector<UserLine> lines;
  UserText input(*loaded.tokenizer, {});
  for (UserLine line; input.next(line);) lines.push_back(std::move(line));
  std::vector<std::vector<std::string>> out;
  for (const auto& to : o.to) {
    const std::int32_t task = loaded.file.task_of(o.from, to), tag = loaded.tokenizer->tag(to);
    std::vector<Ids> encoded;
    for (const auto& line : lines)
      if (!line.ids.empty()) encoded.push_back(source_ids(tag, line.ids));
    std::vector<const Ids*> sources;
    for (const auto& ids : encoded) sources.push_back(&ids);
    const auto found = translate_all(*loaded.translator, *loaded.tokenizer, sources,
                                     std::vector<std::int32_t>(sources.size(), task), o.max_length);
    auto next = found.begin();
    auto& texts = out.emplace_back();
    for (const auto& line : lines) texts.push_back(line.ids.empty() ? std::string() : *next++);
  }
  moe::Json all = moe::Json::array();
  for (std::size_t i = 0; i < lines.size(); ++i) {
    moe::Json translations = moe::Json::array();
    std::printf("%-6s %s\n", o.from.c_str(), generation::row_text(lines[i].text, false).c_str());
    for (std::size_t t = 0; t < o.to.size(); ++t) {
      std::printf("%-6s %s\n", o.to[t].c_str(), generation::row_text(out[t][i], false).c_str());
      translations.push_back({{"language", o.to[t]}, {"text", out[t][i]}});
    }
    std::printf("\n");
    all.push_back({{"source", lines[i].text}, {"source_language", o.from}, {"translations", translations}});
  }
  moe::require_output_written();
  if (!o.out.empty()) moe::atomic_write(o.out, all.dump(2) + "\n");
  return 0;
}

struct EvaluateOptions {
  std::string model, corpus, split = "dev", kinds, tokenizer, scores, samples, directions = "both";
  std::vector<std::string> languages;
  bool json = false;
  ExpertOptions experts;
  std::int64_t rows = 0, max_length = 0, threads = 0, high = 15000, beam = 1;
};

/// BLEU and chrF per direction beside copying the source, the averages, and the signatures. kinds default to what the
/// run was trained on, max_length to scoring_length of it.
inline int evaluate(EvaluateOptions o) {
  auto loaded = load_model(o.model, o.threads, o.experts);
  TrainSettings trained;
  if (const auto saved = fs::path(o.model) / "settings.json"; fs::exists(saved)) moe::load_config(saved, trained);
  if (o.kinds.empty()) o.kinds = trained.kinds;
  if (o.max_length == 0) o.max_length = scoring_length(trained.max_length);
  const std::vector<std::string> languages = chosen_languages(loaded.file, o.languages);
  const Corpus corpus = load_corpus(o.corpus, languages);
  const auto& split = corpus.split(o.split);
  std::map<std::string, std::size_t> train_pairs;
  for (std::size_t i = 1; i < languages.size(); ++i)
    train_pairs[languages[i]] = corpus.split("train").pairs(languages[0], languages[i]).size();
  std::vector<DirectionScore> scores;
  moe::Json list = moe::Json::array();
  std::int64_t cut = 0;
  for (const auto& d : directions_of(languages, o.directions)) {
    if (!loaded.file.serves(d.source, d.target)) continue;
    const auto s = score_direction(*loaded.translator, loaded.file, *loaded.tokenizer, split, d, o.kinds, o.max_length,
                                   o.rows, o.beam);
    if (s.segments == 0) continue;
    if (scores.empty() && !o.json)
      std::printf("%-12s %6s %7s %7s %11s %11s\n", "direction", "rows", "BLEU", "chrF", "copy BLEU", "copy chrF");
    scores.push_back(s);
    cut += s.cut;
    list.push_back({{"direction", d.name()},
                    {"bleu", s.bleu},
                    {"chrf", s.chrf},
                    {"copy_bleu", s.copy_bleu},
                    {"copy_chrf", s.copy_chrf},
                    {"segments", s.segments},
                    {"cut", s.cut},
                    {"signature", moe::bleu_signature(moe::bleu_tokenizer_for(d.target))}});
    if (!o.json) {
      std::printf("%-12s %6zu %7.1f %7.1f %11.1f %11.1f\n", d.name().c_str(), s.segments, s.bleu, s.chrf, s.copy_bleu,
                  s.copy_chrf);
      std::fflush(stdout);
    }
  }
  moe::require(!scores.empty(), o.corpus, ": split '", o.split, "' has no pair of kinds '", o.kinds, "'");
  if (cut > 0)
    std::fprintf(stderr, "warning: %lld sources are longer than %lld tokens and are cut; --max-length reads more\n",
                 static_cast<long long>(cut), static_cast<long long>(o.max_length));
  const moe::Json mean = averages(scores, languages.front(), train_pairs, static_cast<std::size_t>(o.high));
  const std::string signature = moe::bleu_signature(moe::BleuTokenizer::mteval13a);
  const moe::Json all = {{"split", o.split},
                         {"kinds", o.kinds},
                         {"beam", o.beam},
                         {"signature", signature},
                         {"chrf_signature", moe::chrf_signature(moe::ChrfKind::chrf2)},
                         {"directions", list},
                         {"averages", mean}};
  if (o.json) {
    std::printf("%s\n", all.dump(2).c_str());
  } else {
    for (const auto& [name, value] : mean.items())
      std::printf("%-12s %6d %7.1f %7.1f %11.1f %11.1f\n", name.c_str(),
                  static_cast<int>(value["directions"].get<double>()), value["bleu"].get<double>(),
                  value["chrf"].get<double>(), value["copy_bleu"].get<double>(), value["copy_chrf"].get<double>());
    std::printf("BLEU %s (tok:zh for zh, tok:char for ja)\nchrF %s\n", signature.c_str(),
                moe::chrf_signature(moe::ChrfKind::chrf2).c_str());
  }
  moe::require_output_written();
  if (!o.scores.empty()) moe::atomic_write(o.scores, all.dump(2) + "\n");
  return 0;
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// commands/evaluate.cpp -- the command `evaluate`. Read next: examples/translation/scoring.hpp.
#include "../evaluate.hpp"

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../run_files.hpp"
#include "../scoring.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/text/bleu.hpp"
#include "sparsemoe/text/chrf.hpp"

namespace nmt {

int evaluate(EvaluateOptions o) {
  auto loaded = load_model(o.model, o.threads, o.experts);
  complete(o, o.model);
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

Command evaluate_command(const Words& /*words*/) {
  const auto o = std::make_shared<EvaluateOptions>();
  const auto add = [o](CLI::App& command) {
    std::vector<Option> options = {
        {.name = "--model", .to = &o->model, .help = "Run or checkpoint", .given = Given::always},
        {.name = "--corpus", .to = &o->corpus, .help = "Corpus directory", .given = Given::always},
        split_option(*o)};
    options = options + direction_options(*o) +
              text_options(*o, {.max_length =
                                    "Most tokens of a side; default: twice what the run was trained on, at least 100"});
    add_option_list(command, options);
    add_option_list(
        command,
        {{.name = "--beam", .to = &o->beam, .help = "Beams; 1: greedy", .value = Default::said, .range = {{1, 64}}},
         {.name = "--high",
          .to = &o->high,
          .help = "Training pairs above which a language counts as high-resource",
          .value = Default::said,
          .range = {{0, 1000000000}}},
         {.name = "--scores", .to = &o->scores, .help = "Also write the scores to this JSON file"},
         threads_option(o->threads)});
    add_option_list(command, expert_options(o->experts));
    add_option_list(command, {{.name = "--json", .to = &o->json, .help = "Print JSON"}});
  };
  return {"evaluate", "BLEU and chrF of a model on a split, beside copying the source", add,
          [o] { return evaluate(*o); }};
}

}  // namespace nmt

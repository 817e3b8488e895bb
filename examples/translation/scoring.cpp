// SPDX-License-Identifier: Apache-2.0
// scoring.cpp -- the functions of scoring.hpp, and of selection.hpp what a trained model says.
#include "scoring.hpp"

#include "selection.hpp"
#include "sparsemoe/text/bleu.hpp"
#include "sparsemoe/text/chrf.hpp"

namespace nmt {

void complete(Selection& s, const std::string& run) {
  TrainSettings trained;
  if (const auto saved = fs::path(run) / "settings.json"; fs::exists(saved)) moe::load_config(saved, trained);
  if (s.kinds.empty()) s.kinds = trained.kinds;
  if (s.max_length == 0) s.max_length = scoring_length(trained.max_length);
}

DirectionScore score_direction(Translator& model, const ModelFile& file, const Tokenizer& tokenizer,
                               const SplitRows& split, const Direction& d, const std::string& kinds,
                               std::int64_t max_length, std::int64_t rows, std::int64_t beams) {
  std::vector<TextPair> texts;
  const auto encoded =
      encode_direction(split, d, file.task_of(d.source, d.target), tokenizer, kinds, max_length, false, rows, &texts);
  DirectionScore s{d, 0, 0, 0, 0, texts.size(), encoded.too_long};
  if (texts.empty()) return s;
  std::vector<const Ids*> sources;
  for (const auto& ids : encoded.source) sources.push_back(&ids);
  const auto hypotheses = translate_all(model, tokenizer, sources,
                                        std::vector<std::int32_t>(sources.size(), encoded.task), max_length, 64, beams);
  std::vector<std::string> references, copies;
  for (const auto& t : texts) references.push_back(*t.target), copies.push_back(*t.source);
  const auto kind = moe::bleu_tokenizer_for(d.target);
  s.bleu = moe::corpus_bleu(hypotheses, references, kind).score;
  s.chrf = moe::corpus_chrf(hypotheses, references).score;
  s.copy_bleu = moe::corpus_bleu(copies, references, kind).score;
  s.copy_chrf = moe::corpus_chrf(copies, references).score;
  return s;
}

moe::Json averages(const std::vector<DirectionScore>& scores, const std::string& pivot,
                   const std::map<std::string, std::size_t>& train_pairs, std::size_t threshold) {
  moe::Json out = moe::Json::object();
  const auto add = [&](const char* name, auto&& wanted) {
    double bleu = 0, chrf = 0, copy_bleu = 0, copy_chrf = 0, n = 0;
    for (const auto& s : scores)
      if (s.segments > 0 && wanted(s))
        bleu += s.bleu, chrf += s.chrf, copy_bleu += s.copy_bleu, copy_chrf += s.copy_chrf, n += 1;
    if (n > 0)
      out[name] = {{"bleu", bleu / n},
                   {"chrf", chrf / n},
                   {"copy_bleu", copy_bleu / n},
                   {"copy_chrf", copy_chrf / n},
                   {"directions", n}};
  };
  const auto high = [&](const DirectionScore& s) {
    const auto it = train_pairs.find(s.direction.source == pivot ? s.direction.target : s.direction.source);
    return it != train_pairs.end() && it->second > threshold;
  };
  add("all", [](const DirectionScore&) { return true; });
  add("xx2en", [&](const DirectionScore& s) { return s.direction.target == pivot; });
  add("en2xx", [&](const DirectionScore& s) { return s.direction.source == pivot; });
  add("high", [&](const DirectionScore& s) { return high(s); });
  add("low", [&](const DirectionScore& s) { return !high(s); });
  return out;
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// scoring.hpp -- BLEU and chrF of a model on a split, per direction, beside copying the source; averages as in the
// task-MoE paper's Table 1: xx2en, en2xx, high- and low-resource. Read next: commands/evaluate.cpp, validation.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "data.hpp"
#include "sparsemoe/io/json.hpp"

namespace nmt {

namespace moe = sparsemoe;

struct DirectionScore {
  Direction direction;
  double bleu = 0, chrf = 0, copy_bleu = 0, copy_chrf = 0;
  std::size_t segments = 0;
  std::int64_t cut = 0;  // sources longer than is read
};

/// Longest source read and longest output when scoring a model trained on pairs of at most `trained` tokens: references
/// are never filtered by length, so what is decoded must be able to reach them.
inline std::int64_t scoring_length(std::int64_t trained) { return std::max<std::int64_t>(100, 2 * trained); }

/// Decodes up to `rows` pairs (0: all) of one direction and scores them.
DirectionScore score_direction(Translator& model, const ModelFile& file, const Tokenizer& tokenizer,
                               const SplitRows& split, const Direction& d, const std::string& kinds,
                               std::int64_t max_length, std::int64_t rows, std::int64_t beams = 1);

/// Means over directions. `train_pairs` by language decides high (more than `threshold`) and low.
moe::Json averages(const std::vector<DirectionScore>& scores, const std::string& pivot,
                   const std::map<std::string, std::size_t>& train_pairs, std::size_t threshold);

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// train_tokenizer.hpp -- trains a SentencePiece model with one tag per language.
// Main idea: sample lines with temperature so that small languages get pieces too; no text normalisation, so decoding
// gives back the text; byte fallback, so nothing is unknown; tags are control symbols, which no text contains.
// Read next: command.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "read_corpus.hpp"

namespace nmt {

struct TokenizerOptions {
  int vocabulary = 8000;
  bool shrink = true;           ///< to what the text carries, if that is less
  std::size_t lines = 200000;   ///< sampled from train
  double bytes = 64e6;          ///< most of the sample
  double repeated_bytes = 1e6;  ///< most of a language whose lines come more than twice
  double temperature = 5;       ///< a language with n lines gets a share of n^(1/temperature)
  double pivot_weight = 3;      ///< English is one side of every pair
  double coverage = 0.9998;     ///< share of characters that get a piece of their own; the others fall back to bytes
  std::uint64_t seed = 0;
};

/// Trains a unigram model on train, writes `file` and returns how many pieces it has. Throws Error with the window of
/// sizes that the text allows when the vocabulary is outside it; with `shrink` a larger one becomes the largest.
int train_tokenizer(const Corpus& corpus, const TokenizerOptions& options, const fs::path& file);

}  // namespace nmt

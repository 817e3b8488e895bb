// spm.hpp -- trains and uses a SentencePiece model with one tag per language.
// Main idea: sample lines with temperature so that small languages get pieces too; no text normalisation, so decoding
// gives back the text; byte fallback, so nothing is unknown. Not for CUDA sources. Read next: corpus.hpp.
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cmath>
#include <fstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "read_corpus.hpp"

namespace nmt {

struct TokenizerOptions {
  int vocabulary = 8000;
  std::size_t lines = 200000;  ///< sampled from train
  double temperature = 5;      ///< a language with n lines gets a share of n^(1/temperature)
  double pivot_weight = 3;     ///< English is one side of every pair
  double coverage = 0.9998;    ///< share of characters that get a piece of their own; the others fall back to bytes
  std::uint64_t seed = 0;
};

/// The tag that asks for a target language, e.g. "<2de>".
inline std::string language_tag(std::string_view language) { return sparsemoe::join("<2", language, ">"); }

namespace detail {

/// Feeds sampled lines to the trainer without a file between.
class SampledLines final : public sentencepiece::SentenceIterator {
 public:
  SampledLines(const Corpus& corpus, const TokenizerOptions& options) {
    const SplitRows& train = corpus.split("train");
    double total = 0;
    std::vector<double> shares;
    for (const auto& language : corpus.languages) {
      const auto it = train.text.find(language);
      const double n = it == train.text.end() ? 0 : static_cast<double>(it->second.size());
      shares.push_back(n == 0 ? 0 : std::pow(n, 1 / options.temperature) * (shares.empty() ? options.pivot_weight : 1));
      total += shares.back();
    }
    for (std::size_t l = 0; l < shares.size(); ++l) {
      if (shares[l] == 0) continue;
      const auto& lines = train.text.at(corpus.languages[l]).lines;
      const auto wanted = static_cast<std::size_t>(static_cast<double>(options.lines) * shares[l] / total);
      // Whole passes first, then the lines with the smallest hashes: the same sample on every machine.
      for (std::size_t pass = 0; pass < wanted / lines.size(); ++pass)
        for (const auto& line : lines) lines_.push_back(&line);
      std::vector<std::pair<std::uint64_t, const std::string*>> order;
      for (const auto& line : lines) order.emplace_back(stable_hash(line, options.seed + 2), &line);
      std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return a.first != b.first ? a.first < b.first : *a.second < *b.second;
      });
      for (std::size_t i = 0; i < wanted % lines.size(); ++i) lines_.push_back(order[i].second);
    }
  }
  std::size_t size() const { return lines_.size(); }
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return *lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<const std::string*> lines_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// Trains a unigram model on train and writes `file`. Throws Error with SentencePiece's reason, e.g. when the text is
/// too small for the vocabulary.
inline void train_tokenizer(const Corpus& corpus, const TokenizerOptions& options, const fs::path& file) {
  std::string tags;
  for (const auto& language : corpus.languages) (tags += tags.empty() ? "" : ",") += language_tag(language);
  detail::SampledLines lines(corpus, options);
  sparsemoe::require(lines.size() > 0, "no training text to make a tokenizer from");
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(options.vocabulary)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"character_coverage", std::to_string(options.coverage)},
      {"user_defined_symbols", tags},
      {"pad_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"unk_id", "3"},
      {"num_threads", "1"},  // the result depends on it
      {"minloglevel", "1"}};
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
  sparsemoe::require(status.ok(), "cannot train a tokenizer of ", options.vocabulary, " pieces: ", status.message());
  write_file(file, model);
}

/// A loaded model. Ids: 0 padding, 1 begin, 2 end, 3 unknown.
class Tokenizer {
 public:
  static constexpr int pad = 0, begin = 1, end = 2, unknown = 3;

  /// Throws Error when the file is missing, no model, or has other special ids.
  explicit Tokenizer(const fs::path& file) {
    const std::string model = read_file(file);
    const auto status = processor_.LoadFromSerializedProto(model);
    sparsemoe::require(status.ok(), file.string(), ": not a SentencePiece model: ", status.message());
    sparsemoe::require(processor_.pad_id() == pad && processor_.bos_id() == begin && processor_.eos_id() == end &&
                           processor_.unk_id() == unknown,
                       file.string(), ": expected the ids pad 0, bos 1, eos 2, unk 3");
  }

  int size() const { return processor_.GetPieceSize(); }

  /// Ids of a text, without begin, end or tag. Throws Error on malformed UTF-8.
  std::vector<int> encode(std::string_view text) const {
    sparsemoe::require_utf8(text, "text to encode");
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    sparsemoe::require(status.ok(), "cannot encode: ", status.message());
    return ids;
  }

  /// Text of ids; special ids vanish. Throws Error for an id outside the vocabulary.
  std::string decode(const std::vector<int>& ids) const {
    for (const int id : ids)
      sparsemoe::require(id >= 0 && id < size(), "id ", id, " outside the vocabulary of ", size());
    std::string text;
    const auto status = processor_.Decode(ids, &text);
    sparsemoe::require(status.ok(), "cannot decode: ", status.message());
    return text;
  }

  /// The id of a language's tag. Throws Error when the model has none.
  int tag(std::string_view language) const {
    const int id = processor_.PieceToId(language_tag(language));
    sparsemoe::require(id != unknown, "the tokenizer has no tag ", language_tag(language));
    return id;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace nmt

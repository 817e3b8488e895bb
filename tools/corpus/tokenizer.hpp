// tokenizer.hpp -- trains and uses a SentencePiece model with one tag per language.
// Main idea: sample lines with temperature so that small languages get pieces too; no text normalisation, so decoding
// gives back the text; byte fallback, so nothing is unknown; tags are control symbols, which no text contains. Not for
// CUDA sources. Read next: command.hpp.
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "read_corpus.hpp"
#include "write.hpp"

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

/// The tag that asks for a target language, e.g. "<2de>".
inline std::string language_tag(std::string_view language) { return sparsemoe::join("<2", language, ">"); }

namespace detail {

/// Feeds sampled lines to the trainer without a file between. The trainer leaves out lines with U+2585, which it uses
/// itself; it is shown a space instead.
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
      // Lines are counted, but memory and time go with bytes: long lines are fewer, and few lines are not repeated for
      // ever.
      double bytes = 0;
      for (const auto& line : lines) bytes += static_cast<double>(line.size());
      const double n = static_cast<double>(lines.size()), share = shares[l] / total, mean = bytes / n;
      const double most = std::max(2 * n, options.repeated_bytes / mean);
      const auto wanted = static_cast<std::size_t>(
          std::max(1.0, std::min({static_cast<double>(options.lines) * share, options.bytes * share / mean, most})));
      // Whole passes first, then the lines with the smallest hashes: the same sample on every machine.
      for (std::size_t pass = 0; pass < wanted / lines.size(); ++pass)
        for (const auto& line : lines) add(line);
      std::vector<std::pair<std::uint64_t, const std::string*>> order;
      for (const auto& line : lines) order.emplace_back(stable_hash(line, options.seed + 2), &line);
      std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return a.first != b.first ? a.first < b.first : *a.second < *b.second;
      });
      for (std::size_t i = 0; i < wanted % lines.size(); ++i) add(*order[i].second);
    }
  }
  std::size_t size() const { return lines_.size(); }
  std::size_t longest() const { return longest_; }  // in bytes
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return *lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void add(const std::string& line) {
    constexpr std::string_view reserved = "\u2585";
    longest_ = std::max(longest_, line.size());
    if (line.find(reserved) == std::string::npos) return lines_.push_back(&line);
    std::string& own = changed_.emplace_back(line);
    for (std::size_t at = 0; (at = own.find(reserved, at)) != std::string::npos;) own.replace(at, reserved.size(), " ");
    lines_.push_back(&own);
  }

  std::vector<const std::string*> lines_;
  std::deque<std::string> changed_;
  std::size_t at_ = 0, longest_ = 0;
};

/// The number after `mark` in SentencePiece's words; nothing where there is none.
inline std::optional<int> number_after(std::string_view text, std::string_view mark) {
  const auto at = text.find(mark);
  int number = 0;
  if (at == std::string_view::npos) return {};
  text.remove_prefix(at + mark.size());
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc{}) return {};
  return number;
}

/// In a serialized model, makes tags that are user-defined symbols, as this program's older models have them, control
/// symbols: the former are found in text, so that users could write them. What is no model stays as it is.
inline void make_tags_control_symbols(std::string& model) {
  constexpr char control = 3, user_defined = 4;  // ModelProto.SentencePiece.Type
  struct Reader {
    std::string_view bytes;
    std::size_t at = 0;
    bool good = true;
    std::uint64_t varint() {
      std::uint64_t value = 0;
      for (unsigned shift = 0; shift < 64; shift += 7) {
        if (at >= bytes.size()) break;
        const auto byte = static_cast<unsigned char>(bytes[at++]);
        value |= std::uint64_t{byte & 0x7Fu} << shift;
        if ((byte & 0x80u) == 0) return value;
      }
      good = false;
      return 0;
    }
    /// Steps over a field's value; returns where its bytes begin and how many they are.
    std::pair<std::size_t, std::size_t> skip(std::uint64_t wire) {
      const std::size_t start = at;
      std::uint64_t count = wire == 1 ? 8 : wire == 5 ? 4 : 0;
      if (wire == 0) varint();
      if (wire == 2) count = varint();
      good = good && (wire == 0 || wire == 1 || wire == 2 || wire == 5) && count <= bytes.size() - at;
      const std::size_t first = wire == 0 ? start : at;
      if (good) at += static_cast<std::size_t>(count);
      return {first, at - first};
    }
  };
  Reader all{model};
  while (all.good && all.at < model.size()) {
    const std::uint64_t key = all.varint();
    const auto [start, count] = all.skip(key & 7);
    if (!all.good || key != (1 << 3 | 2)) continue;  // pieces
    Reader piece{std::string_view(model).substr(start, count)};
    std::string_view text;
    std::size_t type = 0;
    while (piece.good && piece.at < count) {
      const std::uint64_t field = piece.varint();
      const auto [first, bytes] = piece.skip(field & 7);
      if (piece.good && field == (1 << 3 | 2)) text = piece.bytes.substr(first, bytes);
      if (piece.good && field == (3 << 3 | 0) && bytes == 1) type = start + first;
    }
    if (type > 0 && model[type] == user_defined && text.starts_with("<2") && text.ends_with(">")) model[type] = control;
  }
}

}  // namespace detail

/// Trains a unigram model on train, writes `file` and returns how many pieces it has. Throws Error with the window of
/// sizes that the text allows when the vocabulary is outside it; with `shrink` a larger one becomes the largest.
inline int train_tokenizer(const Corpus& corpus, const TokenizerOptions& options, const fs::path& file) {
  std::string tags;
  for (const auto& language : corpus.languages) (tags += tags.empty() ? "" : ",") += language_tag(language);
  detail::SampledLines lines(corpus, options);
  sparsemoe::require(lines.size() > 0, "no training text to make a tokenizer from");
  std::unordered_map<std::string, std::string> settings = {
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(options.vocabulary)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"character_coverage", std::to_string(options.coverage)},
      {"control_symbols", tags},
      {"pad_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"unk_id", "3"},
      {"num_threads", "1"},   // the result depends on it
      {"minloglevel", "3"}};  // what it has to say comes in its status
  constexpr std::size_t usual_longest = 4192;
  if (lines.longest() > usual_longest) settings["max_sentence_length"] = std::to_string(lines.longest() + 1);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
  if (status.ok()) {
    write_file(file, model);
    return options.vocabulary;
  }
  const std::string_view reason(status.message());
  const auto most = detail::number_after(reason, "value <= "), least = detail::number_after(reason, " vs ");
  if (most && options.shrink && *most < options.vocabulary) {
    say("the text carries ", *most, " pieces, not ", options.vocabulary, ": the vocabulary is that small");
    TokenizerOptions smaller = options;
    smaller.vocabulary = *most;
    return train_tokenizer(corpus, smaller, file);
  }
  const auto bracket = reason.find("] ");
  sparsemoe::fail("cannot train a tokenizer of ", options.vocabulary, " pieces: ",
                  most    ? sparsemoe::join("the text carries at most ", *most, "; give --vocab ", *most, " or less")
                  : least ? sparsemoe::join("its characters, bytes and tags are ", *least, " already; give --vocab ",
                                            *least, " or more")
                          : std::string(bracket == reason.npos ? reason : reason.substr(bracket + 2)));
}

/// A loaded model. Ids: 0 padding, 1 begin, 2 end, 3 unknown.
class Tokenizer {
 public:
  static constexpr int pad = 0, begin = 1, end = 2, unknown = 3;

  /// Throws Error when the file is missing, no model, or has other special ids.
  explicit Tokenizer(const fs::path& file) {
    std::string model = sparsemoe::read_file(file, std::uint64_t{256} << 20);
    detail::make_tags_control_symbols(model);
    const auto status = processor_.LoadFromSerializedProto(model);
    sparsemoe::require(status.ok(), file.string(), ": not a SentencePiece model: ", status.message());
    sparsemoe::require(processor_.pad_id() == pad && processor_.bos_id() == begin && processor_.eos_id() == end &&
                           processor_.unk_id() == unknown,
                       file.string(), ": expected the ids pad 0, bos 1, eos 2, unk 3");
    for (int id = 0; id < size(); ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      if (processor_.IsControl(id) && piece.starts_with("<2") && piece.ends_with(">"))
        languages_.push_back(piece.substr(2, piece.size() - 3));
    }
  }

  int size() const { return processor_.GetPieceSize(); }

  /// Ids of a text, without begin, end or tag; whatever it says, none of them is a tag's, nor another control symbol's.
  /// Throws Error on malformed UTF-8.
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

  /// The byte that a piece stands for, -1 for text.
  std::int16_t byte(int id) const {
    if (!processor_.IsByte(id)) return -1;
    unsigned value = 0;  // "<0x41>"
    const std::string& piece = processor_.IdToPiece(id);
    const bool sized = piece.size() == 6;
    const auto [end, error] =
        std::from_chars(piece.data() + (sized ? 3 : 0), piece.data() + (sized ? 5 : 0), value, 16);
    sparsemoe::require(sized && error == std::errc{} && end == piece.data() + 5, "the tokenizer's piece ", id,
                       " is no byte: ", piece);
    return static_cast<std::int16_t>(value);
  }

  /// The id of a language's tag, by any code of the language. Throws Error when the model has none.
  int tag(std::string_view language) const {
    const std::string known = sparsemoe::find_language(language, languages_);
    sparsemoe::require(!known.empty(), "the tokenizer has no tag ", language_tag(language));
    return processor_.PieceToId(language_tag(known));
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> languages_;  // that have a tag
};

}  // namespace nmt

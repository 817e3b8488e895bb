// SPDX-License-Identifier: Apache-2.0
// train_tokenizer.cpp -- the functions of train_tokenizer.hpp, which says what they do.
#include "train_tokenizer.hpp"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "languages.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "tokenizer.hpp"
#include "write.hpp"

namespace nmt {

namespace {

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

// The number after `mark` in SentencePiece's words; nothing where there is none.
std::optional<int> number_after(std::string_view text, std::string_view mark) {
  const auto at = text.find(mark);
  int number = 0;
  if (at == std::string_view::npos) return {};
  text.remove_prefix(at + mark.size());
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc{}) return {};
  return number;
}

}  // namespace

int train_tokenizer(const Corpus& corpus, const TokenizerOptions& options, const fs::path& file) {
  std::string tags;
  for (const auto& language : corpus.languages) (tags += tags.empty() ? "" : ",") += language_tag(language);
  SampledLines lines(corpus, options);
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
  const auto most = number_after(reason, "value <= "), least = number_after(reason, " vs ");
  if (most && options.shrink && *most < options.vocabulary) {
    sparsemoe::say("the text carries ", *most, " pieces, not ", options.vocabulary, ": the vocabulary is that small");
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

}  // namespace nmt

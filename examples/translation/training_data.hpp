// SPDX-License-Identifier: Apache-2.0
// training_data.hpp -- what a run trains on and is validated on: the text is read first, so that all that can be
// refused is refused before it is encoded, which takes minutes for a large corpus. What is left out is counted and
// said. Read next: encoding_cache.hpp; train.hpp, which trains on it.
#pragma once

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "data.hpp"
#include "encoding_cache.hpp"
#include "settings.hpp"
#include "sparsemoe/io/short_text.hpp"
#include "sparsemoe/io/terminal.hpp"

namespace nmt {

namespace moe = sparsemoe;

class TrainingData {
 public:
  /// Reads text and tokenizer. Throws Error if the corpus cannot be trained on.
  explicit TrainingData(const TrainSettings& settings) : s_(settings) {
    std::vector<std::string> languages;
    if (!s_.languages.empty()) {
      languages = pivot();
      for (const auto& l : s_.languages)
        if (std::find(languages.begin(), languages.end(), l) == languages.end()) languages.push_back(l);
    }
    corpus = load_corpus(s_.corpus, languages, s_.tokenizer);
    moe::require(!corpus.tokenizer.empty(), s_.corpus,
                 ": the corpus has no tokenizer (spm.model); give --tokenizer FILE");
    moe::require(corpus.languages.size() >= 2, s_.corpus, ": at least two languages are needed to translate");
    tokenizer = std::make_unique<Tokenizer>(corpus.tokenizer);
    moe::require(corpus.splits.count("train") != 0, s_.corpus, ": the corpus has no split 'train'");
  }

  Corpus corpus;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<EncodedDirection> pairs, dev;

  /// A checksum of all that the training pairs depend on: text, tokenizer and the options that choose among it.
  std::string key() const {
    moe::Sha256 sum;
    const auto add = [&](const std::string& text) { sum.add(moe::join(text.size(), ":")).add(text); };
    for (const auto& part : {std::string("pairs 1"), moe::sha256_file(corpus.tokenizer), s_.kinds, s_.directions,
                             std::to_string(s_.max_length)})
      add(part);
    const SplitRows& train = corpus.split("train");
    sum.add(train.ids.data(), train.ids.size() * sizeof train.ids[0]).add(train.kinds.data(), train.kinds.size());
    for (const auto& language : corpus.languages) {
      add(language);
      const auto text = train.text.find(language);
      if (text == train.text.end()) continue;
      sum.add(text->second.ids.data(), text->second.ids.size() * sizeof text->second.ids[0]);
      for (const auto& line : text->second.lines) add(line);
    }
    return sum.hex();
  }

  /// Makes the training pairs and the first dev pairs. `kept`: where they may be from before. Throws Error if there is
  /// no training pair.
  void encode(const ModelFile& file, const EncodingCache& kept) {
    for (const auto& d : directions_of(corpus.languages, s_.directions))
      if (file.serves(d.source, d.target)) pairs.push_back({d, file.task_of(d.source, d.target), {}, {}, 0});
    from_cache_ = kept.load(pairs, tokenizer->size(), s_.max_length) && as_encoded_now();
    if (!from_cache_) moe::say("encoding ", s_.corpus, " ...");
    for (auto& d : pairs) {
      if (!from_cache_) d = encoded("train", d, 0);
      if (corpus.splits.count("dev") != 0) dev.push_back(encoded("dev", d, s_.validate_rows));
    }
    left_out_ = total(pairs, true), dev_left_out_ = total(dev, true);
    if (count() > 0) return;
    moe::require(left_out_ == 0, s_.corpus, ": all ", left_out_, " training pairs of kinds '", s_.kinds,
                 "' are longer than ", s_.max_length, " tokens; a larger --max-length trains on them");
    moe::fail(s_.corpus, ": no training pair of kinds '", s_.kinds, "' within ", s_.max_length, " tokens");
  }
  bool from_cache() const { return from_cache_; }

  std::int64_t count() const { return total(pairs, false); }
  std::int64_t left_out() const { return left_out_; }
  std::int64_t dev_count() const { return total(dev, false); }
  std::int64_t dev_left_out() const { return dev_left_out_; }
  std::vector<std::string> names() const {
    std::vector<std::string> n;
    for (const auto& d : pairs) n.push_back(d.direction.name());
    return n;
  }

  /// "72,123 of 85,492 training pairs; 13,369 longer than 40 tokens are left out".
  std::string pairs_sentence() const { return sentence("training", count(), left_out_); }
  /// What is validated on, or why nothing is and what helps; "" where there is nothing to say.
  std::string validation_sentence() const {
    if (dev_count() > 0)
      return dev_left_out_ == 0 ? "" : "validation on " + sentence("dev", dev_count(), dev_left_out_);
    const char* null = "; the validation loss and BLEU are null. ";
    if (dev_left_out_ > 0)
      return moe::join("no validation: all ", with_commas(dev_left_out_), " dev pairs are longer than ", s_.max_length,
                       " tokens", null, "A larger --max-length validates on them");
    return moe::join("no validation: ", s_.corpus, " has no dev pair of these languages and kinds '", s_.kinds, "'",
                     null, "The corpus command sets dev rows aside where it has enough, or takes them from --dev-pair");
  }
  /// The lengths of the pairs as batches are made of them.
  std::vector<std::vector<moe::BatchSampler::Lengths>> lengths() const {
    std::vector<std::vector<moe::BatchSampler::Lengths>> all;
    for (const auto& d : pairs) {
      all.emplace_back();
      for (std::size_t i = 0; i < d.source.size(); ++i)
        all.back().push_back(
            {static_cast<std::int32_t>(d.source[i].size()), static_cast<std::int32_t>(d.target[i].size()) + 1});
    }
    return all;
  }
  /// How often each id is in the training pairs.
  std::vector<std::int64_t> frequencies() const {
    std::vector<std::int64_t> n(static_cast<std::size_t>(tokenizer->size()), 0);
    for (const auto& d : pairs)
      for (const auto& side : {&d.source, &d.target})
        for (const auto& row : *side)
          for (const auto id : row) ++n[static_cast<std::size_t>(id)];
    return n;
  }

 private:
  static std::int64_t total(const std::vector<EncodedDirection>& all, bool too_long) {
    std::int64_t n = 0;
    for (const auto& d : all) n += too_long ? d.too_long : static_cast<std::int64_t>(d.source.size());
    return n;
  }
  std::string sentence(const char* what, std::int64_t used, std::int64_t left) const {
    if (left == 0) return moe::join(with_commas(used), " ", what, " pairs");
    return moe::join(with_commas(used), " of ", with_commas(used + left), " ", what, " pairs; ", with_commas(left),
                     " longer than ", s_.max_length, left == 1 ? " tokens is left out" : " tokens are left out");
  }
  static std::string with_commas(std::int64_t n) {
    std::string digits = std::to_string(n);
    for (auto at = static_cast<std::int64_t>(digits.size()) - 3; at > 0; at -= 3)
      digits.insert(static_cast<std::size_t>(at), ",");
    return digits;
  }

  EncodedDirection encoded(const char* split, const EncodedDirection& d, std::int64_t rows,
                           std::vector<TextPair>* texts = nullptr) const {
    return encode_direction(corpus.split(split), d.direction, d.task, *tokenizer, s_.kinds, s_.max_length, true, rows,
                            texts);
  }
  /// Whether some of the kept pairs are what the tokenizer makes of their text today.
  bool as_encoded_now() const {
    const SplitRows& train = corpus.split("train");
    for (const auto& d : pairs) {
      std::vector<TextPair> chosen;
      for (const auto& p : train.pairs(d.direction.source, d.direction.target))
        if (s_.kinds.find(train.kind(p.id)) != std::string::npos) chosen.push_back(p);
      if (static_cast<std::int64_t>(chosen.size()) != static_cast<std::int64_t>(d.source.size()) + d.too_long)
        return false;
      // The first pairs, up to which it is known how many were left out.
      std::size_t row = 0;
      for (std::size_t i = 0; i < std::min<std::size_t>(chosen.size(), 32); ++i) {
        Ids source = tokenizer->encode(*chosen[i].source), target = tokenizer->encode(*chosen[i].target);
        if (static_cast<std::int64_t>(source.size()) + 2 > s_.max_length ||
            static_cast<std::int64_t>(target.size()) + 1 > s_.max_length)
          continue;
        source.insert(source.begin(), tokenizer->tag(d.direction.target));
        source.push_back(Tokenizer::end);
        if (row >= d.source.size() || d.source[row] != source || d.target[row] != target) return false;
        ++row;
      }
    }
    return true;
  }
  /// The corpus' first language, which --languages need not name.
  std::vector<std::string> pivot() const {
    const fs::path about = fs::path(s_.corpus) / "corpus.json";
    if (!fs::exists(about)) return {"en"};
    const auto j = moe::read_json(about);
    const bool listed = j.is_object() && j.contains("languages") && j["languages"].is_array() &&
                        !j["languages"].empty() && j["languages"][0].is_string();
    if (!listed) moe::fail_file(about, "has no list of languages");
    return {j["languages"][0]};
  }

  TrainSettings s_;
  std::int64_t left_out_ = 0, dev_left_out_ = 0;
  bool from_cache_ = false;
};

}  // namespace nmt

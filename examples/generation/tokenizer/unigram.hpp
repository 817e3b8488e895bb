// SPDX-License-Identifier: Apache-2.0
// unigram.hpp -- a Unigram model of a tokenizer.json: of all ways to cut a text into pieces the one of the highest sum
// of scores (Kudo 2018). Read next: bpe.hpp, tokenizer_json.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "component.hpp"
#include "prefix_index.hpp"
#include "text_model.hpp"
#include "unicode.hpp"

namespace generation {

class UnigramModel : public TextModel {
 public:
  /// Throws FileError for what is not offered, an unknown piece that is not there, and scores that are no numbers.
  UnigramModel(const Component& c, const ModelTables& tables) {
    c.expect_keys({"unk_id", "vocab", "byte_fallback"});
    const auto& vocabulary = tables.vocabulary;
    if (vocabulary.empty()) c.fail("has no pieces in \"vocab\"");
    if (c.has("unk_id")) unknown_ = static_cast<std::int32_t>(c.count("unk_id", std::ssize(vocabulary) - 1));
    byte_fallback_ = c.flag("byte_fallback", false);
    double lowest = std::numeric_limits<double>::infinity();
    std::vector<PrefixIndex::Word> words;
    for (std::size_t i = 0; i < vocabulary.size(); ++i) {
      const auto& [piece, score] = vocabulary[i];
      if (!std::isfinite(score)) c.fail("piece ", moe::detail::shown(piece), " has a score that is not finite");
      add(piece, i);
      words.emplace_back(piece, static_cast<std::int32_t>(i));
      scores_.push_back(score);
      lowest = std::min(lowest, score);
    }
    index_ = PrefixIndex(std::move(words));
    unknown_score_ = lowest - 10;
  }

  void encode(const std::string& text, Ids& ids) const override {
    struct Best {
      double score = 0;
      std::size_t from = 0;
      std::int32_t id = -1;
      bool reached = false;
    };
    std::vector<Best> best(text.size() + 1);
    const auto offer = [&](std::size_t from, std::size_t to, double score, std::int32_t id) {
      if (!best[to].reached || score > best[to].score) best[to] = {score, from, id, true};
    };
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t character = step_at(text, at).bytes;
      const double before = best[at].score;
      bool single = false;
      index_.each_prefix(std::string_view(text).substr(at), [&](std::size_t length, std::int32_t id) {
        offer(at, at + length, scores_[static_cast<std::size_t>(id)] + before, id);
        single = single || length == character;
      });
      if (!single) offer(at, at + character, unknown_score_ + before, unknown_);
      at += character;
    }
    std::vector<std::pair<std::size_t, std::size_t>> cuts;  // from back to front; neighbours that are unknown are one
    bool fused = false;
    for (std::size_t end = text.size(); end > 0; end = best[end].from) {
      const bool unknown = best[end].id == unknown_;
      if (unknown && fused)
        cuts.back().first = best[end].from;
      else
        cuts.emplace_back(best[end].from, end);
      fused = unknown;
    }
    for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
      const std::string piece = text.substr(cut->first, cut->second - cut->first);
      const std::int32_t id = id_of(piece);
      if (id >= 0) {
        ids.push_back(id);
      } else if (!byte_fallback_ || !add_bytes(piece, ids)) {
        moe::require(unknown_ >= 0, "cannot encode ", moe::detail::shown(piece),
                     ": the tokenizer has no unknown piece");
        ids.push_back(unknown_);
      }
    }
  }

 private:
  PrefixIndex index_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  std::int32_t unknown_ = -1;
  bool byte_fallback_ = false;
};

}  // namespace generation

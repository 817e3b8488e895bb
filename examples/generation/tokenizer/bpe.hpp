// SPDX-License-Identifier: Apache-2.0
// bpe.hpp -- a BPE model of a tokenizer.json: characters, and the pair of the lowest rank merged as long as there is
// one (Sennrich et al. 2016). Read next: tokenizer_json.hpp.
#pragma once

#include <queue>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "component.hpp"
#include "text_model.hpp"
#include "unicode.hpp"

namespace generation {

class BpeModel : public TextModel {
 public:
  /// Throws FileError for what is not offered, ids that are not, and merges of what is no piece.
  BpeModel(const Component& c, const ModelTables& tables) {
    c.expect_keys({"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                   "byte_fallback", "ignore_merges", "vocab", "merges"});
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (c.has(key) && !c.text(key).empty()) c.fail("key \"", key, "\" is not offered");
    if (c.has("dropout") && c.at("dropout") != 0)
      c.fail("key \"dropout\" is not offered: ids would be drawn by chance");
    std::vector<bool> seen;
    constexpr double most = 1 << 24;
    for (const auto& [piece, number] : tables.vocabulary) {
      if (!(number >= 0 && number < most) || number != static_cast<double>(static_cast<std::size_t>(number)))
        c.fail("piece ", moe::detail::shown(piece), " has the id ", number, ", expected an integer from 0 to 2^24");
      const auto id = static_cast<std::size_t>(number);
      if (id >= seen.size()) seen.resize(id + 1);
      if (seen[id]) c.fail("has the id ", id, " twice in \"vocab\"");
      seen[id] = true;
      if (id_of(piece) >= 0) c.fail("has the piece ", moe::detail::shown(piece), " twice in \"vocab\"");
      add(piece, id);
    }
    if (c.has("unk_token")) {
      unknown_ = id_of(c.text("unk_token"));
      if (unknown_ < 0) c.fail("key \"unk_token\" is ", moe::detail::shown(c.text("unk_token")), ", which is no piece");
    }
    fuse_unknown_ = c.flag("fuse_unk", false);
    byte_fallback_ = c.flag("byte_fallback", false);
    ignore_merges_ = c.flag("ignore_merges", false);
    for (std::size_t rank = 0; rank < tables.merges.size(); ++rank) {
      const auto& [left, right] = tables.merges[rank];
      const std::int32_t a = id_of(left), b = id_of(right), both = id_of(left + right);
      if (a < 0 || b < 0 || both < 0)
        c.fail("merge ", rank, " of ", moe::detail::shown(left), " and ", moe::detail::shown(right),
               ": they and what they make must be pieces");
      merges_[pair_of(a, b)] = {rank, both};
    }
  }

  void encode(const std::string& text, Ids& ids) const override {
    if (ignore_merges_ && id_of(text) >= 0) {
      ids.push_back(id_of(text));
      return;
    }
    const Ids symbols = merged(symbols_of(text));
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }

 private:
  struct Merge {
    std::size_t rank;
    std::int32_t id;
  };
  static std::uint64_t pair_of(std::int32_t a, std::int32_t b) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(a)) << 32 | static_cast<std::uint32_t>(b);
  }

  /// The characters' ids; a character that is no piece is its bytes, or unknown.
  Ids symbols_of(const std::string& text) const {
    Ids symbols;
    std::int32_t waiting = -1;  // an unknown piece that the next one may join
    for (std::size_t at = 0; at < text.size();) {
      const std::string character = text.substr(at, step_at(text, at).bytes);
      at += character.size();
      const std::int32_t id = id_of(character);
      if (id >= 0) {
        if (waiting >= 0) symbols.push_back(std::exchange(waiting, -1));
        symbols.push_back(id);
      } else if ((!byte_fallback_ || !add_bytes(character, symbols)) && unknown_ >= 0) {
        if (waiting >= 0 && !fuse_unknown_) symbols.push_back(waiting);
        waiting = unknown_;
      }
    }
    if (waiting >= 0) symbols.push_back(waiting);
    return symbols;
  }

  /// Merges in the order of their ranks, of equal ones the left one first.
  Ids merged(Ids symbols) const {
    const auto n = std::ssize(symbols);
    std::vector<std::ptrdiff_t> next(symbols.size()), previous(symbols.size());
    std::vector<bool> gone(symbols.size());
    using Entry = std::tuple<std::size_t, std::ptrdiff_t, std::int32_t>;  // rank, position, id of both
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    const auto at = [&](std::ptrdiff_t i) { return symbols[static_cast<std::size_t>(i)]; };
    const auto offer = [&](std::ptrdiff_t left, std::ptrdiff_t right) {
      if (left < 0 || right >= n) return;
      const auto found = merges_.find(pair_of(at(left), at(right)));
      if (found != merges_.end()) queue.emplace(found->second.rank, left, found->second.id);
    };
    for (std::ptrdiff_t i = 0; i < n; ++i) {
      next[static_cast<std::size_t>(i)] = i + 1;
      previous[static_cast<std::size_t>(i)] = i - 1;
      offer(i, i + 1);
    }
    while (!queue.empty()) {
      const auto [rank, left, id] = queue.top();
      queue.pop();
      const auto l = static_cast<std::size_t>(left);
      if (gone[l] || next[l] >= n) continue;
      const auto r = static_cast<std::size_t>(next[l]);
      const auto found = merges_.find(pair_of(symbols[l], symbols[r]));
      if (found == merges_.end() || found->second.id != id) continue;  // one of the two was merged meanwhile
      symbols[l] = id;
      gone[r] = true;
      next[l] = next[r];
      if (next[l] < n) previous[static_cast<std::size_t>(next[l])] = left;
      offer(previous[l], left);
      offer(left, next[l]);
    }
    Ids left;
    for (std::size_t i = 0; i < symbols.size(); ++i)
      if (!gone[i]) left.push_back(symbols[i]);
    return left;
  }

  std::unordered_map<std::uint64_t, Merge> merges_;
  std::int32_t unknown_ = -1;
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

}  // namespace generation

// SPDX-License-Identifier: Apache-2.0
// infer/beam.hpp -- the bookkeeping of beam search on the host: which beams go on, which outputs are kept, when a
// sentence is done. No model in here: candidates come in, rows to go on from come out. The rules are those of Hugging
// Face's generate() (transformers 4.57 and 5.24, _beam_search and _sample): its outputs can be compared. Read next:
// infer/ngram.hpp, infer/utf8_mask.hpp; infer/search.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/infer/ngram.hpp"
#include "sparsemoe/infer/search_options.hpp"
#include "sparsemoe/infer/utf8_mask.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The beams of a batch. Rows: `beams` for each sentence that is still in the batch, in the order of sentences. All
/// room is made by the constructor; a step allocates nothing.
class Beams {
 public:
  Beams(const SearchOptions& options, index_t sentences)
      : o_(options), ends_(options.ends()), k_(options.beams), kept_(at(sentences)), sentence_(at(sentences)) {
    for (index_t s = 0; s < sentences; ++s)
      kept_[at(s)].most = o_.lengths != nullptr ? std::clamp<index_t>(o_.lengths[s], 1, o_.max_length) : o_.max_length;
    const std::size_t rows = at(sentences * k_);
    for (std::size_t s = 0; s < sentence_.size(); ++s) sentence_[s] = static_cast<index_t>(s);
    for (auto* v : {&total_, &next_total_}) v->assign(rows, dead);
    for (std::size_t r = 0; r < rows; r += at(k_)) total_[r] = 0;  // the beams of a sentence are equal: one goes on
    for (auto* v : {&history_, &next_history_}) v->assign(rows * at(stride()), o_.begin);
    candidates_.reserve(at(k_ * width()) + o_.rules.forced_last.size() * at(k_));
    for (auto& k : kept_) {
      k.tokens.resize(at((k_ + 1) * o_.max_length));
      k.items.reserve(at(k_ + 1));
      for (index_t i = 0; i <= k_; ++i) k.free.push_back(i);
    }
    parents_.resize(rows);
  }

  /// Before the first step: sentence s begins with these tokens, at least one, in place of SearchOptions::begin. They
  /// are part of the text that rules look at.
  void begin_with(index_t s, const std::int32_t* tokens, index_t count) {
    for (index_t r = s * k_; r < (s + 1) * k_; ++r) history_[at(r * stride())] = tokens[count - 1];
    kept_[at(s)].begun = count;
    if (o_.no_repeat_ngram == 0 && !o_.rules.reads_text()) return;
    prompt_.resize(kept_.size());
    prompt_[at(s)].assign(tokens, tokens + count - 1);
    text_.resize(std::max(text_.size(), at(count + stride())));
  }
  /// Before the first step: what the rules take for the source of sentence s.
  void source_of(index_t s, std::vector<std::int32_t> tokens) {
    source_.resize(kept_.size());
    source_[at(s)] = std::move(tokens);
  }
  /// Candidates of a row that advance() looks at: enough for `beams` of them not to be an end.
  int width() const { return static_cast<int>(k_ + std::max<index_t>(k_, static_cast<index_t>(ends_.size()))); }
  index_t rows() const { return static_cast<index_t>(sentence_.size()) * k_; }
  /// Tokens generated so far.
  index_t length() const { return length_; }
  bool done() const { return sentence_.empty(); }
  /// Of the rows of the next step: the sentence, the token fed, the one before it (-1: none), and whether the row
  /// counts.
  index_t sentence(index_t row) const { return sentence_[at(row / k_)]; }
  std::int32_t token(index_t row) const { return history(row)[length_]; }
  std::int32_t previous(index_t row) const { return length_ > 0 ? history(row)[length_ - 1] : -1; }
  bool alive(index_t row) const { return total_[at(row)] > dead; }
  /// Row i goes on from row parents()[i] of the last step. moved(): some row is not where it was.
  const std::vector<std::int32_t>& parents() const { return parents_; }
  bool moved() const { return moved_; }

  /// Whether edits() can have any.
  bool edits_scores() const {
    return o_.no_repeat_ngram > 0 || o_.min_length > 0 || o_.rules.reads_text() || o_.rules.reads_source() ||
           o_.rules.rescores() || o_.rules.min_total > 0 || o_.rules.most_edits() > 0;
  }
  /// What the rules change in the scores of the next step.
  void edits(ScoreEdits& out) const {
    out.clear();
    if (!edits_scores()) return;
    for (index_t r = 0; r < rows(); ++r) {
      if (!alive(r)) continue;
      const auto s = at(sentence(r));
      const auto [text, length] = text_of(r);
      repeated_ngrams(text, length, o_.no_repeat_ngram, [&](std::int32_t id) { out.add(ScoreEdits::exclude, r, id); });
      const index_t total = kept_[s].begun + length_;
      if (length_ < o_.min_length)
        for (const std::int32_t end : ends_) out.add(ScoreEdits::exclude, r, end);
      edit_row(o_.rules, ends_,
               {r, length_, text, prompt_.empty() ? total : length, source_.empty() ? nullptr : &source_[s]}, scratch_,
               out);
      if (length_ == (first_of(s) >= 0 ? 1 : 0))
        for (const std::int32_t id : o_.rules.suppressed_first) out.add(ScoreEdits::suppress, r, id);
    }
  }
  /// Whether rows are masked so that bytes keep to UTF-8; the mask (rows, 257) of MaskBytesRow.
  bool masks_bytes() const { return o_.bytes != nullptr; }
  void allowed_bytes(std::uint8_t* allowed) const {
    for (index_t r = 0; r < rows(); ++r) {
      const Utf8Pending pending = Utf8Pending::after(history(r) + 1, length_, o_.bytes);
      std::uint8_t* row = allowed + r * 257;
      for (unsigned byte = 0; byte < 256; ++byte) row[byte] = pending.allows(byte) ? 1 : 0;
      row[256] = pending.count == 0 ? 1 : 0;
    }
  }

  /// One step: ids and logits (rows, width()), best first and id -1 for none; lse (rows), their normalisers. Throws
  /// NoAnswer for a sentence whose first token may be none.
  template <class C>
  void advance(const std::int32_t* ids, const C* logits, const C* lse) {
    const index_t groups = static_cast<index_t>(sentence_.size());
    ++length_;
    index_t to = 0;
    moved_ = false;
    for (index_t g = 0; g < groups; ++g) {
      collect(g, ids, logits, lse);
      const bool finished = choose(g, to);
      if (finished && o_.finished == FinishedRows::leave) continue;
      if (finished) std::fill_n(next_total_.begin() + to * k_, k_, dead);
      sentence_[at(to)] = sentence_[at(g)];
      ++to;
    }
    if (std::all_of(next_total_.begin(), next_total_.begin() + to * k_, [](double t) { return t == dead; })) to = 0;
    moved_ = moved_ || to != groups;
    sentence_.resize(at(to));
    total_.swap(next_total_);
    history_.swap(next_history_);
  }

  /// The outputs of every sentence, best first; equal scores in the order they were found.
  SearchResult result() const {
    SearchResult out(kept_.size());
    for (std::size_t s = 0; s < out.size(); ++s) {
      std::vector<Kept> items = kept_[s].items;
      std::stable_sort(items.begin(), items.end(), [](const Kept& a, const Kept& b) { return a.score > b.score; });
      for (const Kept& k : items) {
        if (static_cast<index_t>(out[s].size()) == o_.nbest) break;
        const std::int32_t* tokens = kept_[s].tokens.data() + k.slot * o_.max_length;
        out[s].push_back({{tokens, tokens + k.length}, k.score, k.end >= 0, k.end});
      }
    }
    return out;
  }

 private:
  static constexpr double dead = -std::numeric_limits<double>::infinity();
  struct Candidate {
    double total;
    index_t row;
    std::int32_t id;
  };
  struct Kept {
    double score;
    index_t slot, length;
    std::int32_t end;  // the id that ended it; -1: none did
  };
  struct KeptList {
    std::vector<std::int32_t> tokens;  // (beams + 1, max_length)
    std::vector<Kept> items;           // in the order they were found
    std::vector<index_t> free;
    index_t most = 0;   // tokens generated at most
    index_t begun = 1;  // tokens before the first generated: the prompt, or the begin token
    double worst() const {
      double w = std::numeric_limits<double>::infinity();
      for (const Kept& k : items) w = std::min(w, k.score);
      return w;
    }
  };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
  bool is_end(std::int32_t id) const { return std::find(ends_.begin(), ends_.end(), id) != ends_.end(); }
  /// The first token of a sentence, if it must be one: where a prompt goes on, none must.
  std::int32_t first_of(std::size_t s) const { return kept_[s].begun == 1 ? o_.first : -1; }
  index_t stride() const { return o_.max_length + 1; }  // of the histories: begin, and what was generated
  const std::int32_t* history(index_t row) const { return history_.data() + row * stride(); }
  /// What a row's n-grams are of: its history, behind the rest of its prompt if there is one.
  std::pair<const std::int32_t*, index_t> text_of(index_t row) const {
    if (prompt_.empty()) return {history(row), length_ + 1};
    const auto& prompt = prompt_[at(sentence(row))];
    const auto end = std::copy(prompt.begin(), prompt.end(), text_.begin());
    return {text_.data(), std::copy_n(history(row), length_ + 1, end) - text_.begin()};
  }
  std::int32_t* next_history(index_t row) { return next_history_.data() + row * stride(); }

  /// The best continuations of a sentence's living beams, best first; ties to the lower beam, then to the lower id.
  template <class C>
  void collect(index_t g, const std::int32_t* ids, const C* logits, const C* lse) {
    candidates_.clear();
    const std::size_t s = at(sentence_[at(g)]);
    const std::int32_t first = length_ == 1 ? first_of(s) : -1;
    const auto& last = o_.rules.forced_last;
    for (index_t r = g * k_; r < (g + 1) * k_; ++r) {
      if (!alive(r)) continue;
      if (length_ == kept_[s].most && !last.empty()) {
        const double shared = o_.rules.renormalise ? std::log(static_cast<double>(last.size())) : 0;
        for (const std::int32_t id : last) force(r, id, total_[at(r)] - shared);
        continue;
      }
      if (first >= 0) {
        force(r, first, total_[at(r)]);
        continue;
      }
      for (index_t c = r * width(); c < (r + 1) * width() && ids[c] >= 0; ++c) {
        const double total = total_[at(r)] + static_cast<double>(logits[c]) - static_cast<double>(lse[r]);
        if (total > dead) candidates_.push_back({total, r, ids[c]});
      }
    }
    const auto better = [](const Candidate& a, const Candidate& b) {
      return a.total != b.total ? a.total > b.total : a.row != b.row ? a.row < b.row : a.id < b.id;
    };
    const auto ends = std::max<std::size_t>(1, ends_.size());
    const std::size_t most = std::min(candidates_.size(), at(k_) * (1 + ends));
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(most);
    std::partial_sort(candidates_.begin(), end, candidates_.end(), better);
    candidates_.resize(most);
  }
  void force(index_t row, std::int32_t id, double total) {
    const auto& never = o_.rules.suppressed;
    if (std::find(never.begin(), never.end(), id) == never.end()) candidates_.push_back({total, row, id});
  }

  /// Fills rows of group `to` with what goes on of group g. True if the sentence is done.
  bool choose(index_t g, index_t to) {
    KeptList& kept = kept_[at(sentence_[at(g)])];
    const index_t first = to * k_;
    const bool last = length_ == kept.most, older = o_.beam_rules == BeamRules::transformers_4_38;
    index_t filled = 0;
    bool ended = false;
    for (std::size_t rank = 0; rank < candidates_.size() && filled < k_; ++rank) {
      const Candidate& c = candidates_[rank];
      const bool end = is_end(c.id);
      // What ends beyond the best `beams` would crowd out what goes on and is better.
      if ((end || (last && !older)) && rank < at(k_)) {
        keep(kept, {history(c.row), length_ - 1, end ? -1 : c.id}, o_.score(c.total, length_), end ? c.id : -1);
        ended = ended || end;
      }
      if (!end) put(first + filled++, c.row, c.total, c.id);
    }
    for (index_t r = first + filled; r < first + k_; ++r) put(r, g * k_, dead, filler());
    if (candidates_.empty()) {  // nothing may follow: what there is, is cut here
      const index_t n = length_ - 1;
      if (n == 0) throw NoAnswer(sentence_[at(g)], "every token is excluded from coming first");
      for (index_t r = g * k_; r < (g + 1) * k_; ++r)
        if (alive(r)) keep(kept, {history(r), n, -1}, o_.score(total_[at(r)], n), -1);
      return true;
    }
    if ((last && !older) || (k_ == 1 && ended)) return true;
    if (filled == 0 && !older) return true;
    const bool longest = o_.stopping == Stopping::none_can && o_.length_penalty > 0;
    const double best = older ? candidates_.front().total : next_total_[at(first)];
    if (static_cast<index_t>(kept.items.size()) >= k_ &&
        (o_.stopping == Stopping::first_found || kept.worst() >= o_.score(best, longest ? kept.most : length_)))
      return true;
    if (!last) return filled == 0;
    for (index_t r = first; r < first + filled; ++r)
      keep(kept, {next_history(r), length_, -1}, o_.score(next_total_[at(r)], length_), -1);
    return true;
  }
  /// What rows of no beam are fed.
  std::int32_t filler() const { return o_.end >= 0 ? o_.end : o_.begin; }
  void put(index_t row, index_t parent, double total, std::int32_t token) {
    std::copy_n(history(parent), length_, next_history(row));
    next_history(row)[length_] = token;
    next_total_[at(row)] = total;
    parents_[at(row)] = static_cast<std::int32_t>(parent);
    moved_ = moved_ || row != parent;
  }
  /// Tokens of an output: n of a history behind its begin token, and one more unless it is -1.
  struct Text {
    const std::int32_t* history;
    index_t n;
    std::int32_t next;
  };
  /// Keeps a text among the best `beams` outputs; the worst, or of equal ones the oldest, makes room. A character whose
  /// bytes are not all there is dropped.
  void keep(KeptList& list, const Text& text, double score, std::int32_t end) {
    if (static_cast<index_t>(list.items.size()) >= k_ && !(score > list.worst())) return;
    const index_t slot = list.free.back();
    list.free.pop_back();
    std::int32_t* tokens = list.tokens.data() + slot * o_.max_length;
    std::copy_n(text.history + 1, text.n, tokens);
    index_t n = text.n;
    if (text.next >= 0) tokens[n++] = text.next;
    if (masks_bytes()) n -= Utf8Pending::after(tokens, n, o_.bytes).count;
    list.items.push_back({score, slot, n, end});
    if (static_cast<index_t>(list.items.size()) <= k_) return;
    const auto worst = std::min_element(list.items.begin(), list.items.end(),
                                        [](const Kept& a, const Kept& b) { return a.score < b.score; });
    list.free.push_back(worst->slot);
    list.items.erase(worst);
  }

  SearchOptions o_;
  std::vector<std::int32_t> ends_;
  index_t k_, length_ = 0;
  bool moved_ = false;
  std::vector<KeptList> kept_;                        // of every sentence of the batch
  std::vector<index_t> sentence_;                     // of every group of rows still in it
  std::vector<double> total_, next_total_;            // (rows) summed log-probability; dead: no beam
  std::vector<std::int32_t> history_, next_history_;  // (rows, 1 + max_length): begin, and what was generated
  std::vector<std::vector<std::int32_t>> prompt_;     // (sentences) without the last token; empty: none is needed
  std::vector<std::vector<std::int32_t>> source_;     // (sentences) for the rules; empty: none is needed
  mutable std::vector<std::int32_t> text_, scratch_;  // scratch: a prompt and a history; ids of a row
  std::vector<std::int32_t> parents_;
  std::vector<Candidate> candidates_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

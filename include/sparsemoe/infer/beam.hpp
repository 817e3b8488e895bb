// infer/beam.hpp -- the bookkeeping of beam search on the host: which beams go on, which outputs are kept, when a
// sentence is done. No model in here: candidates come in, rows to go on from come out. The rules are those of Hugging
// Face's generate() (transformers 4.38, BeamSearchScorer): its outputs can be compared. Read next: infer/search.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/infer/ngram.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What the summed log-probability of n tokens (the end included) is divided by, with a = length_penalty:
/// power: n^a, as Hugging Face; gnmt: ((5 + n) / 6)^a, Wu et al. 2016, equation 14. a = 0: nothing.
enum class LengthNorm { power, gnmt };

/// When a sentence with `beams` finished outputs is done. no_better: when the best candidate, normalised at its present
/// length, is not above the worst finished output (Hugging Face's early_stopping=False; outputs that grow better with
/// length can be missed). first_found: at once (early_stopping=True). none_can: when no length that may still be
/// reached makes the best candidate better (early_stopping="never"; the same as no_better without a positive length
/// penalty).
enum class Stopping { no_better, first_found, none_can };

/// Whether rows of finished sentences leave the batch or are carried along as padding; results are the same.
enum class FinishedRows { leave, stay };

struct SearchOptions {
  static constexpr index_t most_beams = 64;
  std::int32_t begin = 1, end = 2;
  std::int32_t first = -1;           // the first token generated, with probability 1; -1: the model's choice
  index_t beams = 1;                 // 1: greedy search
  index_t nbest = 1;                 // outputs a sentence, at most `beams`
  index_t max_length = 128;          // most tokens generated for an output, the end included
  index_t min_length = 0;            // tokens generated before the end may come
  const index_t* lengths = nullptr;  // (sentences) on the host, read at the start: each one's own, at most max_length
  double length_penalty = 1;
  LengthNorm length_norm = LengthNorm::power;
  Stopping stopping = Stopping::no_better;
  index_t no_repeat_ngram = 0;  // no n-gram of this length twice in an output, the begin token counted; 0: any
  FinishedRows finished = FinishedRows::leave;
  const std::uint8_t* banned = nullptr;  // (V) ids never produced, in the backend's memory; the others gain nothing

  /// Throws Error for what makes no sense. Ids must be below `vocabulary`.
  void check(index_t vocabulary) const {
    require(beams >= 1 && beams <= most_beams, "search: beams must be between 1 and ", most_beams, "; got ", beams);
    require(nbest >= 1 && nbest <= beams, "search: nbest must be between 1 and the ", beams, " beams; got ", nbest);
    require(max_length >= 1, "search: max_length must be at least 1; got ", max_length);
    require(no_repeat_ngram >= 0 && min_length >= 0,
            "search: no_repeat_ngram and min_length must not be negative; got ", no_repeat_ngram, " and ", min_length);
    require(std::isfinite(length_penalty), "search: length_penalty must be finite; got ", length_penalty);
    require(begin >= 0 && begin < vocabulary && end >= 0 && end < vocabulary && first < vocabulary,
            "search: begin, end and first must be ids below ", vocabulary, "; got ", begin, ", ", end, " and ", first);
  }
  /// Whether some rows may not go on with some ids.
  bool excludes() const { return no_repeat_ngram > 0 || min_length > 0; }
  /// The score of n generated tokens whose log-probabilities sum to `total`.
  double score(double total, index_t n) const {
    if (length_penalty == 0) return total;
    const double length = static_cast<double>(n);
    return total / std::pow(length_norm == LengthNorm::power ? length : (5 + length) / 6, length_penalty);
  }
};

/// One output: tokens without begin and end, and whether it ended by itself or was cut at max_length.
struct Hypothesis {
  std::vector<std::int32_t> tokens;
  double score = 0;  // SearchOptions::score
  bool ended = false;
};
/// (sentence, rank), best first; at least one, and fewer than nbest only where there were no more to find.
using SearchResult = std::vector<std::vector<Hypothesis>>;

/// The beams of a batch. Rows: `beams` for each sentence that is still in the batch, in the order of sentences. All
/// room is made by the constructor; a step allocates nothing.
class Beams {
 public:
  Beams(const SearchOptions& options, index_t sentences)
      : o_(options), k_(options.beams), kept_(at(sentences)), sentence_(at(sentences)) {
    for (index_t s = 0; s < sentences; ++s)
      kept_[at(s)].most = o_.lengths != nullptr ? std::clamp<index_t>(o_.lengths[s], 1, o_.max_length) : o_.max_length;
    const std::size_t rows = at(sentences * k_);
    for (std::size_t s = 0; s < sentence_.size(); ++s) sentence_[s] = static_cast<index_t>(s);
    for (auto* v : {&total_, &next_total_}) v->assign(rows, dead);
    for (std::size_t r = 0; r < rows; r += at(k_)) total_[r] = 0;  // the beams of a sentence are equal: one goes on
    for (auto* v : {&history_, &next_history_}) v->assign(rows * at(stride()), o_.begin);
    candidates_.reserve(at(2 * k_ * k_));
    for (auto& k : kept_) {
      k.tokens.resize(at((k_ + 1) * o_.max_length));
      k.items.reserve(at(k_ + 1));
      for (index_t i = 0; i <= k_; ++i) k.free.push_back(i);
    }
    parents_.resize(rows);
  }

  /// Before the first step: sentence s begins with these tokens, at least one, in place of SearchOptions::begin. Its
  /// n-grams count theirs.
  void begin_with(index_t s, const std::int32_t* tokens, index_t count) {
    for (index_t r = s * k_; r < (s + 1) * k_; ++r) history_[at(r * stride())] = tokens[count - 1];
    if (o_.no_repeat_ngram == 0) return;
    prompt_.resize(kept_.size());
    prompt_[at(s)].assign(tokens, tokens + count - 1);
    text_.resize(std::max(text_.size(), at(count + stride())));
  }
  /// Candidates of a row that advance() looks at: enough for `beams` of them not to be the end.
  int width() const { return static_cast<int>(2 * k_); }
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

  /// Calls exclude(row, id) for every id that would repeat an n-gram, and for an end that comes too early.
  template <class Exclude>
  void excluded(const Exclude& exclude) const {
    if (!o_.excludes()) return;
    for (index_t r = 0; r < rows(); ++r) {
      if (!alive(r)) continue;
      const auto [text, length] = text_of(r);
      repeated_ngrams(text, length, o_.no_repeat_ngram, [&](std::int32_t id) { exclude(r, id); });
      if (length_ < o_.min_length) exclude(r, o_.end);
    }
  }

  /// One step: ids and logits (rows, width()), best first and id -1 for none; lse (rows), their normalisers.
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
        out[s].push_back({{tokens, tokens + k.length}, k.score, k.ended});
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
    bool ended;
  };
  struct KeptList {
    std::vector<std::int32_t> tokens;  // (beams + 1, max_length)
    std::vector<Kept> items;           // in the order they were found
    std::vector<index_t> free;
    index_t most = 0;  // tokens generated at most
    double worst() const {
      double w = std::numeric_limits<double>::infinity();
      for (const Kept& k : items) w = std::min(w, k.score);
      return w;
    }
  };

  static std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
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
    for (index_t r = g * k_; r < (g + 1) * k_; ++r) {
      if (!alive(r)) continue;
      if (length_ == 1 && o_.first >= 0) {
        candidates_.push_back({total_[at(r)], r, o_.first});
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
    const std::size_t most = std::min(candidates_.size(), at(width()));
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(most);
    std::partial_sort(candidates_.begin(), end, candidates_.end(), better);
    candidates_.resize(most);
  }

  /// Fills rows of group `to` with what goes on of group g. True if the sentence is done.
  bool choose(index_t g, index_t to) {
    KeptList& kept = kept_[at(sentence_[at(g)])];
    const index_t first = to * k_;
    index_t filled = 0;
    for (std::size_t rank = 0; rank < candidates_.size() && filled < k_; ++rank) {
      const Candidate& c = candidates_[rank];
      if (c.id == o_.end) {
        // An end beyond the best `beams` would crowd out what goes on and is better.
        if (rank < at(k_)) keep(kept, history(c.row), length_ - 1, o_.score(c.total, length_), true);
        continue;
      }
      put(first + filled++, c.row, c.total, c.id);
    }
    for (index_t r = first + filled; r < first + k_; ++r) put(r, g * k_, dead, o_.end);
    if (candidates_.empty()) {  // nothing may follow: what there is, is cut here
      const index_t n = length_ - 1;
      for (index_t r = g * k_; r < (g + 1) * k_; ++r)
        if (alive(r)) keep(kept, history(r), n, o_.score(total_[at(r)], std::max<index_t>(1, n)), false);
      return true;
    }
    const bool longest = o_.stopping == Stopping::none_can && o_.length_penalty > 0;
    if (static_cast<index_t>(kept.items.size()) >= k_ &&
        (o_.stopping == Stopping::first_found ||
         kept.worst() >= o_.score(candidates_.front().total, longest ? kept.most : length_)))
      return true;
    if (length_ < kept.most) return filled == 0;
    for (index_t r = first; r < first + filled; ++r)
      keep(kept, next_history(r), length_, o_.score(next_total_[at(r)], length_), false);
    return true;
  }
  void put(index_t row, index_t parent, double total, std::int32_t token) {
    std::copy_n(history(parent), length_, next_history(row));
    next_history(row)[length_] = token;
    next_total_[at(row)] = total;
    parents_[at(row)] = static_cast<std::int32_t>(parent);
    moved_ = moved_ || row != parent;
  }
  /// Keeps the n tokens after the begin token among the best `beams` outputs; the worst, or of equal ones the oldest,
  /// makes room.
  void keep(KeptList& list, const std::int32_t* from, index_t n, double score, bool ended) {
    if (static_cast<index_t>(list.items.size()) >= k_ && !(score > list.worst())) return;
    const index_t slot = list.free.back();
    list.free.pop_back();
    std::copy_n(from + 1, n, list.tokens.data() + slot * o_.max_length);
    list.items.push_back({score, slot, n, ended});
    if (static_cast<index_t>(list.items.size()) <= k_) return;
    const auto worst = std::min_element(list.items.begin(), list.items.end(),
                                        [](const Kept& a, const Kept& b) { return a.score < b.score; });
    list.free.push_back(worst->slot);
    list.items.erase(worst);
  }

  SearchOptions o_;
  index_t k_, length_ = 0;
  bool moved_ = false;
  std::vector<KeptList> kept_;                        // of every sentence of the batch
  std::vector<index_t> sentence_;                     // of every group of rows still in it
  std::vector<double> total_, next_total_;            // (rows) summed log-probability; dead: no beam
  std::vector<std::int32_t> history_, next_history_;  // (rows, 1 + max_length): begin, and what was generated
  std::vector<std::vector<std::int32_t>> prompt_;     // (sentences) without the last token; empty: none is needed
  mutable std::vector<std::int32_t> text_;            // scratch: a prompt and a history
  std::vector<std::int32_t> parents_;
  std::vector<Candidate> candidates_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

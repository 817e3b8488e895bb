// SPDX-License-Identifier: Apache-2.0
// infer/search.hpp -- batched greedy and beam search over a model with encode() or prefill(), begin(), select() and
// step(): encode the source or read the prompt once, then one token a beam a step. Finished sentences leave the batch;
// rows do not see each other, so an output does not depend on its company. A steady step allocates nothing. Read next:
// infer/search_options.hpp and infer/candidates.hpp, then infer/beam.hpp for the rules of the search; infer/greedy.hpp.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/infer/beam.hpp"
#include "sparsemoe/infer/candidates.hpp"
#include "sparsemoe/infer/score_rules.hpp"
#include "sparsemoe/infer/utf8_mask.hpp"
#include "sparsemoe/kernels/tokens.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One search over a batch: construct, step() until it is false, result(). While it lives, the arena is its own, and
/// ctx.training is off.
template <class Model>
class Search {
 public:
  using B = typename Model::B;
  using S = typename Model::S;
  using C = typename Model::P::compute;
  using Context = typename Model::Context;
  using Collective = typename Model::Collective;

  /// A model without encode() goes on with texts; what it generates is the result.
  static constexpr bool decoder_only = !requires(Model & m, Context& c, const Tokens& t, Collective& k) {
    m.encode(c, t, k);
  };

  /// Encodes `source`, whose `task` is that of the target; for a decoder-only model it holds the prompts, padded on the
  /// right and at least one token each, in place of SearchOptions::begin. Throws Error if the options make no sense.
  Search(Context& ctx, Model& model, Collective& comm, const Tokens& source, const SearchOptions& options)
      : ctx_(ctx),
        model_(model),
        comm_(comm),
        options_(checked(options, model.config().vocabulary)),
        evaluation_(ctx),
        scope_(ctx.arena),
        beams_(options, source.sentences),
        tasked_(source.task != nullptr) {
    auto& arena = ctx.arena;
    const index_t rows = beams_.rows(), width = beams_.width();
    if constexpr (decoder_only)
      read_prompts(source);
    else
      model.begin(ctx, model.encode(ctx, source, comm), source.sentences, options.max_length, options.beams);
    logits_ = arena.template matrix<S>(rows, model.config().vocabulary);
    for (auto* p : {&ids_, &previous_, &task_, &parents_}) *p = arena.template take<std::int32_t>(rows);
    valid_ = arena.template take<std::uint8_t>(rows);
    best_ = arena.template take<std::int32_t>(rows * width);
    values_ = arena.template take<C>(rows * width);
    lse_ = arena.template take<C>(rows);
    const auto at = [](index_t n) { return static_cast<std::size_t>(n); };
    for (auto* v : {&host_ids_, &host_previous_, &host_task_}) v->resize(at(rows));
    host_valid_.resize(at(rows));
    host_best_.resize(at(rows * width));
    host_values_.resize(at(rows * width));
    host_lse_.resize(at(rows));
    if (beams_.edits_scores()) {  // of a row: each token of its text and source at most once in a kind, and the rest
      const index_t text = longest_ + options.max_length, ends = static_cast<index_t>(options.ends().size());
      const index_t most = rows * (text + source.length + options.rules.most_edits() + 2 * ends);
      edited_ = arena.template take<std::int32_t>(2 * most);
      biases_ = arena.template take<float>(rows * static_cast<index_t>(options.rules.biases.size()));
      edits_.reserve(at(most));
    }
    if (options.rules.reads_source()) read_source(source);
    if (options.bytes != nullptr) classify_bytes(rows);
    if (tasked_) {
      source_task_.resize(at(source.sentences));
      B::copy_to_host(ctx, source_task_.data(), source.task, source.sentences);
    }
  }
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  /// One token for every beam. False when every sentence is done, and then nothing is done. Throws NoAnswer for a
  /// sentence whose scores are not finite, or whose first token may be none.
  bool step() {
    if (beams_.done()) return false;
    const index_t rows = beams_.rows();
    if (beams_.length() > 0 && beams_.moved()) {
      B::copy_from_host(ctx_, parents_, beams_.parents().data(), rows);
      model_.select(ctx_, parents_, rows);
    }
    feed(rows);
    const Matrix<S> logits = logits_.slice_rows(0, rows);
    const index_t position = longest_ - 1 + beams_.length();
    model_.step(ctx_, {rows, 1, ids_, valid_, tasked_ ? task_ : nullptr, position, previous_, positions_}, comm_,
                logits);
    normalise(logits);
    require_finite(rows);
    if (edit(logits)) normalise(logits);
    const int width = beams_.width();
    B::for_each_row(ctx_, rows, BestRow<S, C>{logits, options_.banned, width, best_, values_}, logits.cols);
    B::copy_to_host(ctx_, host_best_.data(), best_, rows * width);
    B::copy_to_host(ctx_, host_values_.data(), values_, rows * width);
    beams_.advance(host_best_.data(), host_values_.data(), host_lse_.data());
    return !beams_.done();
  }
  /// Rows of the next step: `beams` for each sentence that is not done.
  index_t rows() const { return beams_.rows(); }
  SearchResult result() const { return beams_.result(); }

 private:
  struct Evaluation {  // ctx.training is off while it lives
    Context& ctx;
    bool before;
    explicit Evaluation(Context& c) : ctx(c), before(c.training) { c.training = false; }
    ~Evaluation() { ctx.training = before; }
  };
  static const SearchOptions& checked(const SearchOptions& options, index_t vocabulary) {
    options.check(vocabulary);
    return options;
  }
  /// All but the last token of each prompt at once; the last is fed by the first step. Positions are those of the whole
  /// prompt, where they depend on its length.
  void read_prompts(const Tokens& source) {
    const auto at = [](index_t n) { return static_cast<std::size_t>(n); };
    const index_t n = source.sentences, length = source.length;
    std::vector<std::int32_t> ids(at(n * length));
    std::vector<std::uint8_t> valid(ids.size());
    B::copy_to_host(ctx_, ids.data(), source.ids, n * length);
    B::copy_to_host(ctx_, valid.data(), source.valid, n * length);
    index_t shortest = length;
    longest_ = 0;
    for (index_t s = 0; s < n; ++s) {
      index_t count = 0;
      while (count < length && valid[at(s * length + count)] != 0) ++count;
      bool gap = count == 0;
      for (index_t i = count; i < length; ++i) gap = gap || valid[at(s * length + i)] != 0;
      require(!gap, "search: prompt ", s, " must have at least one token and be padded on its right alone");
      prompt_.push_back(count);
      before_.push_back(count > 1 ? ids[at(s * length + count - 2)] : -1);
      beams_.begin_with(s, ids.data() + s * length, count);
      shortest = std::min(shortest, count), longest_ = std::max(longest_, count);
    }
    const index_t rows = beams_.rows(), read = longest_ - 1;
    model_.begin(ctx_, n, read + options_.max_length, options_.beams);
    if (shortest < longest_) {
      positions_ = ctx_.arena.template take<std::int32_t>(rows);
      host_positions_.resize(at(rows));
    }
    if (read == 0) return;
    typename Arena<typename B::Memory>::Scope scope(ctx_.arena);
    std::vector<std::int32_t> first(at(n * read), 0);
    std::vector<std::uint8_t> real(first.size(), 0);
    for (index_t s = 0; s < n; ++s)
      for (index_t i = 0; i + 1 < prompt_[at(s)]; ++i)
        first[at(s * read + i)] = ids[at(s * length + i)], real[at(s * read + i)] = 1;
    std::int32_t* device_ids = ctx_.arena.template take<std::int32_t>(n * read);
    std::uint8_t* device_valid = ctx_.arena.template take<std::uint8_t>(n * read);
    B::copy_from_host(ctx_, device_ids, first.data(), n * read);
    B::copy_from_host(ctx_, device_valid, real.data(), n * read);
    model_.prefill(ctx_, {n, read, device_ids, device_valid, source.task, 0, nullptr, nullptr, 1}, comm_);
  }
  void feed(index_t rows) {
    for (index_t r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      host_ids_[i] = beams_.token(r);
      host_previous_[i] = beams_.previous(r);
      if constexpr (decoder_only) {
        const auto s = static_cast<std::size_t>(beams_.sentence(r));
        if (beams_.length() == 0) host_previous_[i] = before_[s];
        if (positions_ != nullptr) host_positions_[i] = static_cast<std::int32_t>(prompt_[s] - 1 + beams_.length());
      }
      host_valid_[i] = beams_.alive(r) ? 1 : 0;
      if (tasked_) host_task_[i] = source_task_[static_cast<std::size_t>(beams_.sentence(r))];
    }
    B::copy_from_host(ctx_, ids_, host_ids_.data(), rows);
    B::copy_from_host(ctx_, previous_, host_previous_.data(), rows);
    B::copy_from_host(ctx_, valid_, host_valid_.data(), rows);
    if (tasked_) B::copy_from_host(ctx_, task_, host_task_.data(), rows);
    if (positions_ != nullptr) B::copy_from_host(ctx_, positions_, host_positions_.data(), rows);
  }
  void normalise(Matrix<S> logits) {
    B::for_each_row(ctx_, logits.rows, LogSumRow<S, C>{logits, lse_}, logits.cols * 8);
    B::copy_to_host(ctx_, host_lse_.data(), lse_, logits.rows);
  }
  /// A NaN or an infinity among the scores makes their sum none; so does a row without any number.
  void require_finite(index_t rows) {
    if (options_.rules.remove_invalid) return;
    for (index_t r = 0; r < rows; ++r)
      if (beams_.alive(r) && !std::isfinite(static_cast<double>(host_lse_[static_cast<std::size_t>(r)])))
        throw NoAnswer(beams_.sentence(r),
                       "the model's scores are not finite (NaN or infinity); are its weights finite?");
  }
  /// Applies the rules. True if the rows must be normalised again.
  bool edit(Matrix<S> logits) {
    const ScoreRules& rules = options_.rules;
    const S lowest = S(-std::numeric_limits<float>::infinity());
    const C* shift = options_.beams > 1 ? lse_ : nullptr;  // log-probabilities with beams, else logits
    const auto apply = [&](ScoreEdits::Kind kind, const EditScores<S, C>& change) {
      const auto n = static_cast<index_t>(edits_.pairs[kind].size());
      if (n == 0) return;
      B::copy_from_host(ctx_, edited_, edits_.pairs[kind].data(), n);
      B::for_each_index(ctx_, n / 2, change);
    };
    const auto changes = [&](ScoreChange change, double by) {
      return EditScores<S, C>{logits, edited_, shift, biases_, change, static_cast<C>(by)};
    };
    if (beams_.edits_scores()) {
      beams_.edits(edits_);
      if (!edits_.biases.empty())
        B::copy_from_host(ctx_, biases_, edits_.biases.data(), static_cast<index_t>(edits_.biases.size()));
      apply(ScoreEdits::bias, changes(ScoreChange::add, 0));
      apply(ScoreEdits::source_penalty, changes(ScoreChange::penalise, 1 / rules.source_penalty));
      apply(ScoreEdits::penalty, changes(ScoreChange::penalise, rules.repetition_penalty));
      apply(ScoreEdits::exclude, changes(ScoreChange::exclude, 0));
    }
    if (beams_.masks_bytes()) {
      beams_.allowed_bytes(host_allowed_.data());
      B::copy_from_host(ctx_, allowed_, host_allowed_.data(), logits.rows * MaskBytesRow<S>::classes);
      B::for_each_row(ctx_, logits.rows, MaskBytesRow<S>{logits, byte_class_, allowed_, lowest}, logits.cols);
    }
    if (rules.remove_invalid) {
      B::for_each_row(ctx_, logits.rows, RemoveInvalidRow<S, C>{logits, lse_, options_.beams > 1}, logits.cols);
      B::copy_to_host(ctx_, host_lse_.data(), lse_, logits.rows);
    }
    if (beams_.edits_scores()) {
      const double after = static_cast<double>(beams_.length() - rules.decay_start);
      apply(ScoreEdits::decay, changes(ScoreChange::grow, std::pow(rules.decay, after) - 1));
      apply(ScoreEdits::suppress, changes(ScoreChange::exclude, 0));
    }
    return rules.renormalise || (options_.beams == 1 && rules.rescores());
  }
  void read_source(const Tokens& source) {
    const auto at = [](index_t n) { return static_cast<std::size_t>(n); };
    std::vector<std::int32_t> ids(at(source.sentences * source.length));
    std::vector<std::uint8_t> valid(ids.size());
    B::copy_to_host(ctx_, ids.data(), source.ids, source.sentences * source.length);
    B::copy_to_host(ctx_, valid.data(), source.valid, source.sentences * source.length);
    for (index_t s = 0; s < source.sentences; ++s) {
      std::vector<std::int32_t> own;
      for (index_t i = s * source.length; i < (s + 1) * source.length; ++i)
        if (valid[at(i)] != 0) own.push_back(ids[at(i)]);
      beams_.source_of(s, std::move(own));
    }
  }
  void classify_bytes(index_t rows) {
    const index_t vocabulary = model_.config().vocabulary;
    std::vector<std::int16_t> classes(options_.bytes, options_.bytes + vocabulary);
    for (auto& c : classes) c = c < 0 || c > 255 ? std::int16_t(256) : c;
    byte_class_ = ctx_.arena.template take<std::int16_t>(vocabulary);
    B::copy_from_host(ctx_, byte_class_, classes.data(), vocabulary);
    allowed_ = ctx_.arena.template take<std::uint8_t>(rows * MaskBytesRow<S>::classes);
    host_allowed_.resize(static_cast<std::size_t>(rows * MaskBytesRow<S>::classes));
  }

  Context& ctx_;
  Model& model_;
  Collective& comm_;
  SearchOptions options_;
  Evaluation evaluation_;
  typename Arena<typename B::Memory>::Scope scope_;
  Beams beams_;
  bool tasked_;
  Matrix<S> logits_;                                                                          // (rows, V)
  std::int32_t *ids_ = nullptr, *previous_ = nullptr, *task_ = nullptr, *parents_ = nullptr;  // (rows)
  std::int32_t *best_ = nullptr, *edited_ = nullptr;  // (rows, width), (2 x the most edits of a kind in a step)
  float* biases_ = nullptr;                           // of the edits that add one
  std::uint8_t *valid_ = nullptr, *allowed_ = nullptr;
  std::int16_t* byte_class_ = nullptr;
  C *values_ = nullptr, *lse_ = nullptr;
  index_t longest_ = 1;                                // prompt; 1: the begin token
  std::int32_t* positions_ = nullptr;                  // (rows) of a step, where prompts differ in length
  std::vector<index_t> prompt_;                        // (sentences) tokens
  std::vector<std::int32_t> before_, host_positions_;  // (sentences) last but one of a prompt; (rows)
  std::vector<std::int32_t> host_ids_, host_previous_, host_task_, host_best_, source_task_;
  std::vector<std::uint8_t> host_valid_, host_allowed_;
  ScoreEdits edits_;
  std::vector<C> host_values_, host_lse_;
};

/// The best outputs of source's sentences.
template <class Model>
SearchResult search(typename Model::Context& ctx, Model& model, typename Model::Collective& comm, const Tokens& source,
                    const SearchOptions& options) {
  if (source.sentences == 0) return {};
  Search<Model> run(ctx, model, comm, source, options);
  while (run.step()) {
  }
  return run.result();
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// infer/search.hpp -- batched greedy and beam search over a model with encode() or prefill(), begin(), select() and
// step(): encode the source or read the prompt once, then one token a beam a step. Finished sentences leave the batch;
// rows do not see each other, so an output does not depend on its company. A steady step allocates nothing. Read next:
// infer/beam.hpp for the rules of the search.
#pragma once

#include <limits>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/infer/beam.hpp"
#include "sparsemoe/infer/candidates.hpp"
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
    if (options.excludes()) {  // of a row: at most one id for each of its tokens, and the end
      const index_t most = 2 * rows * (longest_ + options.max_length);
      excluded_ = arena.template take<std::int32_t>(most);
      host_excluded_.reserve(at(most));
    }
    if (tasked_) {
      source_task_.resize(at(source.sentences));
      B::copy_to_host(ctx, source_task_.data(), source.task, source.sentences);
    }
  }
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  /// One token for every beam. False when every sentence is done, and then nothing is done.
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
    B::for_each_row(ctx_, rows, LogSumRow<S, C>{logits, lse_}, logits.cols * 8);
    exclude(logits);
    const int width = beams_.width();
    B::for_each_row(ctx_, rows, BestRow<S, C>{logits, options_.banned, width, best_, values_}, logits.cols);
    B::copy_to_host(ctx_, host_best_.data(), best_, rows * width);
    B::copy_to_host(ctx_, host_values_.data(), values_, rows * width);
    B::copy_to_host(ctx_, host_lse_.data(), lse_, rows);
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
  /// All but the last token of each prompt at once; the last is fed by the first step.
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
    model_.prefill(ctx_, {n, read, device_ids, device_valid, source.task, 0, nullptr}, comm_);
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
  void exclude(Matrix<S> logits) {
    host_excluded_.clear();
    beams_.excluded([&](index_t row, std::int32_t id) {
      host_excluded_.push_back(static_cast<std::int32_t>(row));
      host_excluded_.push_back(id);
    });
    if (host_excluded_.empty()) return;
    const auto n = static_cast<index_t>(host_excluded_.size());
    B::copy_from_host(ctx_, excluded_, host_excluded_.data(), n);
    B::for_each_index(ctx_, n / 2, ExcludePairs<S>{logits, excluded_, S(-std::numeric_limits<float>::infinity())});
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
  std::int32_t *best_ = nullptr, *excluded_ = nullptr;  // (rows, width), (2 x what a step excludes)
  std::uint8_t* valid_ = nullptr;
  C *values_ = nullptr, *lse_ = nullptr;
  index_t longest_ = 1;                                // prompt; 1: the begin token
  std::int32_t* positions_ = nullptr;                  // (rows) of a step, where prompts differ in length
  std::vector<index_t> prompt_;                        // (sentences) tokens
  std::vector<std::int32_t> before_, host_positions_;  // (sentences) last but one of a prompt; (rows)
  std::vector<std::int32_t> host_ids_, host_previous_, host_task_, host_best_, host_excluded_, source_task_;
  std::vector<std::uint8_t> host_valid_;
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

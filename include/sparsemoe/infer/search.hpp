// infer/search.hpp -- batched greedy and beam search over a model with encode(), begin(), select() and step(): encode
// once, then one token a beam a step. Finished sentences leave the batch; rows do not see each other, so an output does
// not depend on its company. A steady step allocates nothing. Read next: infer/beam.hpp for the rules of the search.
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

  /// Encodes `source`, whose `task` is that of the target. Throws Error if the options make no sense.
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
      excluded_ = arena.template take<std::int32_t>(2 * rows * (options.max_length + 1));
      host_excluded_.reserve(at(2 * rows * (options.max_length + 1)));
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
    model_.step(ctx_, {rows, 1, ids_, valid_, tasked_ ? task_ : nullptr, beams_.length(), previous_}, comm_, logits);
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
  void feed(index_t rows) {
    for (index_t r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      host_ids_[i] = beams_.token(r);
      host_previous_[i] = beams_.previous(r);
      host_valid_[i] = beams_.alive(r) ? 1 : 0;
      if (tasked_) host_task_[i] = source_task_[static_cast<std::size_t>(beams_.sentence(r))];
    }
    B::copy_from_host(ctx_, ids_, host_ids_.data(), rows);
    B::copy_from_host(ctx_, previous_, host_previous_.data(), rows);
    B::copy_from_host(ctx_, valid_, host_valid_.data(), rows);
    if (tasked_) B::copy_from_host(ctx_, task_, host_task_.data(), rows);
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

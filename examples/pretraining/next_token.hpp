// SPDX-License-Identifier: Apache-2.0
// next_token.hpp -- language models side by side: windows of running text in which each token is asked for from those
// before it, a learner for any model of model/, and the comparison on the dev split.
// Read next: hash_language_model.cpp, lstm_language_model.cpp.
#pragma once

#include "side_by_side.hpp"
#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/optim/any_optimiser.hpp"
#include "sparsemoe/sparsemoe.hpp"
#include "text.hpp"

namespace pretraining {

struct NextTokenBatch {
  sparsemoe::index_t rows = 0, length = 0;
  std::vector<std::int32_t> ids, labels;
  std::vector<std::uint8_t> valid;

  explicit NextTokenBatch(const std::vector<const Ids*>& windows)
      : rows(static_cast<sparsemoe::index_t>(windows.size())),
        length(static_cast<sparsemoe::index_t>(windows.front()->size())) {
    for (const Ids* w : windows) {
      ids.push_back(nmt::Tokenizer::begin);
      ids.insert(ids.end(), w->begin(), w->end() - 1);
      labels.insert(labels.end(), w->begin(), w->end());
    }
    valid.assign(ids.size(), 1);
  }
  sparsemoe::LanguageModelBatch view() const {
    return {{rows, length, ids.data(), valid.data(), nullptr, 0, nullptr}, labels.data()};
  }
  double tokens() const { return static_cast<double>(ids.size()); }
};

/// Windows of `window` tokens of one language: all of the training text, at most `validation` of the dev split.
struct TextWindows {
  std::vector<Ids> train, dev;
  sparsemoe::index_t vocabulary = 0;

  TextWindows(const std::string& directory, const std::string& language, std::int64_t window, std::int64_t validation) {
    const nmt::Corpus corpus = nmt::load_corpus(directory, {});
    sparsemoe::require(!corpus.tokenizer.empty(), directory, ": the corpus has no tokenizer (spm.model)");
    const nmt::Tokenizer tokenizer(corpus.tokenizer);
    const auto length = static_cast<std::size_t>(window);
    train = windows_of(corpus.split("train"), language, tokenizer, length);
    dev = windows_of(corpus.split("dev"), language, tokenizer, length);
    dev.resize(std::min(dev.size(), static_cast<std::size_t>(validation)));
    vocabulary = tokenizer.size();
  }
  /// How often each id is in the training text.
  std::vector<std::int64_t> counts() const {
    std::vector<std::int64_t> count(static_cast<std::size_t>(vocabulary), 0);
    for (const Ids& window : train)
      for (const auto id : window) ++count[static_cast<std::size_t>(id)];
    return count;
  }
};

/// AdamW unless told otherwise.
template <class P>
using AnyOptimiser =
    sparsemoe::AnyOptimiser<sparsemoe::AdamW<P, sparsemoe::Cpu>, sparsemoe::FactoredAdam<P, sparsemoe::Cpu>>;

/// A language model that trains: Model has the verbs of model/language_model.hpp.
template <class Model>
class NextTokenLearner final : public Learner<NextTokenBatch> {
 public:
  using P = typename Model::P;
  using Router = typename Model::Spec::Router;
  using Optimiser = AnyOptimiser<P>;

  template <class Config>
  NextTokenLearner(std::string label, const Config& config, std::int64_t threads, std::uint64_t seed,
                   const Router& router = {}, const typename Optimiser::Config& optimiser = {})
      : ctx_(static_cast<int>(threads)),
        seed_(seed),
        model_(ctx_, config),
        optimiser_(ctx_, model_.weights.list(), optimiser) {
    name = std::move(label);
    model_.set_router(router);
    model_.weights.initialise(ctx_, seed);
  }
  sparsemoe::UpdateResult step(const NextTokenBatch& batch, double rate) override {
    ctx_.training = true;
    ctx_.random = {seed_, step_++, 0};
    const sparsemoe::LossSums sums = model_.loss(ctx_, batch.view(), solo_, 1 / batch.tokens(), 1);
    const sparsemoe::UpdateResult result = update_(ctx_, model_.weights, optimiser_, rate, solo_, sums.loss);
    ctx_.arena.reset();
    return result;
  }
  double perplexity(const std::vector<NextTokenBatch>& batches) override {
    ctx_.training = false;
    sparsemoe::LossSums sums;
    for (const NextTokenBatch& batch : batches) {
      sums += model_.loss(ctx_, batch.view(), solo_, 0, 0);
      ctx_.arena.reset();
    }
    return perplexity_of(name, sums.loss, sums.tokens);
  }
  std::string loads() override { return shares(name.c_str(), model_.statistics(ctx_)); }
  sparsemoe::index_t parameters() const override { return model_.weights.count(); }
  sparsemoe::index_t active() const override {
    if constexpr (std::is_same_v<Router, sparsemoe::Dense>)
      return parameters();
    else
      return met_by_a_token(model_.weights.list(), Router::top_k);
  }
  std::vector<float> weights() override { return model_.weights.get(ctx_); }
  void set_weights(const std::vector<float>& values) override { model_.weights.set(ctx_, values); }

 private:
  sparsemoe::Cpu::Context ctx_;
  std::uint64_t seed_;
  sparsemoe::Solo solo_;
  Model model_;
  Optimiser optimiser_;
  sparsemoe::Updater<P, sparsemoe::Cpu> update_;
  std::uint64_t step_ = 0;
};

/// Trains them for `steps` of `rows` windows or, if that is 0, `minutes`; prints perplexity before and after and how
/// even the experts' shares are. The first learner is the dense one.
inline void compare(Learners<NextTokenBatch>& learners, const TextWindows& text, std::int64_t rows, std::int64_t steps,
                    double minutes, double learning_rate, std::uint64_t seed) {
  const auto row_count = static_cast<std::size_t>(rows);
  std::vector<NextTokenBatch> dev;
  for (std::size_t i = 0; i < text.dev.size(); i += row_count) {
    std::vector<const Ids*> some;
    for (std::size_t j = i; j < std::min(text.dev.size(), i + row_count); ++j) some.push_back(&text.dev[j]);
    dev.emplace_back(some);
  }
  std::vector<double> before;
  for (auto& learner : learners) before.push_back(learner->perplexity(dev));
  const std::int64_t done = train(learners, steps, minutes * 60, learning_rate, [&](std::int64_t step) {
    std::vector<const Ids*> windows;
    for (std::size_t r = 0; r < row_count; ++r)
      windows.push_back(&text.train[drawn(seed, 1, step, r, text.train.size())]);
    return NextTokenBatch(windows);
  });
  std::printf("\nperplexity of a token, %zu dev windows, %lld steps of %zu windows\n", text.dev.size(),
              static_cast<long long>(done), row_count);
  print_header();
  for (std::size_t i = 0; i < learners.size(); ++i) print_row(*learners[i], before[i], learners[i]->perplexity(dev));
  std::printf("share of each expert in the last batch\n");
  for (std::size_t i = 1; i < learners.size(); ++i) std::printf("%s", learners[i]->loads().c_str());
}

}  // namespace pretraining

// SPDX-License-Identifier: Apache-2.0
// lstm_language_model.cpp -- the language model of the paper that began it (Shazeer et al. 2017): noisy top-4 gating,
// flat and in two levels, between two LSTMs, beside a dense feed-forward of equal compute (the paper's MoE-1-Wide). All
// see the same batches, in turn.
//   sparsemoe-nmt corpus --out corpus --languages de && sparsemoe-lstm-lm --corpus corpus
#include "sparsemoe/model/lstm_language_model.hpp"

#include <cstdio>

#include "next_token.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace {

namespace moe = sparsemoe;
using moe::index_t;

constexpr index_t branches = 4;  // of the two-level gate
using Flat = moe::NoisyTopK<4>;
using TwoLevel = moe::Hierarchical<2, 2, branches>;

enum class OptimiserKind { factored_adam, adamw };
constexpr std::array<std::string_view, 2> field_names(OptimiserKind) { return {"factored_adam", "adamw"}; }

struct Settings {
  std::string corpus, language = "en";
  double minutes = 6;
  std::int64_t steps = 0, window = 32, rows = 32, validation = 256, threads = 0;
  std::int64_t width = 256, cells = 0, hidden = 256, experts = 32;
  double dropout = 0, balance = 0.1, learning_rate = 2e-3;
  bool sigmoid = false;
  OptimiserKind optimiser = OptimiserKind::factored_adam;
  double beta1 = 0.9;
  std::uint64_t seed = 1;

  template <class F>
  void visit(F&& f) {
    f("corpus", corpus, "directory made by sparsemoe-nmt corpus");
    f("language", language, "language of the text");
    f("minutes", minutes, "time for everything; where steps are given they count instead");
    f("steps", steps, "training steps; 0: by the clock");
    f("window", window, "tokens of a window");
    f("rows", rows, "windows a step");
    f("validation", validation, "windows of the dev split that are scored");
    f("width", width, "model width");
    f("cells", cells, "cells of an LSTM, projected to the width; 0: the width");
    f("hidden", hidden, "hidden width of an expert; the dense layer has 4 times that");
    f("experts", experts, "experts; in the two-level gate in 4 branches");
    f("dropout", dropout, "dropout of the embedding and of every sub-layer");
    f("sigmoid", sigmoid, "a sigmoid after the sparse (or dense) layer");
    f("balance", balance, "coefficient of the importance and of the load loss");
    f("learning_rate", learning_rate, "peak learning rate");
    f("optimiser", optimiser,
      "factored_adam (the paper's: experts have no first moment and a factored second one) or adamw");
    f("beta1", beta1, "decay of the first moment; 0: none");
    f("seed", seed, "seed of weights and order");
    f("threads", threads, "threads; 0: all");
  }
  void check() const {
    using moe::require;
    require(!corpus.empty(), "give --corpus DIR, a directory made by sparsemoe-nmt corpus");
    require(minutes > 0 && steps >= 0, "minutes must be above 0 and steps not negative");
    require(window >= 2 && window <= 4096, "window must be between 2 and 4096 tokens, not ", window);
    require(rows >= 1 && validation >= 1 && threads >= 0,
            "rows and validation must be at least 1, threads not negative");
    require(width >= 1 && hidden >= 1 && cells >= 0, "width and hidden must be at least 1, cells not negative");
    require(steps <= 100000000 && rows <= 65536 && validation <= 1000000000 && threads <= 1024,
            "steps must be at most ", "100000000, rows 65536, validation 1000000000 and threads 1024");
    require(width <= 65536 && cells <= 65536 && hidden <= 1048576 && experts <= 65536 && minutes <= 1e7,
            "a size is beyond what this program supports (width and cells 65536, hidden 1048576, experts 65536)");
    require(learning_rate > 0 && learning_rate <= 1e300, "learning_rate must be positive, not ", learning_rate);
    require(experts >= 2 * branches && experts % branches == 0, "experts must be a multiple of ", branches,
            ", at least ", 2 * branches, ", not ", experts);
    require(dropout >= 0 && dropout < 1 && balance >= 0 && beta1 >= 0 && beta1 < 1,
            "dropout and beta1 must be in [0, 1), balance not negative");
  }
};

template <class R>
struct Spec : moe::SpecDefaults {
  using Router = R;
  using Precision = moe::Fp32;
  using Backend = moe::Cpu;
  using Collective = moe::Solo;
};
template <class R>
using LearnerOf = pretraining::NextTokenLearner<moe::LstmLanguageModel<Spec<R>>>;

moe::LstmLanguageModelConfig model(const Settings& s, index_t vocabulary) {
  moe::LstmLanguageModelConfig config;
  config.vocabulary = vocabulary, config.width = s.width, config.cells = s.cells, config.hidden = s.hidden;
  config.dropout = s.dropout, config.sigmoid = s.sigmoid;
  config.moe.experts = s.experts;
  config.moe.importance_coefficient = config.moe.load_coefficient = s.balance;
  return config;
}

using Optimiser = pretraining::AnyOptimiser<moe::Fp32>::Config;
Optimiser optimiser(const Settings& s) {
  const auto with_beta1 = [&](auto c) -> Optimiser {
    c.beta1 = s.beta1;
    return c;
  };
  if (s.optimiser == OptimiserKind::adamw) return with_beta1(moe::AdamW<moe::Fp32, moe::Cpu>::Config{});
  return with_beta1(moe::FactoredAdam<moe::Fp32, moe::Cpu>::Config{});
}

int run(const Settings& s) {
  const pretraining::TextWindows text(s.corpus, s.language, s.window, s.validation);
  const moe::LstmLanguageModelConfig sparse = model(s, text.vocabulary);
  moe::LstmLanguageModelConfig dense = sparse;
  dense.hidden = Flat::top_k * s.hidden;
  pretraining::Learners<pretraining::NextTokenBatch> learners;
  learners.push_back(
      std::make_unique<LearnerOf<moe::Dense>>("dense", dense, s.threads, s.seed, moe::Dense{}, optimiser(s)));
  learners.push_back(std::make_unique<LearnerOf<Flat>>("noisy top-4", sparse, s.threads, s.seed, Flat{}, optimiser(s)));
  learners.push_back(
      std::make_unique<LearnerOf<TwoLevel>>("two levels", sparse, s.threads, s.seed, TwoLevel{}, optimiser(s)));
  std::printf("%zu windows of %lld tokens in '%s', %lld experts\n", text.train.size(), static_cast<long long>(s.window),
              s.language.c_str(), static_cast<long long>(s.experts));
  pretraining::compare(learners, text, s.rows, s.steps, s.minutes, s.learning_rate, s.seed);
  return 0;
}

int program(int argc, char** argv) {
  Settings settings;
  CLI::App app("sparsemoe-lstm-lm: LSTMs with a mixture of experts between them beside a dense layer",
               "sparsemoe-lstm-lm");
  moe::add_options(app, settings);
  if (const auto status = moe::parse_command_line(app, argc, argv, settings)) return *status;
  return run(settings);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-lstm-lm", argc, argv, program); }

// SPDX-License-Identifier: Apache-2.0
// hash_language_model.cpp -- the language model of the hash-layer paper (Roller et al. 2021): a decoder-only
// transformer whose sparse layers send each token to the expert its id has in a fixed table, beside Switch routing,
// which learns where to send it, and a dense model of equal compute. All see the same batches, in turn.
//   sparsemoe-nmt corpus --out corpus --languages de && sparsemoe-hash-lm --corpus corpus
#include <cstdio>

#include "next_token.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"

namespace {

namespace moe = sparsemoe;
using moe::index_t;

struct Settings {
  std::string corpus, language = "en", table = "balanced";
  double minutes = 6;
  std::int64_t steps = 0, window = 64, rows = 32, validation = 256, threads = 0;
  std::int64_t layers = 4, width = 192, heads = 4, hidden = 768, experts = 16, sparse_every = 2;
  double learning_rate = 2e-3;
  std::uint64_t seed = 1;

  template <class F>
  void visit(F&& f) {
    f("corpus", corpus, "directory made by sparsemoe-nmt corpus");
    f("language", language, "language of the text");
    f("table", table, "hash table: balanced (by frequency in the training text) or random");
    f("minutes", minutes, "time for everything; where steps are given they count instead");
    f("steps", steps, "training steps; 0: by the clock");
    f("window", window, "tokens of a window");
    f("rows", rows, "windows a step");
    f("validation", validation, "windows of the dev split that are scored");
    f("layers", layers, "layers");
    f("width", width, "model width");
    f("heads", heads, "attention heads");
    f("hidden", hidden, "hidden width of a feed-forward network or expert");
    f("experts", experts, "experts of a sparse layer");
    f("sparse_every", sparse_every, "every so many-th layer is sparse");
    f("learning_rate", learning_rate, "peak learning rate");
    f("seed", seed, "seed of weights, table and order");
    f("threads", threads, "threads; 0: all");
  }
  void check() const {
    using moe::require;
    require(!corpus.empty(), "give --corpus DIR, a directory made by sparsemoe-nmt corpus");
    require(table == "balanced" || table == "random", "table must be balanced or random, not '", table, "'");
    require(minutes > 0 && steps >= 0, "minutes must be above 0 and steps not negative");
    require(window >= 2 && window <= 4096, "window must be between 2 and 4096 tokens, not ", window);
    require(rows >= 1 && validation >= 1 && threads >= 0,
            "rows and validation must be at least 1, threads not negative");
    require(layers >= 1 && width >= 1 && heads >= 1 && width % heads == 0 && hidden >= 1 && experts >= 1,
            "layers, hidden and experts must be at least 1, width a multiple of heads");
    require(steps <= 100000000 && rows <= 65536 && validation <= 1000000000 && threads <= 1024,
            "steps must be at most ", "100000000, rows 65536, validation 1000000000 and threads 1024");
    require(layers <= 1000 && width <= 65536 && hidden <= 1048576 && experts <= 65536 && minutes <= 1e7,
            "a size is beyond what this program supports (layers 1000, width 65536, hidden 1048576, experts 65536)");
    require(learning_rate > 0 && learning_rate <= 1e300, "learning_rate must be positive, not ", learning_rate);
    require(sparse_every >= 1 && sparse_every <= layers, "sparse_every must leave a sparse layer among the ", layers);
  }
};

template <class R>
struct Spec : moe::SpecDefaults {
  using Router = R;
  using Precision = moe::Bf16;
  using Backend = moe::Cpu;
  using Collective = moe::Solo;
};

template <class R>
using LearnerOf = pretraining::NextTokenLearner<moe::LanguageModel<Spec<R>>>;

moe::LanguageModelConfig model(const Settings& s, index_t vocabulary) {
  moe::LanguageModelConfig config;
  auto& stack = config.decoder;
  stack.layers = s.layers, stack.width = s.width, stack.heads = s.heads, stack.head_width = s.width / s.heads;
  stack.hidden = s.hidden, stack.sparse_every = s.sparse_every, stack.dropout = 0;
  stack.moe.experts = s.experts;
  config.vocabulary = vocabulary;
  return config;
}

int run(const Settings& s) {
  const pretraining::TextWindows text(s.corpus, s.language, s.window, s.validation);
  const auto table = s.table == "random" ? moe::random_hash_table(text.vocabulary, s.experts, s.seed)
                                         : moe::balanced_hash_table(text.counts(), s.experts);
  const moe::LanguageModelConfig config = model(s, text.vocabulary);
  pretraining::Learners<pretraining::NextTokenBatch> learners;
  learners.push_back(std::make_unique<LearnerOf<moe::Dense>>("dense", config, s.threads, s.seed));
  learners.push_back(std::make_unique<LearnerOf<moe::Hash>>(moe::join(s.table, " hash"), config, s.threads, s.seed,
                                                            moe::Hash{table.data()}));
  learners.push_back(std::make_unique<LearnerOf<moe::Switch>>("switch", config, s.threads, s.seed));
  std::printf("%zu windows of %lld tokens in '%s', %lld experts\n", text.train.size(), static_cast<long long>(s.window),
              s.language.c_str(), static_cast<long long>(s.experts));
  pretraining::compare(learners, text, s.rows, s.steps, s.minutes, s.learning_rate, s.seed);
  return 0;
}

int program(int argc, char** argv) {
  Settings settings;
  CLI::App app("sparsemoe-hash-lm: a language model with hash layers beside switch and dense ones",
               "sparsemoe-hash-lm");
  moe::add_options(app, settings);
  if (const auto status = moe::parse_command_line(app, argc, argv, settings)) return *status;
  return run(settings);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-hash-lm", argc, argv, program); }

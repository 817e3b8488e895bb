// hash_language_model.cpp -- the language model of the hash-layer paper (Roller et al. 2021): a decoder-only
// transformer whose sparse layers send each token to the expert its id has in a fixed table, beside Switch routing,
// which learns where to send it, and a dense model of equal compute. All see the same batches, in turn.
//   sparsemoe-nmt corpus --out corpus --languages de && sparsemoe-hash-lm --corpus corpus
#include <cstdio>

#include "side_by_side.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/sparsemoe.hpp"
#include "text.hpp"

namespace {

namespace moe = sparsemoe;
using moe::index_t;
using pretraining::Ids;

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
    require(sparse_every >= 1 && sparse_every <= layers, "sparse_every must leave a sparse layer among the ", layers);
  }
};

/// Windows side by side: each token is asked for from those before it.
struct Batch {
  index_t rows = 0, length = 0;
  std::vector<std::int32_t> ids, labels;
  std::vector<std::uint8_t> valid;

  explicit Batch(const std::vector<const Ids*>& windows)
      : rows(static_cast<index_t>(windows.size())), length(static_cast<index_t>(windows.front()->size())) {
    for (const Ids* w : windows) {
      ids.push_back(nmt::Tokenizer::begin);
      ids.insert(ids.end(), w->begin(), w->end() - 1);
      labels.insert(labels.end(), w->begin(), w->end());
    }
    valid.assign(ids.size(), 1);
  }
  moe::LanguageModelBatch view() const {
    return {{rows, length, ids.data(), valid.data(), nullptr, 0, nullptr}, labels.data()};
  }
  double tokens() const { return static_cast<double>(ids.size()); }
};

template <class R>
struct Spec : moe::SpecDefaults {
  using Router = R;
  using Precision = moe::Bf16;
  using Backend = moe::Cpu;
  using Collective = moe::Solo;
};

template <class R>
class LearnerOf final : public pretraining::Learner<Batch> {
 public:
  LearnerOf(std::string label, const Settings& s, index_t vocabulary, const R& router = {})
      : ctx_(static_cast<int>(s.threads)),
        seed_(s.seed),
        model_(ctx_, config(s, vocabulary)),
        optimiser_(ctx_, model_.weights.list(), {}) {
    name = std::move(label);
    model_.decoder().set_router(router);
    model_.weights.initialise(ctx_, s.seed);
  }
  void step(const Batch& batch, double rate) override {
    ctx_.training = true;
    ctx_.random = {seed_, step_++, 0};
    model_.loss(ctx_, batch.view(), solo_, 1 / batch.tokens(), 1);
    update_(ctx_, model_.weights, optimiser_, rate, solo_);
    ctx_.arena.reset();
  }
  double perplexity(const std::vector<Batch>& batches) override {
    ctx_.training = false;
    moe::LossSums sums;
    for (const Batch& batch : batches) {
      sums += model_.loss(ctx_, batch.view(), solo_, 0, 0);
      ctx_.arena.reset();
    }
    return std::exp(sums.loss / sums.tokens);
  }
  std::string loads() override { return pretraining::shares(name.c_str(), model_.decoder().statistics(ctx_)); }
  index_t parameters() const override { return model_.weights.count(); }
  index_t active() const override { return pretraining::met_by_a_token(model_.weights.list()); }
  std::vector<float> weights() override { return model_.weights.get(ctx_); }
  void set_weights(const std::vector<float>& values) override { model_.weights.set(ctx_, values); }

 private:
  static moe::LanguageModelConfig config(const Settings& s, index_t vocabulary) {
    moe::LanguageModelConfig config;
    auto& stack = config.decoder;
    stack.layers = s.layers, stack.width = s.width, stack.heads = s.heads, stack.head_width = s.width / s.heads;
    stack.hidden = s.hidden, stack.sparse_every = s.sparse_every, stack.dropout = 0;
    stack.moe.experts = s.experts;
    config.vocabulary = vocabulary;
    return config;
  }

  moe::Cpu::Context ctx_;
  std::uint64_t seed_;
  moe::Solo solo_;
  moe::LanguageModel<Spec<R>> model_;
  moe::AdamW<moe::Bf16, moe::Cpu> optimiser_;
  moe::Updater<moe::Bf16, moe::Cpu> update_;
  std::uint32_t step_ = 0;
};

int run(const Settings& s) {
  const nmt::Corpus corpus = nmt::load_corpus(s.corpus, {});
  moe::require(!corpus.tokenizer.empty(), s.corpus, ": the corpus has no tokenizer (spm.model)");
  const nmt::Tokenizer tokenizer(corpus.tokenizer);
  const auto length = static_cast<std::size_t>(s.window), rows = static_cast<std::size_t>(s.rows);
  const auto text = pretraining::windows_of(corpus.split("train"), s.language, tokenizer, length);
  auto dev = pretraining::windows_of(corpus.split("dev"), s.language, tokenizer, length);
  dev.resize(std::min(dev.size(), static_cast<std::size_t>(s.validation)));
  std::vector<Batch> dev_batches;
  for (std::size_t i = 0; i < dev.size(); i += rows) {
    std::vector<const Ids*> some;
    for (std::size_t j = i; j < std::min(dev.size(), i + rows); ++j) some.push_back(&dev[j]);
    dev_batches.emplace_back(some);
  }
  const index_t v = tokenizer.size();
  std::vector<std::int64_t> count(static_cast<std::size_t>(v), 0);
  for (const Ids& window : text)
    for (const auto id : window) ++count[static_cast<std::size_t>(id)];
  const auto table =
      s.table == "random" ? moe::random_hash_table(v, s.experts, s.seed) : moe::balanced_hash_table(count, s.experts);

  pretraining::Learners<Batch> learners;
  learners.push_back(std::make_unique<LearnerOf<moe::Dense>>("dense", s, v));
  learners.push_back(
      std::make_unique<LearnerOf<moe::Hash>>(moe::join(s.table, " hash"), s, v, moe::Hash{table.data()}));
  learners.push_back(std::make_unique<LearnerOf<moe::Switch>>("switch", s, v));
  std::printf("%zu windows of %zu tokens in '%s', %lld experts\n", text.size(), length, s.language.c_str(),
              static_cast<long long>(s.experts));
  std::vector<double> before;
  for (auto& learner : learners) before.push_back(learner->perplexity(dev_batches));
  const std::int64_t steps =
      pretraining::train(learners, s.steps, s.minutes * 60, s.learning_rate, [&](std::int64_t step) {
        std::vector<const Ids*> windows;
        for (std::size_t r = 0; r < rows; ++r)
          windows.push_back(&text[pretraining::drawn(s.seed, 1, step, r, text.size())]);
        return Batch(windows);
      });
  std::printf("\nperplexity of a token, %zu dev windows, %lld steps of %zu windows\n", dev.size(),
              static_cast<long long>(steps), rows);
  pretraining::print_header();
  for (std::size_t i = 0; i < learners.size(); ++i)
    pretraining::print_row(*learners[i], before[i], learners[i]->perplexity(dev_batches));
  std::printf("share of each expert in the last batch\n");
  for (std::size_t i = 1; i < learners.size(); ++i) std::printf("%s", learners[i]->loads().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("sparsemoe-hash-lm: a language model with hash layers beside switch and dense ones",
               "sparsemoe-hash-lm");
  sparsemoe::add_options(app, settings);
  if (const auto status = sparsemoe::parse_command_line(app, argc, argv, settings)) return *status;
  try {
    return run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sparsemoe-hash-lm: %s\n", error.what());
    return 1;
  }
}

// SPDX-License-Identifier: Apache-2.0
// switch_pretraining.cpp -- Switch Transformer pre-training (Fedus et al. 2021): T5's span corruption on running text,
// in bf16 with an fp32 router, beside a dense T5 of equal compute; then fine-tuning on translation, with and without
// the paper's expert dropout. All models see the same batches, in turn, so steps and data are equal whatever the clock
// says.
//   sparsemoe-nmt corpus --out corpus --languages de && sparsemoe-pretrain --corpus corpus
#include <cstdio>

#include "side_by_side.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"
#include "sparsemoe/sparsemoe.hpp"
#include "text.hpp"

namespace {

namespace moe = sparsemoe;
using moe::index_t;
using pretraining::Example;
using pretraining::Ids;

struct Settings {
  std::string corpus, language = "en", to = "de";
  double minutes = 6;
  std::int64_t steps = 0, fine_steps = 0, window = 64, rows = 32, validation = 256, threads = 0;
  std::int64_t layers = 2, width = 192, heads = 4, hidden = 768, experts = 8;
  double learning_rate = 2e-3, capacity_factor = 1.25, init_scale = 0.1, dropout = 0.1, expert_dropout = 0.4;
  std::uint64_t seed = 1;

  template <class F>
  void visit(F&& f) {
    f("corpus", corpus, "directory made by sparsemoe-nmt corpus");
    f("language", language, "language of the pre-training text, and the source of the fine-tuning task");
    f("to", to, "language the fine-tuning task translates into");
    f("minutes", minutes, "time for everything; two thirds of it pre-train. Where steps are given they count instead");
    f("steps", steps, "pre-training steps; 0: by the clock");
    f("fine_steps", fine_steps, "fine-tuning steps; 0: by the clock");
    f("window", window, "tokens of a window before it is corrupted");
    f("rows", rows, "windows or pairs a step");
    f("validation", validation, "windows and pairs of the dev split that are scored");
    f("layers", layers, "layers of the encoder, and of the decoder; every second one is sparse");
    f("width", width, "model width");
    f("heads", heads, "attention heads");
    f("hidden", hidden, "hidden width of a feed-forward network or expert");
    f("experts", experts, "experts of a sparse layer");
    f("learning_rate", learning_rate, "peak learning rate; a tenth of it fine-tunes");
    f("capacity_factor", capacity_factor, "slots of an expert in training, times its fair share");
    f("init_scale", init_scale, "s of the initialisation sqrt(s / fan_in) of the sparse model; the dense one has 1");
    f("dropout", dropout, "dropout when fine-tuning, expert dropout of the models that have none of their own");
    f("expert_dropout", expert_dropout, "dropout inside the experts of one fine-tuned model");
    f("seed", seed, "seed of weights, spans and order");
    f("threads", threads, "threads; 0: all");
  }
  void check() const {
    using moe::require;
    require(!corpus.empty(), "give --corpus DIR, a directory made by sparsemoe-nmt corpus");
    require(minutes > 0 && steps >= 0 && fine_steps >= 0, "minutes must be above 0 and steps not negative");
    require(window >= 4 && window <= 4096, "window must be between 4 and 4096 tokens, not ", window);
    require(rows >= 1 && validation >= 1 && threads >= 0,
            "rows and validation must be at least 1, threads not negative");
    require(layers >= 2 && width >= 1 && heads >= 1 && width % heads == 0 && hidden >= 1 && experts >= 1,
            "layers must be at least 2, width a multiple of heads, hidden and experts at least 1");
    require(
        steps <= 100000000 && fine_steps <= 100000000 && rows <= 65536 && validation <= 1000000000 && threads <= 1024,
        "steps and fine_steps must be at most 100000000, rows 65536, validation 1000000000 and threads 1024");
    require(layers <= 1000 && width <= 65536 && hidden <= 1048576 && experts <= 65536 && minutes <= 1e7,
            "a size is beyond what this program supports (layers 1000, width 65536, hidden 1048576, experts 65536)");
    require(learning_rate > 0 && learning_rate <= 1e300, "learning_rate must be positive, not ", learning_rate);
    require(dropout >= 0 && dropout < 1 && expert_dropout >= 0 && expert_dropout < 1,
            "dropout and expert_dropout must be at least 0 and less than 1");
    require(init_scale > 0 && init_scale <= 1e300 && capacity_factor >= 0 && capacity_factor <= 1e6,
            "init_scale must be positive, capacity_factor between 0 and 1000000");
    require(language != to, "language and to must differ; both are '", to, "'");
  }
};

/// Examples side by side, padded; decoder inputs are the targets shifted right.
struct Batch {
  index_t rows = 0, source_length = 0, target_length = 0;
  std::vector<std::int32_t> source, target, labels;
  std::vector<std::uint8_t> source_valid, target_valid;

  explicit Batch(const std::vector<const Example*>& examples) : rows(static_cast<index_t>(examples.size())) {
    for (const Example* e : examples) {
      source_length = std::max(source_length, static_cast<index_t>(e->input.size()));
      target_length = std::max(target_length, static_cast<index_t>(e->target.size()));
    }
    for (const Example* e : examples) {
      Ids shifted = e->target;
      shifted.insert(shifted.begin(), nmt::Tokenizer::begin);
      shifted.pop_back();
      append(e->input, source_length, 0, source, &source_valid);
      append(shifted, target_length, 0, target, &target_valid);
      append(e->target, target_length, -1, labels, nullptr);
    }
  }
  moe::Seq2SeqBatch view() const {
    return {{rows, source_length, source.data(), source_valid.data(), nullptr, 0, nullptr},
            {rows, target_length, target.data(), target_valid.data(), nullptr, 0, nullptr},
            labels.data()};
  }
  double tokens() const { return static_cast<double>(std::count(target_valid.begin(), target_valid.end(), 1)); }

 private:
  static void append(const Ids& ids, index_t columns, std::int32_t fill, std::vector<std::int32_t>& to,
                     std::vector<std::uint8_t>* valid) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(columns); ++i) {
      to.push_back(i < ids.size() ? ids[i] : fill);
      if (valid != nullptr) valid->push_back(i < ids.size() ? 1 : 0);
    }
  }
};
std::vector<Batch> batches_of(const std::vector<Example>& examples, std::size_t rows) {
  std::vector<Batch> batches;
  for (std::size_t i = 0; i < examples.size(); i += rows) {
    std::vector<const Example*> some;
    for (std::size_t j = i; j < std::min(examples.size(), i + rows); ++j) some.push_back(&examples[j]);
    batches.emplace_back(some);
  }
  return batches;
}

template <class R>
struct Spec : moe::SpecDefaults {
  using Router = R;
  using Precision = moe::Bf16;  // whose router is fp32: the paper's selective precision
  using Backend = moe::Cpu;
  using Collective = moe::Solo;
  template <class P, class B>
  using Norm = moe::RmsNorm<P, B>;
};

template <class R>
class LearnerOf final : public pretraining::Learner<Batch> {
 public:
  LearnerOf(std::string label, const Settings& s, std::int32_t vocabulary, double dropout, double expert_dropout)
      : ctx_(static_cast<int>(s.threads)),
        seed_(s.seed),
        model_(ctx_, config(s, vocabulary, dropout, expert_dropout)),
        optimiser_(ctx_, model_.weights.list(), {}) {
    name = std::move(label);
    model_.weights.initialise(ctx_, s.seed);
  }
  moe::UpdateResult step(const Batch& batch, double rate) override {
    ctx_.training = true;
    ctx_.random = {seed_, step_++, 0};
    const moe::LossSums sums = model_.loss(ctx_, batch.view(), solo_, 1 / batch.tokens(), 1);
    const moe::UpdateResult result = update_(ctx_, model_.weights, optimiser_, rate, solo_, sums.loss);
    ctx_.arena.reset();
    return result;
  }
  double perplexity(const std::vector<Batch>& batches) override {
    ctx_.training = false;
    moe::LossSums sums;
    for (const Batch& batch : batches) {
      sums += model_.loss(ctx_, batch.view(), solo_, 0, 0);
      ctx_.arena.reset();
    }
    return pretraining::perplexity_of(name, sums.loss, sums.tokens);
  }
  /// Shares of the experts in the last batch, layer by layer.
  std::string loads() override {
    return pretraining::shares("encoder", model_.encoder().statistics(ctx_)) +
           pretraining::shares("decoder", model_.decoder().statistics(ctx_));
  }
  index_t parameters() const override { return model_.weights.count(); }
  index_t active() const override { return pretraining::met_by_a_token(model_.weights.list()); }
  std::vector<float> weights() override { return model_.weights.get(ctx_); }
  void set_weights(const std::vector<float>& values) override { model_.weights.set(ctx_, values); }

 private:
  static moe::EncoderDecoderConfig config(const Settings& s, std::int32_t vocabulary, double dropout,
                                          double expert_dropout) {
    moe::StackConfig stack;
    stack.layers = s.layers, stack.width = s.width, stack.heads = s.heads, stack.head_width = s.width / s.heads;
    stack.hidden = s.hidden, stack.sparse_every = 2, stack.bias = false, stack.relative_positions = true;
    stack.dropout = dropout;
    stack.moe.experts = s.experts, stack.moe.capacity_factor = s.capacity_factor, stack.moe.jitter = 0.01;
    stack.moe.z_coefficient = 1e-3, stack.moe.expert_dropout = expert_dropout;
    stack.moe.init_scale = std::is_same_v<R, moe::Dense> ? 1 : s.init_scale;
    moe::EncoderDecoderConfig config;
    config.vocabulary = vocabulary, config.label_smoothing = 0, config.sinusoidal = false;
    config.encoder = config.decoder = stack;
    return config;
  }

  moe::Cpu::Context ctx_;
  std::uint64_t seed_;
  moe::Solo solo_;
  moe::EncoderDecoder<Spec<R>> model_;
  moe::AdamW<moe::Bf16, moe::Cpu> optimiser_;
  moe::Updater<moe::Bf16, moe::Cpu> update_;
  std::uint64_t step_ = 0;
};

int run(const Settings& s) {
  const nmt::Corpus corpus = nmt::load_corpus(s.corpus, {});
  moe::require(!corpus.tokenizer.empty(), s.corpus, ": the corpus has no tokenizer (spm.model)");
  const nmt::Tokenizer tokenizer(corpus.tokenizer);
  const pretraining::SpanCorruption corrupt{.pieces = tokenizer.size()};
  const auto length = static_cast<std::size_t>(s.window), rows = static_cast<std::size_t>(s.rows);
  const auto first = [&](auto all) {
    if (all.size() > static_cast<std::size_t>(s.validation)) all.resize(static_cast<std::size_t>(s.validation));
    return all;
  };
  const auto text = pretraining::windows_of(corpus.split("train"), s.language, tokenizer, length);
  const auto pairs = pretraining::translations_of(corpus.split("train"), s.language, s.to, tokenizer, length);
  std::vector<Example> corrupted;
  for (const Ids& window : first(pretraining::windows_of(corpus.split("dev"), s.language, tokenizer, length)))
    corrupted.push_back(corrupt(window, {s.seed + 1, 0, 0}, corrupted.size()));
  const auto dev_text = batches_of(corrupted, rows);
  const auto dev_pairs =
      batches_of(first(pretraining::translations_of(corpus.split("dev"), s.language, s.to, tokenizer, length)), rows);

  pretraining::Learners<Batch> learners;
  const std::int32_t v = corrupt.vocabulary();
  learners.push_back(std::make_unique<LearnerOf<moe::Dense>>("dense", s, v, 0, 0));
  learners.push_back(
      std::make_unique<LearnerOf<moe::Switch>>(moe::join("switch, ", s.experts, " experts"), s, v, 0, 0));
  std::printf("pre-training: %zu windows of %zu tokens in '%s'\n", text.size(), length, s.language.c_str());
  std::vector<double> before;
  for (auto& learner : learners) before.push_back(learner->perplexity(dev_text));
  const std::int64_t steps =
      pretraining::train(learners, s.steps, s.minutes * 40, s.learning_rate, [&](std::int64_t step) {
        std::vector<Example> examples;
        for (std::size_t r = 0; r < rows; ++r)
          examples.push_back(corrupt(text[pretraining::drawn(s.seed, 1, step, r, text.size())],
                                     {s.seed, static_cast<std::uint64_t>(step), 2}, r));
        return batches_of(examples, rows).front();
      });
  std::printf("\nperplexity of hidden spans, %zu dev windows, %lld steps of %zu windows\n", corrupted.size(),
              static_cast<long long>(steps), rows);
  pretraining::print_header();
  for (std::size_t i = 0; i < learners.size(); ++i)
    pretraining::print_row(*learners[i], before[i], learners[i]->perplexity(dev_text));
  std::printf("share of each expert in the last batch\n%s", learners[1]->loads().c_str());

  // Fine-tuning: the paper keeps dropout low and drops more inside the experts, which overfit first.
  pretraining::Learners<Batch> tuned;
  tuned.push_back(std::make_unique<LearnerOf<moe::Dense>>("dense", s, v, s.dropout, 0));
  for (const double inside : {s.dropout, s.expert_dropout})
    tuned.push_back(std::make_unique<LearnerOf<moe::Switch>>(moe::join("switch, expert dropout ", inside), s, v,
                                                             s.dropout, inside));
  for (std::size_t i = 0; i < tuned.size(); ++i) tuned[i]->set_weights(learners[i == 0 ? 0 : 1]->weights());
  learners.clear();
  std::printf("\nfine-tuning: %zu pairs %s-%s\n", pairs.size(), s.language.c_str(), s.to.c_str());
  before.clear();
  for (auto& learner : tuned) before.push_back(learner->perplexity(dev_pairs));
  const std::int64_t fine_steps =
      pretraining::train(tuned, s.fine_steps, s.minutes * 20, s.learning_rate / 10, [&](std::int64_t step) {
        std::vector<const Example*> examples;
        for (std::size_t r = 0; r < rows; ++r)
          examples.push_back(&pairs[pretraining::drawn(s.seed, 3, step, r, pairs.size())]);
        return Batch(examples);
      });
  std::printf("\nperplexity of translations, at most %lld dev pairs, %lld steps of %zu pairs\n",
              static_cast<long long>(s.validation), static_cast<long long>(fine_steps), rows);
  pretraining::print_header();
  for (std::size_t i = 0; i < tuned.size(); ++i)
    pretraining::print_row(*tuned[i], before[i], tuned[i]->perplexity(dev_pairs));
  return 0;
}

int program(int argc, char** argv) {
  Settings settings;
  CLI::App app("sparsemoe-pretrain: a Switch Transformer beside a dense T5, pre-trained and fine-tuned",
               "sparsemoe-pretrain");
  moe::add_options(app, settings);
  if (const auto status = moe::parse_command_line(app, argc, argv, settings)) return *status;
  return run(settings);
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-pretrain", argc, argv, program); }

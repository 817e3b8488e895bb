// SPDX-License-Identifier: Apache-2.0
// settings.hpp -- every knob of the program as a plain value: the model's (saved as config.json with each checkpoint)
// and the training run's. One field list drives long options, JSON config files and what is saved with the run. Read
// next: translator.hpp for what is made of them, train.hpp for their use.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/model/by_name.hpp"
#include "sparsemoe/model/stack_config.hpp"
#include "sparsemoe/optim/schedule.hpp"

namespace nmt {

namespace moe = sparsemoe;

/// A number and what it may be.
struct Range {
  const char* name;
  double value, low, high;
};
/// Throws Error for the first that is outside, or not a number.
inline void require_ranges(std::initializer_list<Range> ranges) {
  for (const Range& r : ranges)
    sparsemoe::require(r.value >= r.low && r.value <= r.high, r.name, " must be between ", r.low, " and ", r.high,
                       ", not ", r.value);
}
/// A count in a list of ranges.
constexpr double number(std::int64_t n) { return static_cast<double>(n); }
inline constexpr double kMostCount = 1e9, kMostNumber = 1e300;

/// What defines a model. Fixed when training begins.
struct ModelSettings {
  std::string precision = "bf16";
  std::string encoder_router{moe::router_name<moe::TopK<2>>()}, decoder_router{moe::router_name<moe::Task>()};
  std::string task = "target";
  std::int64_t encoder_layers = 3, decoder_layers = 3;
  std::string hash_table = "balanced";
  double label_smoothing = 0.1;
  moe::StackConfig stack = [] {  // what both stacks have
    moe::StackConfig c;
    c.dropout = 0.1;
    c.moe.z_coefficient = 0.001;
    c.moe.jitter = 0.01;
    return c;
  }();

  template <class F>
  void visit(F&& f) {
    f("precision", precision, "storage precision: fp32, or bf16 with an fp32 router and fp32 master weights");
    static const std::string encoders = moe::router_choices([](const auto& r) { return r.encoders; });
    static const std::string decoders = moe::router_choices([](const auto& r) { return r.decoders; });
    f("encoder_router", encoder_router, encoders.c_str());
    f("decoder_router", decoder_router, decoders.c_str());
    f("task", task, "what a task is: target (the target language) or pair (source and target language)");
    f("encoder_layers", encoder_layers, "layers of the encoder");
    f("decoder_layers", decoder_layers, "layers of the decoder");
    const auto of_stack = [&](std::initializer_list<std::string_view> names) { moe::visit_fields(stack, names, f); };
    of_stack({"width", "heads", "hidden", "experts", "sparse_every"});
    f("hash_table", hash_table, "hash routing: balanced (by corpus frequency) or random");
    of_stack({"relative_positions", "capacity_factor", "eval_capacity_factor", "group", "balance_loss", "z_loss",
              "jitter", "dropout", "expert_dropout"});
    f("label_smoothing", label_smoothing, "mass of the target distribution spread over the vocabulary");
    of_stack({"init_scale"});
  }
  /// Sparse ones among `layers` of a stack that is not dense.
  std::int64_t sparse_layers(std::int64_t layers) const {
    return stack.sparse_every > 0 ? layers / stack.sparse_every : 0;
  }
  void check() const {
    using sparsemoe::require;
    const moe::MoeConfig& sparse = stack.moe;
    const auto known = [](const std::vector<std::string>& v, const std::string& s) {
      return std::find(v.begin(), v.end(), s) != v.end();
    };
    require(known({"fp32", "bf16"}, precision), "precision must be fp32 or bf16, not '", precision, "'");
    const moe::NamedRouter &encoder = moe::named_router(encoder_router), &decoder = moe::named_router(decoder_router);
    moe::require_router_fits(encoder, moe::InStack::encoder, "--encoder-router");
    moe::require_router_fits(decoder, moe::InStack::decoder, "--encoder-router");
    require(known({"target", "pair"}, task), "task must be target or pair, not '", task, "'");
    require(known({"balanced", "random"}, hash_table), "hash_table must be balanced or random, not '", hash_table, "'");
    require(stack.heads >= 1 && stack.width >= 1 && stack.width % stack.heads == 0,
            "width must be a multiple of heads, not ", stack.width, " and ", stack.heads);
    require(stack.hidden >= 1 && encoder_layers >= 1 && decoder_layers >= 1,
            "hidden, encoder_layers and decoder_layers must be at least 1, not ", stack.hidden, ", ", encoder_layers,
            " and ", decoder_layers);
    require(sparse.experts >= 1, "experts must be at least 1, not ", sparse.experts);
    require(stack.sparse_every >= 0 && sparse.group >= 0, "sparse_every and group must not be negative, not ",
            stack.sparse_every, " and ", sparse.group);
    require(sparse.capacity_factor >= 0 && sparse.eval_capacity_factor >= 0,
            "capacity_factor and eval_capacity_factor must not be negative, not ", sparse.capacity_factor, " and ",
            sparse.eval_capacity_factor);
    require(encoder.can_drop || decoder.can_drop || (sparse.capacity_factor <= 0 && sparse.eval_capacity_factor <= 0),
            "capacity_factor is for ", moe::listed(moe::router_names([](const auto& r) { return r.can_drop; }), "and"),
            " routing; ",  // of a router and its form for decoders, the one that both stacks have
            moe::listed(moe::router_names([](const auto& r) { return !r.can_drop && r.encoders; }), "and"),
            " layers drop nothing");
    for (const auto& [name, value] : {std::pair{"dropout", stack.dropout},
                                      {"expert_dropout", sparse.expert_dropout},
                                      {"jitter", sparse.jitter},
                                      {"label_smoothing", label_smoothing}})
      require(value >= 0 && value < 1, name, " must be at least 0 and less than 1, not ", value);
    require(sparse.balance_coefficient >= 0 && sparse.z_coefficient >= 0,
            "balance_loss and z_loss must not be negative, not ", sparse.balance_coefficient, " and ",
            sparse.z_coefficient);
    require(sparse.init_scale > 0, "init_scale must be positive, not ", sparse.init_scale);
    require_ranges({{"width", number(stack.width), 1, 65536},
                    {"hidden", number(stack.hidden), 1, 1048576},
                    {"experts", number(sparse.experts), 1, 65536},
                    {"encoder_layers", number(encoder_layers), 1, 1000},
                    {"decoder_layers", number(decoder_layers), 1, 1000},
                    {"sparse_every", number(stack.sparse_every), 0, kMostCount},
                    {"group", number(sparse.group), 0, kMostCount},
                    {"heads", number(stack.heads), 1, number(stack.width)},
                    {"capacity_factor", sparse.capacity_factor, 0, 1e6},
                    {"eval_capacity_factor", sparse.eval_capacity_factor, 0, 1e6},
                    {"balance_loss", sparse.balance_coefficient, 0, kMostNumber},
                    {"z_loss", sparse.z_coefficient, 0, kMostNumber},
                    {"init_scale", sparse.init_scale, 0, kMostNumber}});
  }
};

/// One stack of a model, by name.
struct StackSettings {
  std::string name, router;
  std::int64_t layers = 0;
  std::vector<std::int64_t> experts, hidden;  // of each layer; 0 experts: a dense layer

  const moe::NamedRouter& traits() const { return moe::named_router(router); }
};

/// config.json of a checkpoint: the settings, what the corpus fixed, and what extraction changed from layer to layer.
struct ModelFile {
  ModelSettings model;
  std::int64_t vocabulary = 0;
  std::vector<std::string> languages, tasks;
  std::vector<std::int64_t> encoder_experts = {}, decoder_experts = {}, encoder_hidden = {}, decoder_hidden = {};

  template <class F>
  void visit(F&& f) {
    model.visit(f);
    f("vocabulary", vocabulary, "entries of the tokenizer");
    f("languages", languages, "languages, English first");
    f("tasks", tasks, "task names, by task number");
    f("encoder_experts", encoder_experts,
      "experts of each encoder layer, 0 if dense; none: by experts and sparse_every");
    f("decoder_experts", decoder_experts, "experts of each decoder layer");
    f("encoder_hidden", encoder_hidden, "hidden width of each encoder layer; none: hidden");
    f("decoder_hidden", decoder_hidden, "hidden width of each decoder layer");
  }
  void check() const {
    model.check();
    sparsemoe::require(vocabulary >= 4, "vocabulary must be at least 4, not ", vocabulary);
    sparsemoe::require(languages.size() >= 2, "there must be at least 2 languages, not ", languages.size());
    check_names("languages", languages);
    check_names("tasks", tasks);
    sparsemoe::require(!tasks.empty(), "there must be a task");
    for (const auto& t : tasks)
      sparsemoe::require(names_task(t), "tasks: '", t, "' is no ",
                         model.task == "pair" ? "pair of two of the languages" : "language of the model");
    const auto check_list = [&](const char* name, const std::vector<std::int64_t>& list, std::int64_t layers,
                                std::int64_t least, std::int64_t most) {
      sparsemoe::require(list.empty() || static_cast<std::int64_t>(list.size()) == layers, name,
                         " must have an entry for each of the ", layers, " layers, or none, not ", list.size());
      for (const auto n : list)
        sparsemoe::require(n >= least && n <= most, name, " must be between ", least, " and ", most, ", not ", n);
    };
    check_list("encoder_experts", encoder_experts, model.encoder_layers, 0, 65536);
    check_list("decoder_experts", decoder_experts, model.decoder_layers, 0, 65536);
    check_list("encoder_hidden", encoder_hidden, model.encoder_layers, 1, 1048576);
    check_list("decoder_hidden", decoder_hidden, model.decoder_layers, 1, 1048576);
    const auto check_router = [&](const char* name, const std::vector<std::int64_t>& list, const std::string& router) {
      const moe::NamedRouter& traits = moe::named_router(router);
      for (const auto n : list) {
        sparsemoe::require(!traits.dense() || n == 0, name, " must be 0 in a dense stack, not ", n);
        sparsemoe::require(!traits.needs_table || n == 0 || n == model.stack.moe.experts, name, " must be ",
                           model.stack.moe.experts, " (experts) in a layer routed by ", router, ", not ", n);
      }
    };
    check_router("encoder_experts", encoder_experts, model.encoder_router);
    check_router("decoder_experts", decoder_experts, model.decoder_router);
  }
  static void check_names(const char* key, std::vector<std::string> names) {
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    sparsemoe::require(twice == names.end(), key, " has '", twice == names.end() ? "" : *twice, "' twice");
  }
  bool names_task(const std::string& name) const {
    const auto is_language = [&](const std::string& l) {
      return std::find(languages.begin(), languages.end(), l) != languages.end();
    };
    if (model.task != "pair") return is_language(name);
    for (std::size_t dash = name.find('-'); dash != std::string::npos; dash = name.find('-', dash + 1))
      if (is_language(name.substr(0, dash)) && is_language(name.substr(dash + 1))) return true;
    return false;
  }
  /// "encoder" or "decoder", layer by layer.
  StackSettings stack(const std::string& name) const {
    const bool encoder = name == "encoder";
    StackSettings s{name,
                    encoder ? model.encoder_router : model.decoder_router,
                    encoder ? model.encoder_layers : model.decoder_layers,
                    {},
                    {}};
    const auto& experts = encoder ? encoder_experts : decoder_experts;
    const auto& hidden = encoder ? encoder_hidden : decoder_hidden;
    for (std::int64_t l = 0; l < s.layers; ++l) {
      const bool sparse =
          !s.traits().dense() && model.stack.sparse_every > 0 && (l + 1) % model.stack.sparse_every == 0;
      s.experts.push_back(!experts.empty() ? experts[static_cast<std::size_t>(l)]
                          : sparse         ? model.stack.moe.experts
                                           : 0);
      s.hidden.push_back(!hidden.empty() ? hidden[static_cast<std::size_t>(l)] : model.stack.hidden);
    }
    return s;
  }
  /// The matrices' parameters; a double, since a hostile file may ask for more than 2^63. Call check() before.
  double matrix_parameters() const {
    const auto w = static_cast<double>(model.stack.width);
    double n = static_cast<double>(vocabulary) * w;
    for (const auto& [name, attentions] : {std::pair{"encoder", 1.0}, {"decoder", 2.0}}) {
      const StackSettings s = stack(name);
      for (std::size_t l = 0; l < s.experts.size(); ++l)
        n += 4 * w * w * attentions +
             2 * w * static_cast<double>(s.hidden[l]) * static_cast<double>(std::max<std::int64_t>(1, s.experts[l]));
    }
    return n;
  }
  /// Whether a direction has a task: a sub-network serves only those it was extracted for.
  bool serves(const std::string& source, const std::string& target) const {
    return std::find(tasks.begin(), tasks.end(), model.task == "pair" ? source + "-" + target : target) != tasks.end();
  }
  /// The task of a direction, e.g. "de" or "en-de". Throws Error naming the known ones.
  std::int32_t task_of(const std::string& source, const std::string& target) const {
    const std::string name = model.task == "pair" ? source + "-" + target : target;
    const auto it = std::find(tasks.begin(), tasks.end(), name);
    if (it == tasks.end()) {
      std::string all;
      for (const auto& t : tasks) all += (all.empty() ? "" : ", ") + t;
      sparsemoe::fail("the model has no task '", name, "'; it knows ", all);
    }
    return static_cast<std::int32_t>(it - tasks.begin());
  }
};

enum class OptimiserKind { adamw, adafactor, factored_adam };
constexpr std::array<std::string_view, 3> field_names(OptimiserKind) { return {"adamw", "adafactor", "factored_adam"}; }

/// A training run.
struct TrainSettings {
  std::string corpus, out;
  std::vector<std::string> languages;
  std::string tokenizer, upcycle_from;
  std::string kinds = "s,t,p,l", directions = "both";
  ModelSettings model;
  OptimiserKind optimiser = OptimiserKind::adamw;
  std::string schedule = "linear";
  double learning_rate = 2e-3, floor = 0.02, clip = 1, weight_decay = 0, beta1 = 0.9, beta2 = 0.98;
  std::int64_t warmup = 300, steps = 20000;
  double minutes = 0;
  double temperature = 5;
  std::int64_t tokens = 2048, max_length = 128, accumulate = 1;
  std::int64_t validate_every = 1000, validate_rows = 200, bleu_rows = 20, log_every = 50, checkpoint_every = 1000,
               keep = 2;
  double checkpoint_minutes = 5;
  std::uint64_t seed = 1;
  std::int64_t threads = 0;

  template <class F>
  void visit(F&& f) {
    visit_data(f);
    model.visit(f);
    visit_steps(f);
  }
  /// What is read and written.
  template <class F>
  void visit_data(F&& f) {
    f("corpus", corpus, "directory made by the corpus command; required");
    f("out", out, "directory of the run; required");
    f("languages", languages, "languages to train on beside the first (English); none: all of the corpus");
    f("tokenizer", tokenizer, "SentencePiece model; empty: the corpus' own");
    f("upcycle_from", upcycle_from, "a dense run whose weights the model starts from: its experts are copies");
    f("kinds", kinds, "kinds of text: s one-line summaries, t sentences, p paragraphs, l list items");
    f("directions", directions, "both, en2xx or xx2en");
  }
  /// How the model is trained.
  template <class F>
  void visit_steps(F&& f) {
    f("optimiser", optimiser,
      "adamw, adafactor (whose rate is relative to the parameter's size) or factored_adam (Shazeer et al. 2017: "
      "experts "
      "have no first moment and a factored second one)");
    f("schedule", schedule, "constant, linear, cosine, inverse_sqrt, transformer or sqrt_decay");
    f("learning_rate", learning_rate, "peak learning rate");
    f("floor", floor, "share of the peak at the end of linear and cosine decay");
    f("clip", clip, "largest gradient norm; 0: no clipping");
    f("weight_decay", weight_decay, "decoupled weight decay");
    f("beta1", beta1, "AdamW and factored_adam: decay of the first moment");
    f("beta2", beta2, "AdamW and factored_adam: decay of the second moment");
    f("warmup", warmup, "steps of warm-up");
    f("steps", steps, "steps to train, unless minutes ends the run before");
    f("minutes", minutes, "minutes to train; the schedule then decays by time. 0: no limit");
    f("temperature", temperature, "temperature of sampling over language pairs");
    f("tokens", tokens, "padded tokens of the longer side in a batch");
    f("max_length", max_length, "longest side of a training pair, in tokens");
    f("accumulate", accumulate, "batches in a step");
    f("validate_every", validate_every, "steps between validations");
    f("validate_rows", validate_rows, "dev rows a direction for the validation loss and expert use");
    f("bleu_rows", bleu_rows, "dev rows a direction for the validation BLEU");
    f("log_every", log_every, "steps between log records");
    f("checkpoint_every", checkpoint_every, "steps between checkpoints");
    f("checkpoint_minutes", checkpoint_minutes, "minutes between checkpoints, at most");
    f("keep", keep, "checkpoints to keep");
    f("seed", seed, "seed of everything random");
    f("threads", threads, "threads; 0: all");
  }
  void check() const {
    using sparsemoe::require;
    model.check();
    require(directions == "both" || directions == "en2xx" || directions == "xx2en",
            "directions must be both, en2xx or xx2en, not '", directions, "'");
    require(learning_rate > 0, "learning_rate must be positive, not ", learning_rate);
    require(steps >= 1 && tokens >= 16 && max_length >= 4 && accumulate >= 1 && log_every >= 1 && keep >= 1 &&
                checkpoint_every >= 1 && validate_every >= 1,
            "steps, accumulate, log_every, validate_every, checkpoint_every and keep must be at least 1, max_length at "
            "least 4, tokens at least 16");
    require(max_length + 2 <= tokens, "tokens (", tokens, ") must hold one pair of max_length (", max_length,
            ") and its end");
    require(steps <= 100000000, "steps must be at most 100000000, not ", steps);
    for (const auto& [router, stack] :
         {std::pair{model.encoder_router, "encoder"}, {model.decoder_router, "decoder"}}) {
      const std::int64_t choices = moe::named_router(router).choices;
      require(model.stack.sparse_every == 0 || model.stack.moe.experts >= choices, "experts must be at least ", choices,
              " for ", router, " routing in the ", stack, ", which chooses so many; not ", model.stack.moe.experts);
    }
    require_ranges({{"learning_rate", learning_rate, 0, kMostNumber},
                    {"clip", clip, 0, kMostNumber},
                    {"weight_decay", weight_decay, 0, kMostNumber},
                    {"warmup", number(warmup), 0, 1e8},
                    {"minutes", minutes, 0, 1e7},
                    {"temperature", temperature, 0.05, 1e6},
                    {"tokens", number(tokens), 16, 1 << 24},
                    {"max_length", number(max_length), 4, 1 << 24},
                    {"accumulate", number(accumulate), 1, 65536},
                    {"validate_every", number(validate_every), 1, kMostCount},
                    {"validate_rows", number(validate_rows), 0, kMostCount},
                    {"bleu_rows", number(bleu_rows), 0, kMostCount},
                    {"log_every", number(log_every), 1, kMostCount},
                    {"checkpoint_every", number(checkpoint_every), 1, kMostCount},
                    {"checkpoint_minutes", checkpoint_minutes, 0, 1e7},
                    {"keep", number(keep), 1, kMostCount}});
    require(number(steps) * number(std::max<std::int64_t>(16, accumulate)) < 4294967296.0, "steps times accumulate (",
            steps, " x ", accumulate, ") must stay below 2^32: each batch has a number of its own");
    require(clip >= 0 && weight_decay >= 0 && warmup >= 0, "clip, weight_decay and warmup must not be negative, not ",
            clip, ", ", weight_decay, " and ", warmup);
    require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1,
            "beta1 and beta2 must be at least 0 and less than 1, not ", beta1, " and ", beta2);
    require(floor >= 0 && floor <= 1, "floor must be between 0 and 1, not ", floor);
    require(validate_rows >= 0 && bleu_rows >= 0 && checkpoint_minutes >= 0,
            "validate_rows, bleu_rows and checkpoint_minutes must not be negative, not ", validate_rows, ", ",
            bleu_rows, " and ", checkpoint_minutes);
    require(minutes >= 0 && temperature > 0, "minutes must not be negative, and temperature must be positive");
    require(threads >= 0 && threads <= 1024, "threads must be between 0 and 1024, not ", threads);
    (void)sparsemoe::schedule_kind(schedule);
  }
};

}  // namespace nmt

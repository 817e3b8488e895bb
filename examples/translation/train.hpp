// train.hpp -- the command `train`: batches, steps, logs, validation, checkpoints, resume, and a clean stop on a
// signal. A run is a function of its settings and corpus: resumed, it has the bits of an uninterrupted one (but for
// --minutes, whose learning rate follows the clock). Read next: run_files.hpp, scoring.hpp.
#pragma once

#include <chrono>
#include <cmath>

#include "data.hpp"
#include "run_files.hpp"
#include "scoring.hpp"
#include "sparsemoe/io/log.hpp"
#include "sparsemoe/io/progress.hpp"
#include "sparsemoe/io/signals.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "training_hooks.hpp"

namespace nmt {

using moe::stop_signal;  // the loop looks at it between steps

class TrainingRun {
 public:
  /// Throws Error for anything wrong with settings, corpus or an existing run; nothing is overwritten. `hooks` outlive
  /// the run.
  TrainingRun(const TrainSettings& settings, bool resume, TrainingHooks* hooks = nullptr)
      : s_(settings), run_(settings.out), hooks_(hooks != nullptr ? hooks : &no_hooks_) {
    s_.check();
    moe::require(!s_.corpus.empty(), "train: give --corpus DIR, made by the corpus command");
    moe::require(!s_.out.empty(), "train: give --out RUN, the directory of the run");
    moe::require(!fs::exists(run_) || fs::is_directory(run_), run_.string(),
                 ": is not a directory; --out names the directory of the run");
    const bool exists = fs::exists(run_ / "settings.json");
    moe::require(resume || !exists, run_.string(),
                 ": there is a run already; add --resume to go on with it, or choose another --out");
    moe::require(!resume || exists, run_.string(), ": there is no run to resume");
    moe::require(!resume || hooks != nullptr || !fs::exists(run_ / kDistillFile), run_.string(),
                 ": this run learns from a teacher; go on with it by distill --resume");
    if (resume) lock_ = std::make_unique<RunLock>(run_);
    load_data();
    build_model();
    if (resume) moe::remove_unfinished(run_);
    if (!resume || !restore()) {
      hooks_->start(*model_);
      if (!s_.upcycle_from.empty()) upcycle();
    }
    if (!resume) {
      std::error_code problem;
      fs::create_directories(run_, problem);
      moe::require(!problem, run_.string(), ": cannot create the directory: ", problem.message());
      lock_ = std::make_unique<RunLock>(run_);
      moe::require(!fs::exists(run_ / "settings.json"), run_.string(), ": another process has started a run there");
    }
    hooks_->save();
    moe::atomic_write(run_ / "settings.json", moe::to_json(s_).dump(2) + "\n");  // after all that can be refused
  }

  /// 0 when done; 128 + signal when stopped by one, with everything saved.
  int run() {
    const moe::StopsBetweenSteps saves_when_stopped;
    hooks_->change(train_, *tokenizer_);
    if (stop_signal() != 0) return stopped();
    make_sampler();
    moe::JsonLog log(run_ / "log.jsonl", state_.step > 0 ? state_.step : -1);
    if (state_.step == 0)
      log.write({{"kind", "start"},
                 {"step", 0},
                 {"parameters", model_->parameters()},
                 {"directions", names()},
                 {"shares", sampler_->shares()},
                 {"version", SPARSEMOE_VERSION}});
    std::fprintf(stderr, "%lld parameters, %zu directions, %lld training pairs\n",
                 static_cast<long long>(model_->parameters()), train_.size(), static_cast<long long>(pairs_));
    start_ = Clock::now();
    const double earlier = state_.seconds;
    moe::Progress progress(state_.step, s_.steps);
    auto saved = Clock::now();
    moe::LossSums window;
    double window_start = earlier;
    std::int64_t saved_step = state_.step;
    while (state_.step < s_.steps && !out_of_time() && stop_signal() == 0) {
      const double rate = learning_rate();
      const auto sums = step();
      const auto result = model_->update(rate);
      ++state_.step;
      state_.tokens += static_cast<std::int64_t>(sums.tokens);
      state_.seconds = earlier + seconds_since(start_);
      window += sums;
      progress.update(state_.step, static_cast<double>(state_.tokens), sums.loss / sums.tokens,
                      s_.minutes > 0 ? std::max(0.0, 60 * s_.minutes - state_.seconds) : -1);
      if (state_.step % s_.log_every == 0) {
        log.write(train_record(rate, result, window, sums, state_.seconds - window_start));
        window = {};
        window_start = state_.seconds;
        warn_of_collapse(log, progress);
      }
      if (state_.step % s_.validate_every == 0) validate(log, progress);
      if (state_.step % s_.checkpoint_every == 0 || seconds_since(saved) > 60 * s_.checkpoint_minutes) {
        checkpoint();
        saved = Clock::now();
        saved_step = state_.step;
      }
    }
    progress.finish();
    if (stop_signal() == 0 && state_.step % s_.validate_every != 0) validate(log, progress);
    if (saved_step != state_.step) checkpoint();
    if (stop_signal() != 0) return stopped();
    std::fprintf(stderr, "done: %lld steps, %lld target tokens, %lld skipped steps\n",
                 static_cast<long long>(state_.step), static_cast<long long>(state_.tokens),
                 static_cast<long long>(model_->skipped()));
    return 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }
  int stopped() const {
    std::fprintf(stderr, "stopped by signal %d after step %lld; saved, go on with --resume\n", stop_signal(),
                 static_cast<long long>(state_.step));
    return 128 + stop_signal();
  }
  bool out_of_time() const { return s_.minutes > 0 && state_.seconds >= 60 * s_.minutes; }

  std::vector<std::string> names() const {
    std::vector<std::string> n;
    for (const auto& d : train_) n.push_back(d.direction.name());
    return n;
  }

  void load_data() {
    std::vector<std::string> languages;
    if (!s_.languages.empty()) {
      languages = load_languages();
      for (const auto& l : s_.languages)
        if (std::find(languages.begin(), languages.end(), l) == languages.end()) languages.push_back(l);
    }
    corpus_ = load_corpus(s_.corpus, languages, s_.tokenizer);
    moe::require(!corpus_.tokenizer.empty(), s_.corpus,
                 ": the corpus has no tokenizer (spm.model); give --tokenizer FILE");
    moe::require(corpus_.languages.size() >= 2, s_.corpus, ": at least two languages are needed to translate");
    tokenizer_ = std::make_unique<Tokenizer>(corpus_.tokenizer);
    file_ = {s_.model, tokenizer_->size(), corpus_.languages, task_names(corpus_.languages, s_.model.task)};
    hooks_->prepare(file_, corpus_.tokenizer);
    std::fprintf(stderr, "encoding %s ...\n", s_.corpus.c_str());
    for (const auto& d : directions_of(corpus_.languages, s_.directions)) {
      if (!file_.serves(d.source, d.target)) continue;
      train_.push_back(encode_direction(corpus_.split("train"), d, file_.task_of(d.source, d.target), *tokenizer_,
                                        s_.kinds, s_.max_length, true, 0));
      pairs_ += static_cast<std::int64_t>(train_.back().source.size());
    }
    moe::require(pairs_ > 0, s_.corpus, ": no training pair of kinds '", s_.kinds, "' within ", s_.max_length,
                 " tokens");
  }
  void make_sampler() {
    std::vector<std::vector<moe::BatchSampler::Lengths>> lengths;
    pairs_ = 0;
    for (const auto& d : train_) {
      lengths.emplace_back();
      for (std::size_t i = 0; i < d.source.size(); ++i)
        lengths.back().push_back(
            {static_cast<std::int32_t>(d.source[i].size()), static_cast<std::int32_t>(d.target[i].size()) + 1});
      pairs_ += static_cast<std::int64_t>(lengths.back().size());
    }
    sampler_ = std::make_unique<moe::BatchSampler>(moe::BatchSampler::Config{s_.temperature, s_.tokens, 4096, s_.seed},
                                                   std::move(lengths));
    sampler_->seek(state_.sampler);
  }
  /// The corpus' pivot, which --languages need not name.
  std::vector<std::string> load_languages() const {
    const fs::path about = fs::path(s_.corpus) / "corpus.json";
    if (!fs::exists(about)) return {"en"};
    const auto j = moe::read_json(about);
    const bool listed = j.is_object() && j.contains("languages") && j["languages"].is_array() &&
                        !j["languages"].empty() && j["languages"][0].is_string();
    if (!listed) moe::fail_file(about, "has no list of languages");
    return {j["languages"][0]};
  }

  void build_model() {
    TranslatorRequest request;
    request.file = file_;
    request.training = true;
    request.optimiser = s_.optimiser;
    request.beta1 = s_.beta1, request.beta2 = s_.beta2, request.weight_decay = s_.weight_decay, request.clip = s_.clip;
    request.seed = s_.seed;
    request.threads = s_.threads;
    request.banned = banned_ids(*tokenizer_, corpus_.languages);
    request.bytes = byte_pieces(*tokenizer_);
    model_ = make_translator(request);
    if (s_.model.encoder_router == "hash" || s_.model.decoder_router == "hash") {
      std::vector<std::int64_t> frequency(static_cast<std::size_t>(tokenizer_->size()), 0);
      for (const auto& d : train_)
        for (const auto& side : {&d.source, &d.target})
          for (const auto& row : *side)
            for (const auto id : row) ++frequency[static_cast<std::size_t>(id)];
      model_->set_hash_tables(s_.model.hash_table == "balanced"
                                  ? moe::balanced_hash_table(frequency, s_.model.experts)
                                  : moe::random_hash_table(tokenizer_->size(), s_.model.experts, s_.seed));
    }
    schedule_.kind = moe::schedule_kind(s_.schedule);
    schedule_.peak = s_.learning_rate;
    schedule_.warmup = s_.warmup;
    schedule_.total = std::max(s_.steps, s_.warmup + 1);
    schedule_.floor = s_.learning_rate * s_.floor;
    schedule_.width = s_.model.width;
    schedule_.check();
  }

  /// The dense run's last checkpoint becomes the start. Throws Error if it is not dense, or reads text as other ids.
  void upcycle() {
    const fs::path from = model_directory(s_.upcycle_from);
    const ModelFile dense = read_model_file(from);
    moe::require(dense.model.encoder_router == "dense" && dense.model.decoder_router == "dense", from.string(),
                 ": its routers are ", dense.model.encoder_router, " and ", dense.model.decoder_router,
                 "; --upcycle-from takes a dense run");
    moe::require(moe::read_file(from / "spm.model") == moe::read_file(corpus_.tokenizer), from.string(),
                 ": its tokenizer is another than ", corpus_.tokenizer.string(), "; give --tokenizer ",
                 (from / "spm.model").string());
    model_->upcycle(from / "model.safetensors");
    std::fprintf(stderr, "starts from the dense model of %s\n", from.c_str());
  }
  /// False if the run was stopped before its first checkpoint: from the start.
  bool restore() {
    const auto found = moe::find_checkpoint(run_);
    if (!found) return false;
    for (const auto& sentence : found->refused) std::fprintf(stderr, "warning: %s\n", sentence.c_str());
    const ModelFile saved = read_model_file(found->path);
    const moe::Json before = moe::to_json(saved), now = moe::to_json(file_);
    for (const auto& [key, value] : before.items())
      moe::require(value == now[key], found->path.string(), ": ", key, " was ", value.dump(),
                   " when the run began, and a run cannot change it to ", now[key].dump(), "; resume without it");
    state_ = trainer_state(found->path / "trainer.json");
    model_->load(found->path, true);
    model_->set_numbers(state_.numbers);
    std::fprintf(stderr, "resumed from %s\n", found->path.c_str());
    return true;
  }
  void checkpoint() {
    state_.sampler = sampler_->state();
    state_.numbers = model_->numbers();
    save_checkpoint(run_, *model_, file_, corpus_.tokenizer, state_, s_.keep);
  }

  double learning_rate() const {
    if (s_.minutes <= 0) return schedule_.at(state_.step);
    // By time: the schedule's decay runs over the minutes, its warm-up over steps.
    const double progress = std::min(1.0, state_.seconds / (60 * s_.minutes));
    const double warm =
        s_.warmup > 0 ? std::min(1.0, static_cast<double>(state_.step + 1) / static_cast<double>(s_.warmup)) : 1.0;
    return s_.learning_rate * warm * std::max(s_.floor, 1 - progress);
  }

  moe::LossSums step() {
    batches_.resize(static_cast<std::size_t>(s_.accumulate));
    std::int64_t tokens = 0;
    for (auto& b : batches_) {
      sources_.clear(), targets_.clear(), tasks_.clear();
      for (const auto& e : sampler_->next()) {
        const auto& d = train_[static_cast<std::size_t>(e.corpus)];
        sources_.push_back(&d.source[static_cast<std::size_t>(e.row)]);
        targets_.push_back(&d.target[static_cast<std::size_t>(e.row)]);
        tasks_.push_back(d.task);
      }
      make_batch(sources_, targets_, tasks_, b);
      tokens += b.label_tokens;
    }
    moe::LossSums sums;
    const auto streams =
        static_cast<std::size_t>(std::max<std::int64_t>(16, s_.accumulate));  // one a batch of every step
    const SoftTarget* soft = hooks_->soft();
    for (std::size_t i = 0; i < batches_.size(); ++i) {
      const double scale = 1 / static_cast<double>(tokens), routing = 1 / static_cast<double>(s_.accumulate);
      const auto stream = static_cast<std::uint32_t>(static_cast<std::size_t>(state_.step) * streams + i);
      sums += soft != nullptr ? model_->distill(batches_[i], scale, routing, stream, *soft)
                              : model_->loss(batches_[i], scale, routing, stream);
    }
    return sums;
  }

  moe::Json train_record(double rate, const moe::UpdateResult& result, const moe::LossSums& window,
                         const moe::LossSums& last, double seconds) {
    moe::Json layers = moe::Json::array();
    double balance = 0, z = 0, n = 0;
    for (const auto& s : model_->statistics()) {
      const auto& r = s.layer.routing;
      std::vector<double> load;
      for (const auto c : r.load) load.push_back(r.choices > 0 ? static_cast<double>(c) / r.choices : 0);
      layers.push_back({{"stack", s.stack},
                        {"layer", s.layer.layer},
                        {"router", s.router},
                        {"load", load},
                        {"drop_rate", r.choices > 0 ? r.dropped / r.choices : 0},
                        {"entropy", r.entropy},
                        {"balance", r.balance},
                        {"z", r.z}});
      balance += r.balance, z += r.z, n += 1;
    }
    moe::Json record = {{"kind", "train"},
                        {"step", state_.step},
                        {"seconds", state_.seconds},
                        {"tokens", state_.tokens},
                        {"tokens_per_second", window.tokens / std::max(1e-9, seconds)},
                        {"loss", window.loss / window.tokens},
                        {"nll", window.nll / window.tokens},
                        {"accuracy", last.correct / last.tokens},
                        {"losses", {{"balance", n > 0 ? balance / n : 0}, {"z", n > 0 ? z / n : 0}}},
                        {"learning_rate", rate},
                        {"grad_norm", result.gradient_norm},
                        {"skipped", model_->skipped()},
                        {"layers", layers}};
    if (hooks_->soft() != nullptr)
      record["hard"] = window.hard / window.tokens, record["soft"] = window.soft / window.tokens;
    return record;
  }

  /// Says so, once a layer, when half of its experts or more got nothing of a batch: such a gate seldom recovers.
  /// Task, static and hash routing leave experts unused by design.
  void warn_of_collapse(moe::JsonLog& log, moe::Progress& progress) {
    const auto& statistics = model_->statistics();
    collapsed_.resize(statistics.size(), false);
    for (std::size_t l = 0; l < statistics.size(); ++l) {
      const auto& s = statistics[l];
      const auto& load = s.layer.routing.load;
      const auto unused = static_cast<std::size_t>(std::count(load.begin(), load.end(), 0));
      const bool enough = batches_.back().rows >= 4 * static_cast<std::int64_t>(load.size());  // sentences to spread
      const bool spreads = s.router == "token" || s.router == "switch" || s.router == "gshard" ||
                           s.router == "sentence-prefix" || (s.router == "sentence" && enough);
      if (collapsed_[l] || !spreads || load.size() < 4 || 2 * unused < load.size()) continue;
      collapsed_[l] = true;
      const std::string text =
          moe::join("step ", state_.step, ": routing of ", s.stack, " layer ", s.layer.layer, " collapses: ", unused,
                    " of ", load.size(), " experts got no token of this batch; try a larger --balance-loss");
      progress.message("warning: " + text);
      log.write({{"kind", "warning"},
                 {"step", state_.step},
                 {"stack", s.stack},
                 {"layer", s.layer.layer},
                 {"unused_experts", unused},
                 {"text", text}});
    }
  }

  /// Loss and expert use by task over the first dev rows, BLEU and chrF over fewer of them.
  void validate(moe::JsonLog& log, moe::Progress& progress) {
    if (corpus_.splits.count("dev") == 0) return;
    const auto& dev = corpus_.split("dev");
    moe::LossSums all;
    double bleu = 0, chrf = 0, scored = 0;
    moe::Json by_direction = moe::Json::object();
    struct Use {
      std::string stack, router;
      std::int64_t layer = 0;
      std::vector<std::int64_t> counts;
    };
    std::vector<Use> use;
    const auto tasks = file_.tasks.size(), experts = static_cast<std::size_t>(s_.model.experts);
    for (const auto& t : train_) {
      if (stop_signal() != 0) return;
      const auto rows =
          encode_direction(dev, t.direction, t.task, *tokenizer_, s_.kinds, s_.max_length, true, s_.validate_rows);
      moe::LossSums sums;
      HostBatch batch;
      for (std::size_t at = 0; at < rows.source.size(); at += 32) {
        sources_.clear(), targets_.clear(), tasks_.clear();
        for (std::size_t i = at; i < std::min(at + 32, rows.source.size()); ++i)
          sources_.push_back(&rows.source[i]), targets_.push_back(&rows.target[i]), tasks_.push_back(rows.task);
        make_batch(sources_, targets_, tasks_, batch);
        sums += model_->loss(batch, 0, 0, 0);
        const auto& statistics = model_->statistics();
        use.resize(statistics.size());
        for (std::size_t l = 0; l < statistics.size(); ++l) {
          use[l].stack = statistics[l].stack, use[l].router = statistics[l].router,
          use[l].layer = statistics[l].layer.layer;
          use[l].counts.resize(tasks * experts);
          for (std::size_t i = 0; i < tasks * experts; ++i) use[l].counts[i] += statistics[l].layer.routing.usage[i];
        }
      }
      all += sums;
      moe::Json entry = {{"loss", sums.tokens > 0 ? sums.nll / sums.tokens : 0}};
      if (s_.bleu_rows > 0 && !rows.source.empty()) {
        const auto score = score_direction(*model_, file_, *tokenizer_, dev, t.direction, s_.kinds,
                                           scoring_length(s_.max_length), s_.bleu_rows);
        entry["bleu"] = score.bleu, entry["chrf"] = score.chrf;
        bleu += score.bleu, chrf += score.chrf, scored += 1;
      }
      by_direction[t.direction.name()] = entry;
    }
    const double loss = all.tokens > 0 ? all.nll / all.tokens : 0;
    moe::Json record = {{"kind", "validation"}, {"step", state_.step}, {"loss", loss}, {"directions", by_direction}};
    if (scored > 0) record["bleu"] = bleu / scored, record["chrf"] = chrf / scored;
    log.write(record);
    for (const auto& u : use) {
      moe::Json counts = moe::Json::array();
      for (std::size_t t = 0; t < tasks; ++t)
        counts.push_back(std::vector<std::int64_t>(u.counts.begin() + static_cast<std::ptrdiff_t>(t * experts),
                                                   u.counts.begin() + static_cast<std::ptrdiff_t>((t + 1) * experts)));
      log.write({{"kind", "usage"},
                 {"step", state_.step},
                 {"stack", u.stack},
                 {"layer", u.layer},
                 {"router", u.router},
                 {"tasks", file_.tasks},
                 {"counts", counts}});
    }
    char text[160];
    std::snprintf(text, sizeof text, "step %lld: validation loss %.3f, BLEU %.1f, chrF %.1f",
                  static_cast<long long>(state_.step), loss, scored > 0 ? bleu / scored : 0,
                  scored > 0 ? chrf / scored : 0);
    progress.message(text);
  }

  TrainSettings s_;
  fs::path run_;
  TrainingHooks no_hooks_;
  TrainingHooks* hooks_;
  std::unique_ptr<RunLock> lock_;
  Corpus corpus_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ModelFile file_;
  std::vector<EncodedDirection> train_;
  std::vector<bool> collapsed_;
  std::int64_t pairs_ = 0;
  std::unique_ptr<moe::BatchSampler> sampler_;
  std::unique_ptr<Translator> model_;
  moe::Schedule schedule_;
  TrainerState state_;
  Clock::time_point start_;
  std::vector<HostBatch> batches_;
  std::vector<const Ids*> sources_, targets_;
  std::vector<std::int32_t> tasks_;
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// train.hpp -- the command `train`: batches, steps, logs, validation, checkpoints, resume, and a clean stop on a
// signal. A run is a function of its settings and corpus: resumed, it has the bits of an uninterrupted one (but for
// --minutes, whose learning rate follows the clock). Read next: training_data.hpp, run_files.hpp, validation.hpp.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "data.hpp"
#include "run_facts.hpp"
#include "run_files.hpp"
#include "setting_changes.hpp"
#include "sparsemoe/io/log.hpp"
#include "sparsemoe/io/progress.hpp"
#include "sparsemoe/io/signals.hpp"
#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/train/skip_guard.hpp"
#include "training_data.hpp"
#include "training_hooks.hpp"
#include "training_log.hpp"
#include "validation.hpp"

namespace nmt {

using moe::stop_signal;  // the loop looks at it between steps

class TrainingRun {
 public:
  /// Throws Error for anything wrong with settings, corpus or an existing run, before the corpus is encoded; nothing is
  /// overwritten. `hooks` outlive the run.
  TrainingRun(const TrainSettings& settings, bool resume, TrainingHooks* hooks = nullptr)
      : s_(settings), run_(settings.out), hooks_(hooks != nullptr ? hooks : &no_hooks_) {
    check(resume, hooks != nullptr);
    warn_of_idle_router("encoder", s_.model.encoder_router, s_.model.encoder_layers);
    warn_of_idle_router("decoder", s_.model.decoder_router, s_.model.decoder_layers);
    if (resume) {
      lock_ = std::make_unique<RunLock>(run_);
      find_checkpoint();
    }
    data_ = std::make_unique<TrainingData>(s_);
    file_ = {s_.model, data_->tokenizer->size(), data_->corpus.languages,
             task_names(data_->corpus.languages, s_.model.task)};
    hooks_->prepare(file_, data_->corpus.tokenizer);
    const std::string key = data_->key();
    if (from_) check_unchanged(key);
    state_.data = key;
    build_model();
    const EncodingCache kept(run_ / "encoded.safetensors", key);
    data_->encode(file_, kept);
    if (file_.stack("encoder").traits().needs_table || file_.stack("decoder").traits().needs_table) set_hash_tables();
    if (resume) clear_away();
    if (from_) {
      restore();
    } else {
      hooks_->start(*model_);
      if (!s_.upcycle_from.empty()) upcycle();
    }
    if (!resume) make_directory();
    hooks_->save();
    moe::atomic_write(run_ / "settings.json", moe::to_json(s_).dump(2) + "\n");  // after all that can be refused
    if (!data_->from_cache())
      if (const std::string problem = kept.save(data_->pairs); !problem.empty())
        moe::warn("the encoded corpus is not kept for --resume: ", problem);
  }

  /// 0 when done; 128 + signal when stopped by one, with everything saved. Throws Error with Exit::diverged after too
  /// many skipped steps in a row, and with Exit::output if the disk is full.
  int run() {
    const moe::StopsBetweenSteps saves_when_stopped;
    hooks_->change(data_->pairs, *data_->tokenizer);
    if (stop_signal() != 0) return stopped();
    sampler_ = std::make_unique<moe::BatchSampler>(moe::BatchSampler::Config{s_.temperature, s_.tokens, 4096, s_.seed},
                                                   data_->lengths());
    sampler_->seek(state_.sampler);
    moe::Progress progress(state_.step, s_.steps);
    lock_->require_in_place();
    TrainingLog log(run_ / "log.jsonl", state_.step, progress);
    begin(log);
    Validation validation(*model_, file_, *data_, s_);
    start_ = Clock::now();
    const double earlier = state_.seconds;
    const std::int64_t earlier_tokens = state_.tokens;
    auto saved = Clock::now();
    bool due = false;
    double window_start = earlier;
    bool ended = state_.step >= s_.steps || out_of_time();
    while (!ended && stop_signal() == 0) {
      const double rate = learning_rate();
      const auto sums = step();
      const auto result = model_->update(rate, sums.loss / sums.tokens);
      ++state_.step;
      state_.tokens += static_cast<std::int64_t>(sums.tokens);
      state_.seconds = earlier + seconds_since(start_);
      log.add(sums, result.skipped);
      progress.update(state_.step, static_cast<double>(state_.tokens - earlier_tokens), sums.loss / sums.tokens,
                      s_.minutes > 0 ? std::max(0.0, 60 * s_.minutes - state_.seconds) : -1);
      warn_of_skip(result, log);
      ended = state_.step >= s_.steps || out_of_time() || guard_.diverged();
      if (state_.step % s_.log_every == 0 || ended) {
        log.write_train(state_, rate, result, *model_, sums, state_.seconds - window_start, hooks_->soft() != nullptr);
        window_start = state_.seconds;
        log.warn_of_collapse(state_.step, model_->statistics(), batches_.back().rows);
      }
      if (guard_.diverged()) give_up(log);
      if (state_.step % s_.validate_every == 0) validate(validation, log, progress);
      due = due || state_.step % s_.checkpoint_every == 0 || seconds_since(saved) > 60 * s_.checkpoint_minutes;
      if (due && checkpoint(log)) saved = Clock::now(), due = false;
    }
    progress.finish();
    const bool validated = state_.step % s_.validate_every == 0;
    if (stop_signal() == 0 && !validated && !guard_.skipping()) validate(validation, log, progress);
    if (saved_step_ != state_.step) checkpoint(log);
    log.finish();
    if (stop_signal() != 0) return stopped();
    if (saved_step_ != state_.step) diverged(guard_.skipping() ? guard_.sentence() : unsaved_);
    std::fprintf(stderr, "done: %lld steps, %lld target tokens, %lld skipped steps\n",
                 static_cast<long long>(state_.step), static_cast<long long>(state_.tokens),
                 static_cast<long long>(model_->skipped()));
    return 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }
  bool out_of_time() const { return s_.minutes > 0 && state_.seconds >= 60 * s_.minutes; }

  /// What can be known of the run before anything is read.
  void warn_of_idle_router(const char* stack, const std::string& router, std::int64_t layers) const {
    if (moe::named_router(router).dense() || s_.model.sparse_layers(layers) > 0) return;
    moe::warn("the ", stack, " has no sparse layer (", layers, " layers, every ", s_.model.stack.sparse_every,
              ". is sparse): its router, ", router, ", is not used");
  }
  void check(bool resume, bool has_hooks) const {
    const bool exists = fs::exists(run_ / "settings.json");
    moe::require(!resume || s_.out.empty() || exists, run_.string(), ": there is no run to resume");
    s_.check();
    moe::require(!s_.corpus.empty(), "train: give --corpus DIR, made by the corpus command");
    moe::require(!s_.out.empty(), "train: give --out RUN, the directory of the run");
    moe::require(!fs::exists(run_) || fs::is_directory(run_), run_.string(),
                 ": is not a directory; --out names the directory of the run");
    moe::require(resume || !exists, run_.string(),
                 ": there is a run already; add --resume to go on with it, or choose another --out");
    moe::require(!resume || has_hooks || !fs::exists(run_ / kDistillFile), run_.string(),
                 ": this run learns from a teacher; go on with it by distill --resume");
    fs::path there = fs::absolute(run_);
    while (!fs::exists(there) && there.has_relative_path()) there = there.parent_path();
    moe::require(fs::is_directory(there) && ::access(there.c_str(), W_OK | X_OK) == 0, run_.string(), ": ",
                 there.string(), " is not a directory that can be written to");
  }
  /// What killed processes left. What cannot be removed stays: it harms nobody.
  void clear_away() const {
    try {
      moe::remove_unfinished(run_);
    } catch (const moe::FileError& problem) {
      moe::warn(problem.what());
    }
  }
  void make_directory() {
    std::error_code problem;
    fs::create_directories(run_, problem);
    moe::require(!problem, run_.string(), ": cannot create the directory: ", problem.message());
    lock_ = std::make_unique<RunLock>(run_);
    moe::require(!fs::exists(run_ / "settings.json"), run_.string(), ": another process has started a run there");
  }

  /// Where the run goes on, and what is other than it was; nothing if it was stopped before its first checkpoint.
  void find_checkpoint() {
    from_ = moe::find_checkpoint(run_);
    if (!from_) return moe::say(run_.string(), ": there is no checkpoint; the run begins again from its first step");
    for (const auto& sentence : from_->refused) moe::warn(sentence);
    TrainSettings before;
    moe::load_config(run_ / "settings.json", before);
    changes_ = setting_changes(before, s_, run_ / "settings.json");
    const fs::path numbers = from_->path / "trainer.json";
    state_ = trainer_state(numbers);
    moe::require(state_.step == from_->step, numbers.string(), ": says step ", state_.step);
    saved_step_ = state_.step;
    saved_file_ = read_model_file(from_->path);
    check_sizes(from_->path, saved_file_);
  }
  /// The model and the pairs are those that the run began with.
  void check_unchanged(const std::string& key) const {
    const moe::Json before = moe::to_json(saved_file_), now = moe::to_json(file_);
    for (const auto& [key, value] : before.items())
      moe::require(value == now[key], from_->path.string(), ": ", key, " was ", value.dump(),
                   " when the run began, and a run cannot change it to ", now[key].dump(), "; resume without it");
    moe::require(state_.data.empty() || state_.data == key, s_.corpus,
                 ": has other training text, or another tokenizer, than the run began with; begin a new run");
  }
  void restore() {
    model_->load(from_->path, true);
    model_->set_numbers(state_.numbers);
    moe::say("resumed from ", from_->path.string());
    for (const auto& change : changes_) moe::say(change.sentence());
  }

  void build_model() {
    TranslatorRequest request;
    request.file = file_;
    request.training = true;
    request.optimiser = s_.optimiser;
    request.beta1 = s_.beta1, request.beta2 = s_.beta2, request.weight_decay = s_.weight_decay, request.clip = s_.clip;
    request.seed = s_.seed;
    request.threads = s_.threads;
    request.banned = banned_ids(*data_->tokenizer, data_->corpus.languages);
    request.bytes = byte_pieces(*data_->tokenizer);
    model_ = make_translator(request);
    schedule_.kind = moe::schedule_kind(s_.schedule);
    schedule_.peak = s_.learning_rate;
    schedule_.warmup = s_.warmup;
    schedule_.total = std::max(s_.steps, s_.warmup + 1);
    schedule_.floor = s_.learning_rate * s_.floor;
    schedule_.width = s_.model.stack.width;
    schedule_.check();
  }
  void set_hash_tables() {
    model_->set_hash_tables(
        s_.model.hash_table == "balanced"
            ? moe::balanced_hash_table(data_->frequencies(), s_.model.stack.moe.experts)
            : moe::random_hash_table(data_->tokenizer->size(), s_.model.stack.moe.experts, s_.seed));
  }
  /// The dense run's last checkpoint becomes the start. Throws Error if it is not dense, or reads text as other ids.
  void upcycle() {
    const fs::path from = model_directory(s_.upcycle_from);
    const ModelFile dense = read_model_file(from);
    moe::require(dense.stack("encoder").traits().dense() && dense.stack("decoder").traits().dense(), from.string(),
                 ": its routers are ", dense.model.encoder_router, " and ", dense.model.decoder_router,
                 "; --upcycle-from takes a dense run");
    moe::require(moe::read_file(from / "spm.model") == moe::read_file(data_->corpus.tokenizer), from.string(),
                 ": its tokenizer is another than ", data_->corpus.tokenizer.string(), "; give --tokenizer ",
                 (from / "spm.model").string());
    model_->upcycle(from / "model.safetensors");
    moe::say("starts from the dense model of ", from.string());
  }

  /// Says and logs what is trained, or that it goes on and how.
  void begin(TrainingLog& log) const {
    if (state_.step == 0) {
      moe::Json record = {{"kind", "start"}, {"step", 0}};
      add_run_facts(record, s_.threads);
      record["parameters"] = model_->parameters();
      record["directions"] = data_->names();
      record["shares"] = sampler_->shares();
      record["pairs"] = data_->count(), record["left_out"] = data_->left_out();
      record["dev_pairs"] = data_->dev_count(), record["dev_left_out"] = data_->dev_left_out();
      record["settings"] = moe::to_json(s_);
      log.write(record);
    } else {
      moe::Json record = {{"kind", "resume"}, {"step", state_.step}}, changed = moe::Json::object();
      add_run_facts(record, s_.threads);
      for (const auto& change : changes_) changed[change.key] = {{"before", change.before}, {"now", change.now}};
      record["changed"] = changed;
      log.write(record);
    }
    std::fprintf(stderr, "%lld parameters, %zu directions, %s\n", static_cast<long long>(model_->parameters()),
                 data_->pairs.size(), data_->pairs_sentence().c_str());
    if (const std::string about = data_->validation_sentence(); !about.empty()) moe::say(about);
  }

  double learning_rate() const {
    if (s_.minutes <= 0) return schedule_.at(state_.step);
    // By time: the schedule's decay runs over the minutes, its warm-up over steps.
    const double progress = std::min(1.0, state_.seconds / (60 * s_.minutes));
    const double warm =
        s_.warmup > 0 ? std::min(1.0, static_cast<double>(state_.step + 1) / static_cast<double>(s_.warmup)) : 1.0;
    return s_.learning_rate * warm * std::max(s_.floor, 1 - progress);
  }
  /// A number for everything random in the i-th batch of the next step.
  std::uint64_t stream(std::size_t i) const {
    const auto streams = static_cast<std::uint64_t>(std::max<std::int64_t>(16, s_.accumulate));
    return static_cast<std::uint64_t>(state_.step) * streams + i;
  }
  moe::LossSums step() {
    batches_.resize(static_cast<std::size_t>(s_.accumulate));
    std::int64_t tokens = 0;
    for (auto& b : batches_) {
      std::vector<const Ids*> sources, targets;
      std::vector<std::int32_t> tasks;
      for (const auto& e : sampler_->next()) {
        const auto& d = data_->pairs[static_cast<std::size_t>(e.corpus)];
        sources.push_back(&d.source[static_cast<std::size_t>(e.row)]);
        targets.push_back(&d.target[static_cast<std::size_t>(e.row)]);
        tasks.push_back(d.task);
      }
      make_batch(sources, targets, tasks, b);
      tokens += b.label_tokens;
    }
    moe::LossSums sums;
    const SoftTarget* soft = hooks_->soft();
    for (std::size_t i = 0; i < batches_.size(); ++i) {
      const double scale = 1 / static_cast<double>(tokens), routing = 1 / static_cast<double>(s_.accumulate);
      sums += soft != nullptr ? model_->distill(batches_[i], scale, routing, stream(i), *soft)
                              : model_->loss(batches_[i], scale, routing, stream(i));
    }
    return sums;
  }
  void validate(Validation& validation, TrainingLog& log, moe::Progress& progress) const {
    if (guard_.skipping()) return;  // the weights are those of before, or worth nothing
    const auto records = validation.run(state_.step, [] { return stop_signal() != 0; });
    for (const auto& record : records) log.write(record);
    for (const auto& text : validation.warnings) log.warn(state_.step, text);
    if (!records.empty() && data_->dev_count() > 0) progress.message(validation.text());
  }

  /// Warns of the first of each row of skipped steps.
  void warn_of_skip(const moe::UpdateResult& result, TrainingLog& log) {
    if (const std::string text = guard_.note(state_.step, result); !text.empty()) log.warn(state_.step, text);
  }
  /// After too many in a row the run ends.
  [[noreturn]] void give_up(TrainingLog& log) const {
    log.write({{"kind", "diverged"}, {"step", state_.step}, {"text", guard_.sentence()}});
    diverged(guard_.sentence());
  }
  /// False if the weights are not worth keeping: the checkpoints that are there then stay.
  bool checkpoint(TrainingLog& log) {
    if (guard_.skipping()) return false;
    if (const std::string cause = batches_.empty() ? "" : model_->probe(batches_.back(), stream(0)); !cause.empty()) {
      if (unsaved_.empty()) log.warn(state_.step, moe::join("step ", state_.step, " is not saved: ", cause));
      unsaved_ = moe::join("training has diverged: after step ", state_.step, " ", cause);
      return false;
    }
    state_.sampler = sampler_->state();
    state_.numbers = model_->numbers();
    save_checkpoint(*lock_, *model_, file_, data_->corpus.tokenizer, state_, s_.keep);
    saved_step_ = state_.step;
    unsaved_.clear();
    return true;
  }
  /// "the state of step 20 is saved, go on from there with --resume", or that nothing is saved.
  std::string standing() const {
    if (saved_step_ > 0) return moe::join("the state of step ", saved_step_, " is saved; go on from it with --resume");
    return "there is no checkpoint yet";
  }
  [[noreturn]] void diverged(const std::string& sentence) const {
    throw moe::Error(moe::join(sentence, "; ", standing(), saved_step_ > 0 ? " and" : ": begin again with",
                               " a smaller --learning-rate"),
                     moe::Exit::diverged);
  }
  int stopped() const {
    if (saved_step_ == state_.step)
      std::fprintf(stderr, "stopped by signal %d after step %lld; saved, go on with --resume\n", stop_signal(),
                   static_cast<long long>(state_.step));
    else
      std::fprintf(stderr, "stopped by signal %d after step %lld, whose weights are not worth keeping; %s\n",
                   stop_signal(), static_cast<long long>(state_.step), standing().c_str());
    return 128 + stop_signal();
  }

  TrainSettings s_;
  fs::path run_;
  TrainingHooks no_hooks_;
  TrainingHooks* hooks_;
  std::unique_ptr<RunLock> lock_;
  std::optional<moe::FoundCheckpoint> from_;
  ModelFile saved_file_, file_;
  std::vector<SettingChange> changes_;
  std::unique_ptr<TrainingData> data_;
  std::unique_ptr<Translator> model_;
  std::unique_ptr<moe::BatchSampler> sampler_;
  moe::Schedule schedule_;
  TrainerState state_;
  moe::SkipGuard guard_;
  std::string unsaved_;  // why the newest weights were not saved, "" where they were
  std::int64_t saved_step_ = 0;
  Clock::time_point start_;
  std::vector<HostBatch> batches_;
};

}  // namespace nmt

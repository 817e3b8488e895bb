// SPDX-License-Identifier: Apache-2.0
// distill_command.hpp -- the command `distill`: a dense student of a mixture-of-experts teacher, of the cost that the
// teacher's extracted sub-network has, trained on the teacher's distribution (word level) or its translations (sequence
// level). The student is an ordinary run. Read next: train.hpp, pseudo_targets.hpp; distill_report.hpp compares.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "pseudo_targets.hpp"
#include "run_files.hpp"
#include "sparsemoe/io/signals.hpp"
#include "training_hooks.hpp"
#include "training_run.hpp"

namespace nmt {

enum class DistillLevel { word, sequence };
constexpr std::array<std::string_view, 2> field_names(DistillLevel) { return {"word", "sequence"}; }

/// What a run with a teacher has beside a training run's settings. The student's sizes are the teacher's.
struct DistillOptions {
  std::string teacher;
  DistillLevel level = DistillLevel::word;
  double soft = -1, soft_temperature = 1;
  std::int64_t beam = 4;
  bool fresh = false;
  std::string precision;
  double dropout = -1, label_smoothing = -1;

  template <class F>
  void visit(F&& f) {
    f("teacher", teacher, "the teacher: a run, a checkpoint or an extracted sub-network");
    f("level", level, "word: the teacher's distribution in the loss; sequence: its translations as targets");
    f("soft", soft,
      "share of the teacher's distribution in the loss; below 0: 0.25 at word level, 0 at sequence level");
    f("soft_temperature", soft_temperature, "temperature of both distributions in that share");
    f("beam", beam, "sequence level: beams of the teacher's search; 1: greedy");
    f("fresh", fresh, "begin with random weights in place of the teacher's non-expert ones");
    f("precision", precision, "storage precision of the student, fp32 or bf16; empty: the teacher's");
    f("dropout", dropout, "dropout of embeddings and residual branches; below 0: the teacher's");
    f("label_smoothing", label_smoothing, "smoothing of the labels' share of the loss; below 0: the teacher's");
  }
  void check() const {
    moe::require(!teacher.empty(), "distill: give --teacher DIR, a run, a checkpoint or an extracted sub-network");
    moe::require(soft <= 1, "soft must be at most 1, not ", soft);
    moe::require(soft_temperature > 0 && soft_temperature <= 1000, "soft_temperature must be positive, not ",
                 soft_temperature);
    moe::require(beam >= 1 && beam <= 64, "beam must be between 1 and 64, not ", beam);
  }
  double share() const { return soft >= 0 ? soft : level == DistillLevel::word ? 0.25 : 0; }
};

/// The command's options: a training run's but for the model, and those of distillation.
struct DistillSettings {
  TrainSettings train;
  DistillOptions distill;
  template <class F>
  void visit(F&& f) {
    train.visit_data(f);
    distill.visit(f);
    train.visit_steps(f);
  }
};

/// RUN/distill.json: the options, and which weights taught.
struct DistillRecord {
  DistillOptions options;
  std::string checkpoint, weights;
  template <class F>
  void visit(F&& f) {
    options.visit(f);
    f("checkpoint", checkpoint, "directory of the teacher's weights");
    f("weights", weights, "SHA-256 of its model.safetensors");
  }
};

/// The student of a teacher: dense, in each sparse layer of the teacher as wide as the experts that a token meets there
/// together, which is what extraction for one task leaves (sparsemoe/model/extract.hpp).
inline ModelFile student_of(const ModelFile& teacher) {
  ModelFile student = teacher;
  student.encoder_experts.clear(), student.decoder_experts.clear();
  for (const char* name : {"encoder", "decoder"}) {
    const bool encoder = std::string(name) == "encoder";
    const StackSettings s = teacher.stack(name);
    std::vector<std::int64_t> hidden;
    for (std::size_t l = 0; l < s.hidden.size(); ++l)
      hidden.push_back(s.hidden[l] * (s.experts[l] > 0 ? std::min<std::int64_t>(s.experts[l], s.traits().choices) : 1));
    if (std::all_of(hidden.begin(), hidden.end(), [&](auto h) { return h == teacher.model.stack.hidden; }))
      hidden.clear();
    (encoder ? student.encoder_hidden : student.decoder_hidden) = hidden;
  }
  ModelSettings& m = student.model;
  m.encoder_router = m.decoder_router = moe::router_name<moe::Dense>();
  m.stack.moe.capacity_factor = m.stack.moe.eval_capacity_factor = 0;
  return student;
}

class DistillCommand final : private TrainingHooks {
 public:
  /// Throws Error for a teacher that cannot be loaded or does not fit, and as TrainingRun does.
  DistillCommand(const DistillSettings& settings, bool resume)
      : o_(settings.distill), train_(settings.train), resume_(resume) {
    if (resume) check_resumed();
    o_.check();
    directory_ = model_directory(o_.teacher);
    teacher_file_ = read_model_file(directory_);
    student_ = student_of(teacher_file_);
    const bool sparse = has_experts("encoder") || has_experts("decoder");
    moe::require(sparse || o_.fresh, o_.teacher,
                 ": has no experts, so a student that begins with its weights is its copy; give the model it was ",
                 "extracted from, or --fresh");
    choose_student();
    train_.check();
    record_ = {o_, directory_.string(), moe::sha256_file(directory_ / "model.safetensors")};
    if (resume) check_record();
    soft_.share = o_.share(), soft_.temperature = o_.soft_temperature;
    if (soft_.share > 0 || o_.level == DistillLevel::sequence) {
      teacher_ = load_model(directory_, train_.threads);
      soft_.teacher = teacher_.translator.get();
    }
  }
  /// As TrainingRun::run().
  int run() { return run_training(train_, resume_, this); }

 private:
  bool has_experts(const char* stack) const {
    const StackSettings s = teacher_file_.stack(stack);
    return std::any_of(s.experts.begin(), s.experts.end(), [](auto n) { return n > 0; });
  }
  fs::path out(const char* name) const { return fs::path(train_.out) / name; }

  void check_resumed() const {
    moe::require(fs::exists(out("settings.json")), train_.out, ": there is no run to resume");
    moe::require(fs::exists(out(kDistillFile)), train_.out,
                 ": this run has no teacher; go on with it by train --resume");
  }
  /// A run keeps its teacher and what is learnt from it.
  void check_record() const {
    DistillRecord before;
    moe::load_config(out(kDistillFile), before);
    moe::require(before.weights == record_.weights, o_.teacher,
                 ": not the weights that the run learns from; those were ", "in ", before.checkpoint);
    moe::Json a = moe::to_json(before.options), b = moe::to_json(o_);
    for (const auto& [key, value] : a.items())
      moe::require(key == "teacher" || value == b[key], out(kDistillFile).string(), ": ", key, " was ", value.dump(),
                   " when the run began, and a run cannot change it to ", b[key].dump());
  }

  /// The settings of the student's run.
  void choose_student() {
    if (!o_.precision.empty()) student_.model.precision = o_.precision;
    if (o_.dropout >= 0) student_.model.stack.dropout = o_.dropout;
    if (o_.label_smoothing >= 0) student_.model.label_smoothing = o_.label_smoothing;
    train_.model = student_.model;
    if (train_.tokenizer.empty()) train_.tokenizer = (directory_ / "spm.model").string();
    if (train_.languages.empty())
      train_.languages.assign(teacher_file_.languages.begin() + 1, teacher_file_.languages.end());
    const auto directions = directions_of(teacher_file_.languages, train_.directions);
    moe::require(std::any_of(directions.begin(), directions.end(),
                             [&](const auto& d) { return teacher_file_.serves(d.source, d.target); }),
                 o_.teacher, ": the teacher has no task among the directions '", train_.directions, "'");
  }

  void prepare(ModelFile& file, const fs::path& tokenizer) override {
    const auto all = [](const std::vector<std::string>& names) {
      std::string text;
      for (const auto& n : names) text += (text.empty() ? "" : ", ") + n;
      return text;
    };
    moe::require(file.languages == teacher_file_.languages, o_.teacher, ": the teacher knows ",
                 all(teacher_file_.languages), ", and the student would learn ", all(file.languages),
                 ": teacher and student must share their languages");
    moe::require(moe::sha256_file(tokenizer) == moe::sha256_file(directory_ / "spm.model"), tokenizer.string(),
                 ": another tokenizer than the teacher's (", (directory_ / "spm.model").string(),
                 "): teacher and student must share their vocabulary");
    file.tasks = teacher_file_.tasks;  // an extracted teacher has fewer
    file.encoder_hidden = student_.encoder_hidden, file.decoder_hidden = student_.decoder_hidden;
  }
  void start(Translator& model) override {
    if (o_.fresh) return;
    const std::int64_t shared = model.load_shared(directory_ / "model.safetensors");
    std::fprintf(stderr, "%lld of %lld parameters begin as the teacher's\n", static_cast<long long>(shared),
                 static_cast<long long>(model.parameters()));
  }
  void save() override { moe::save_config(out(kDistillFile), record_); }
  void change(std::vector<EncodedDirection>& pairs, const Tokenizer& tokenizer) override {
    if (o_.level != DistillLevel::sequence) return;
    PseudoTargets targets(out("pseudo-targets.jsonl"), o_.beam, train_.max_length - 1);
    targets.replace(pairs, *teacher_.translator, tokenizer, [] { return moe::stop_signal() != 0; });
    if (soft() == nullptr) teacher_ = {};  // its memory
  }
  const SoftTarget* soft() const override { return soft_.share > 0 ? &soft_ : nullptr; }

  DistillOptions o_;
  TrainSettings train_;
  fs::path directory_;
  ModelFile teacher_file_, student_;
  DistillRecord record_;
  LoadedModel teacher_;
  SoftTarget soft_;
  bool resume_;
};

}  // namespace nmt

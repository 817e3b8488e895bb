// SPDX-License-Identifier: Apache-2.0
// run_files.hpp -- what a run leaves on disk, and how it is found again: RUN/settings.json, RUN/log.jsonl, RUN/step-N/
// with model.safetensors, config.json, spm.model, trainer.safetensors, trainer.json and manifest.json.
// A checkpoint appears under its name complete or not at all. Read next: train.hpp.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data.hpp"
#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/io/manifest.hpp"
#include "sparsemoe/text/language.hpp"

namespace nmt {

namespace moe = sparsemoe;

/// In the directory of a run that learns from a teacher: which, and how (distill_command.hpp).
inline constexpr const char* kDistillFile = "distill.json";

/// Where a run stands beside its weights.
struct TrainerState {
  std::int64_t step = 0, tokens = 0;
  double seconds = 0;
  moe::SamplerState sampler;
  Translator::TrainerNumbers numbers;
  std::string data;  // checksum of the training pairs (TrainingData::key), "" where an old version did not say
};

inline moe::Json to_json(const TrainerState& s) {
  return {{"step", s.step},
          {"tokens", s.tokens},
          {"seconds", s.seconds},
          {"pool", s.sampler.pool},
          {"batch", s.sampler.batch},
          {"updates", s.numbers.step},
          {"skipped", s.numbers.skipped},
          {"good", s.numbers.good},
          {"loss_scale", s.numbers.loss_scale},
          {"data", s.data}};
}

/// The right to write into a run's directory, while the object lives: two trainers would delete each other's files.
class RunLock {
 public:
  /// Throws Error if another process has it. A file system without locks is taken as it is.
  explicit RunLock(const fs::path& run) : run_(run), fd_(::open(run.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (fd_ < 0) moe::fail_errno(run, "open directory", errno);
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
    ::close(fd_);
    moe::fail_file(run, "another process is training here");
  }
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock() { ::close(fd_); }

  const fs::path& run() const { return run_; }
  /// Throws Error unless the locked directory still has its name: where it was deleted or moved, what stands there now
  /// belongs to somebody else.
  void require_in_place() const { moe::require_same_directory(fd_, run_); }

 private:
  fs::path run_;
  int fd_;
};

/// Throws Error for numbers that no trainer wrote.
inline TrainerState trainer_state(const fs::path& path) {
  const moe::Json j = moe::read_json(path);
  const auto count = [&](const char* key) {
    const auto at = j.is_object() ? j.find(key) : j.end();
    if (!j.is_object() || at == j.end() || !at->is_number_unsigned() ||
        at->get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      moe::fail_file(path, "not a trainer's state: \"", key, "\" must be a number that is not negative");
    return at->get<std::int64_t>();
  };
  const auto number = [&](const char* key, double low, double high) {
    const auto at = j.find(key);
    if (at == j.end() || !at->is_number() || !(at->get<double>() >= low && at->get<double>() <= high))
      moe::fail_file(path, "not a trainer's state: \"", key, "\" must be a number between ", low, " and ", high);
    return at->get<double>();
  };
  TrainerState s;
  s.step = count("step"), s.tokens = count("tokens"), s.seconds = number("seconds", 0, 1e12);
  s.sampler = {static_cast<std::uint64_t>(count("pool")), static_cast<std::uint64_t>(count("batch"))};
  s.numbers = {count("updates"), count("skipped"), count("good"), number("loss_scale", 1, 16777216)};
  if (const auto data = j.find("data"); data != j.end() && data->is_string()) s.data = data->get<std::string>();
  if (s.step > 100000000 || s.numbers.step > s.step || s.numbers.skipped != s.step - s.numbers.step)
    moe::fail_file(path, "not a trainer's state: ", s.numbers.step, " updates and ", s.numbers.skipped,
                   " skipped steps do not make ", s.step, " steps");
  return s;
}

/// Writes RUN/step-N and removes the oldest beyond `keep`. Later steps are left alone: where there are some, they are
/// damaged and this run fell back behind them, so they must not count as checkpoints that are kept. Throws Error if it
/// cannot be written, or if the directory of the run is no longer the one that was locked.
inline void save_checkpoint(const RunLock& lock, Translator& model, const ModelFile& file, const fs::path& tokenizer,
                            const TrainerState& state, std::int64_t keep) {
  lock.require_in_place();
  moe::AtomicDirectory directory(moe::step_path(lock.run(), state.step));
  const fs::path& at = directory.path();
  model.save(at, true);
  moe::atomic_write(at / "config.json", moe::to_json(file).dump(2) + "\n");
  moe::atomic_write(at / "trainer.json", to_json(state).dump(2) + "\n");
  moe::atomic_write(at / "spm.model", moe::read_file(tokenizer));
  moe::write_manifest(at, {{"step", state.step}});
  lock.require_in_place();
  directory.commit(moe::Existing::replace);
  moe::prune_steps(lock.run(), static_cast<std::size_t>(keep), state.step);
}

/// What a model that only translates is read from; the state of the trainer beside it is not looked at.
inline const std::vector<std::string>& model_files() {
  static const std::vector<std::string> names = {"config.json", "model.safetensors", "spm.model"};
  return names;
}

/// The directory of a model: a checkpoint itself, or the newest one of a run. Throws Error in one sentence otherwise.
inline fs::path model_directory(const fs::path& path) {
  moe::require(fs::is_directory(path), path.string(), ": no such directory; expected a run or a checkpoint");
  if (fs::exists(path / "config.json")) {
    if (fs::exists(path / moe::kManifestName)) moe::verify_manifest(path, moe::Verify::content, model_files());
    return path;
  }
  const auto found = moe::find_checkpoint(path, moe::Verify::content, model_files());
  moe::require(found.has_value(), path.string(),
               ": neither a checkpoint (no config.json) nor a run with one (no step-N)");
  for (const auto& sentence : found->refused) moe::warn(sentence);
  return found->path;
}

/// A model ready to translate.
struct LoadedModel {
  ModelFile file;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Translator> translator;
};
inline ModelFile read_model_file(const fs::path& directory) {
  ModelFile file;
  moe::load_config(directory / "config.json", file);
  return file;
}
/// The model's own name of a language, which may be given by any of its codes. Throws Error if the model was not
/// trained on it. `option` is what named it.
inline const std::string& require_language(const ModelFile& file, const std::string& language, const char* option) {
  return moe::require_language(language, file.languages, moe::join(option, ": the model"));
}
/// Throws Error if the checkpoint has too few bytes for the model that its config.json describes. Call it before
/// anything of that size is allocated.
inline void check_sizes(const fs::path& directory, const ModelFile& file) {
  const fs::path weights = directory / "model.safetensors";
  const auto bytes = static_cast<double>(moe::File::open_read(weights).size());
  const double parameters = file.matrix_parameters();
  if (2 * parameters > bytes)
    moe::fail_file(weights, "has ", moe::short_number(bytes), "B, too few for the ", moe::short_number(parameters),
                   " parameters that config.json describes");
}
/// Those of the model's languages that were asked for, all where none was, under its own names and the pivot first.
inline std::vector<std::string> chosen_languages(const ModelFile& file, const std::vector<std::string>& asked) {
  if (asked.empty()) return file.languages;
  std::vector<std::string> chosen = {file.languages.front()};
  for (const auto& language : asked) {
    const auto& own = require_language(file, language, "--languages");
    if (std::find(chosen.begin(), chosen.end(), own) == chosen.end()) chosen.push_back(own);
  }
  return chosen;
}
/// `experts`: the form of the expert matrices in memory.
inline LoadedModel load_model(const fs::path& path, std::int64_t threads,
                              moe::WeightForm experts = moe::WeightForm::plain) {
  const fs::path directory = model_directory(path);
  TranslatorRequest request;
  request.file = read_model_file(directory);
  request.threads = threads;
  request.experts = experts;
  auto tokenizer = std::make_unique<Tokenizer>(directory / "spm.model");
  moe::require(tokenizer->size() == request.file.vocabulary, directory.string(), ": spm.model has ", tokenizer->size(),
               " entries, config.json says ", request.file.vocabulary);
  try {
    request.banned = banned_ids(*tokenizer, request.file.languages);
    request.bytes = byte_pieces(*tokenizer);
  } catch (const moe::Error& problem) {
    moe::fail_file(directory / "spm.model", problem.what());
  }
  check_sizes(directory, request.file);
  auto translator = make_translator(request);
  translator->load(directory, false);
  return {request.file, std::move(tokenizer), std::move(translator)};
}

}  // namespace nmt

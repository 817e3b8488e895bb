// run_files.hpp -- what a run leaves on disk, and how it is found again: RUN/settings.json, RUN/log.jsonl, RUN/step-N/
// with model.safetensors, config.json, spm.model, trainer.safetensors, trainer.json and manifest.json.
// A checkpoint appears under its name complete or not at all. Read next: train.hpp.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "data.hpp"
#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/io/manifest.hpp"

namespace nmt {

namespace moe = sparsemoe;

/// Where a run stands beside its weights.
struct TrainerState {
  std::int64_t step = 0, tokens = 0;
  double seconds = 0;
  moe::SamplerState sampler;
  Translator::TrainerNumbers numbers;
};

inline moe::Json to_json(const TrainerState& s) {
  return {{"step", s.step}, {"tokens", s.tokens}, {"seconds", s.seconds}, {"pool", s.sampler.pool}, {"batch", s.sampler.batch},
          {"updates", s.numbers.step}, {"skipped", s.numbers.skipped}, {"good", s.numbers.good}, {"loss_scale", s.numbers.loss_scale}};
}

/// A JSON file; throws FileError with its name if it is missing or malformed.
inline moe::Json read_json_file(const fs::path& path) {
  try {
    return moe::Json::parse(moe::read_file(path, std::uint64_t(16) << 20));
  } catch (const moe::Json::exception& problem) {
    moe::fail_file(path, "not valid JSON: ", problem.what());
  }
}

inline TrainerState trainer_state(const fs::path& path) {
  const moe::Json j = read_json_file(path);
  TrainerState s;
  try {
    s.step = j.at("step"), s.tokens = j.at("tokens"), s.seconds = j.at("seconds");
    s.sampler = {j.at("pool"), j.at("batch")};
    s.numbers = {j.at("updates"), j.at("skipped"), j.at("good"), j.at("loss_scale")};
  } catch (const moe::Json::exception& problem) {
    moe::fail_file(path, "not a trainer's state: ", problem.what());
  }
  return s;
}

/// Writes RUN/step-N and removes the oldest beyond `keep`.
inline void save_checkpoint(const fs::path& run, Translator& model, const ModelFile& file, const fs::path& tokenizer,
                            const TrainerState& state, std::int64_t keep) {
  moe::AtomicDirectory directory(run / ("step-" + std::to_string(state.step)));
  const fs::path& at = directory.path();
  model.save(at, true);
  moe::atomic_write(at / "config.json", moe::to_json(file).dump(2) + "\n");
  moe::atomic_write(at / "trainer.json", to_json(state).dump(2) + "\n");
  moe::atomic_write(at / "spm.model", moe::read_file(tokenizer));
  moe::write_manifest(at, {{"step", state.step}});
  directory.commit(moe::Existing::replace);
  std::vector<std::pair<std::int64_t, fs::path>> all;
  for (const auto& entry : fs::directory_iterator(run)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.starts_with("step-") && name.find_first_not_of("0123456789", 5) == std::string::npos && name.size() > 5 && name.size() < 20)
      all.emplace_back(std::stoll(name.substr(5)), entry.path());
  }
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) fs::remove_all(all[i].second);
}

/// The directory of a model: a checkpoint itself, or the newest one of a run. Throws Error in one sentence otherwise.
inline fs::path model_directory(const fs::path& path) {
  moe::require(fs::is_directory(path), path.string(), ": no such directory; expected a run or a checkpoint");
  if (fs::exists(path / "config.json")) {
    if (fs::exists(path / moe::kManifestName)) moe::verify_manifest(path);
    return path;
  }
  const auto found = moe::find_checkpoint(path);
  moe::require(found.has_value(), path.string(), ": neither a checkpoint (no config.json) nor a run with one (no step-N)");
  for (const auto& sentence : found->refused) std::fprintf(stderr, "warning: %s\n", sentence.c_str());
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
  moe::from_json(file, read_json_file(directory / "config.json"), (directory / "config.json").string());
  return file;
}
inline LoadedModel load_model(const fs::path& path, std::int64_t threads) {
  const fs::path directory = model_directory(path);
  TranslatorRequest request;
  request.file = read_model_file(directory);
  request.threads = threads;
  auto tokenizer = std::make_unique<Tokenizer>(directory / "spm.model");
  moe::require(tokenizer->size() == request.file.vocabulary, directory.string(), ": the tokenizer has ", tokenizer->size(),
               " entries, the model ", request.file.vocabulary);
  request.banned = banned_ids(*tokenizer, request.file.languages);
  auto translator = make_translator(request);
  translator->load(directory, false);
  return {request.file, std::move(tokenizer), std::move(translator)};
}

}  // namespace nmt

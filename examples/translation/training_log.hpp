// SPDX-License-Identifier: Apache-2.0
// training_log.hpp -- the records of RUN/log.jsonl while a run trains, and what is said beside them.
// Read next: train.hpp; sparsemoe/io/log.hpp for the file.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "run_files.hpp"
#include "sparsemoe/io/log.hpp"
#include "sparsemoe/io/progress.hpp"
#include "sparsemoe/model/by_name.hpp"
#include "translator.hpp"

namespace nmt {

class TrainingLog {
 public:
  /// Goes on after `step`; 0 begins the file anew.
  TrainingLog(const fs::path& path, std::int64_t step, moe::Progress& progress)
      : log_(path, step > 0 ? step : -1), progress_(progress) {}

  void write(const moe::Json& record) { log_.write(record); }
  /// Behind the last checkpoint: throws Error if lines are lacking, since the disk is still full.
  void finish() { log_.finish(); }

  /// On the screen and in the file.
  void warn(std::int64_t step, const std::string& text) {
    progress_.message("warning: " + text);
    write({{"kind", "warning"}, {"step", step}, {"text", text}});
  }

  /// Of every step. The loss of a skipped one is no mean's business; its tokens were read.
  void add(const moe::LossSums& sums, bool skipped) {
    tokens_ += sums.tokens;
    if (!skipped) window_ += sums;
  }
  /// What was added since the last of these records took `seconds`. Numbers that are not finite become null.
  void write_train(const TrainerState& state, double rate, const moe::UpdateResult& result, const Translator& model,
                   const moe::LossSums& last, double seconds, bool taught) {
    moe::Json layers = moe::Json::array();
    double balance = 0, z = 0, n = 0;
    for (const auto& s : model.statistics()) {
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
                        {"step", state.step},
                        {"seconds", state.seconds},
                        {"tokens", state.tokens},
                        {"tokens_per_second", tokens_ / std::max(1e-9, seconds)},
                        {"loss", window_.loss / window_.tokens},
                        {"nll", window_.nll / window_.tokens},
                        {"accuracy", last.correct / last.tokens},
                        {"losses", {{"balance", n > 0 ? balance / n : 0}, {"z", n > 0 ? z / n : 0}}},
                        {"learning_rate", rate},
                        {"grad_norm", result.gradient_norm},
                        {"skipped", model.skipped()},
                        {"layers", layers}};
    if (taught) record["hard"] = window_.hard / window_.tokens, record["soft"] = window_.soft / window_.tokens;
    write(record);
    window_ = {};
    tokens_ = 0;
  }

  /// Says so, once a layer, when half of its experts or more got nothing of a batch: such a gate seldom recovers.
  /// Without a gate that scores tokens or sentences, experts are left unused by design. `sentences`: of the batch.
  void warn_of_collapse(std::int64_t step, const std::vector<NamedStatistics>& statistics, std::int64_t sentences) {
    collapsed_.resize(statistics.size(), false);
    for (std::size_t l = 0; l < statistics.size(); ++l) {
      const auto& s = statistics[l];
      const auto& load = s.layer.routing.load;
      const auto unused = static_cast<std::size_t>(std::count(load.begin(), load.end(), 0));
      const bool enough = sentences >= 4 * static_cast<std::int64_t>(load.size());
      const moe::NamedRouter& router = moe::named_router(s.router);
      const bool spreads = router.gated && (router.level == moe::Level::token || enough);
      if (collapsed_[l] || !spreads || load.size() < 4 || 2 * unused < load.size()) continue;
      collapsed_[l] = true;
      const std::string text =
          moe::join("step ", step, ": routing of ", s.stack, " layer ", s.layer.layer, " collapses: ", unused, " of ",
                    load.size(), " experts got no token of this batch; try a larger --balance-loss");
      progress_.message("warning: " + text);
      write({{"kind", "warning"},
             {"step", step},
             {"stack", s.stack},
             {"layer", s.layer.layer},
             {"unused_experts", unused},
             {"text", text}});
    }
  }

 private:
  moe::JsonLog log_;
  moe::Progress& progress_;
  moe::LossSums window_;
  double tokens_ = 0;
  std::vector<bool> collapsed_;
};

}  // namespace nmt

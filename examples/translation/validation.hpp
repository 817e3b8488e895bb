// SPDX-License-Identifier: Apache-2.0
// validation.hpp -- a model on the dev rows of its run: loss and expert use by task, BLEU and chrF over fewer of them.
// What was not measured is null, never a number. Read next: train.hpp, scoring.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "scoring.hpp"
#include "settings.hpp"
#include "sparsemoe/io/json.hpp"
#include "training_data.hpp"

namespace nmt {

namespace moe = sparsemoe;

class Validation {
 public:
  Validation(Translator& model, const ModelFile& file, const TrainingData& data, const TrainSettings& settings)
      : model_(model), file_(file), data_(data), s_(settings) {}

  /// The records of the log, the validation first. Stops between two directions when stopped() is true, and then gives
  /// none.
  template <class Stopped>
  std::vector<moe::Json> run(std::int64_t step, Stopped&& stopped) {
    use_.clear(), warnings.clear();
    moe::LossSums all;
    double bleu = 0, chrf = 0, scored = 0;
    moe::Json directions = moe::Json::object();
    for (const auto& rows : data_.dev) {
      if (stopped()) return {};
      const moe::LossSums sums = loss(rows);
      all += sums;
      moe::Json entry = {{"loss", mean(sums.nll, sums.tokens)}, {"bleu", nullptr}, {"chrf", nullptr}};
      if (const auto score = this->score(rows, sums)) {
        entry["bleu"] = score->bleu, entry["chrf"] = score->chrf;
        bleu += score->bleu, chrf += score->chrf, scored += 1;
      }
      directions[rows.direction.name()] = entry;
    }
    std::vector<moe::Json> records = {{{"kind", "validation"},
                                       {"step", step},
                                       {"loss", mean(all.nll, all.tokens)},
                                       {"directions", directions},
                                       {"bleu", mean(bleu, scored)},
                                       {"chrf", mean(chrf, scored)}}};
    for (const auto& u : use_) records.push_back(usage_record(u, step));
    text_ = moe::join("step ", step, ": validation loss ", shown(records[0]["loss"], 3), ", BLEU ",
                      shown(records[0]["bleu"], 1), ", chrF ", shown(records[0]["chrf"], 1));
    return records;
  }
  /// Of the last run, for a person.
  const std::string& text() const { return text_; }
  std::vector<std::string> warnings;

 private:
  /// How often each task's tokens went to each expert of one sparse layer.
  struct Use {
    std::string stack, router;
    std::int64_t layer = 0;
    std::vector<std::int64_t> counts;
  };

  /// Null where nothing was measured, or nothing that is finite.
  static moe::Json mean(double sum, double n) { return n > 0 && std::isfinite(sum) ? moe::Json(sum / n) : moe::Json(); }
  static std::string shown(const moe::Json& value, int digits) {
    return value.is_null() ? "-" : moe::detail::print_number("%.*f", digits, value.get<double>());
  }

  moe::LossSums loss(const EncodedDirection& rows) {
    moe::LossSums sums;
    for (std::size_t at = 0; at < rows.source.size(); at += 32) {
      const std::size_t end = std::min(at + 32, rows.source.size());
      std::vector<const Ids*> sources, targets;
      for (std::size_t i = at; i < end; ++i) sources.push_back(&rows.source[i]), targets.push_back(&rows.target[i]);
      make_batch(sources, targets, std::vector<std::int32_t>(end - at, rows.task), batch_);
      sums += model_.loss(batch_, 0, 0, 0);
      count_use();
    }
    return sums;
  }
  void count_use() {
    const auto& statistics = model_.statistics();
    const std::size_t cells = file_.tasks.size() * static_cast<std::size_t>(file_.model.stack.moe.experts);
    use_.resize(statistics.size());
    for (std::size_t l = 0; l < statistics.size(); ++l) {
      use_[l].stack = statistics[l].stack, use_[l].router = statistics[l].router,
      use_[l].layer = statistics[l].layer.layer;
      use_[l].counts.resize(cells);
      for (std::size_t i = 0; i < cells; ++i) use_[l].counts[i] += statistics[l].layer.routing.usage[i];
    }
  }
  moe::Json usage_record(const Use& u, std::int64_t step) const {
    const auto tasks = file_.tasks.size(), experts = static_cast<std::size_t>(file_.model.stack.moe.experts);
    moe::Json counts = moe::Json::array();
    for (std::size_t t = 0; t < tasks; ++t)
      counts.push_back(std::vector<std::int64_t>(u.counts.begin() + static_cast<std::ptrdiff_t>(t * experts),
                                                 u.counts.begin() + static_cast<std::ptrdiff_t>((t + 1) * experts)));
    return {{"kind", "usage"},    {"step", step},         {"stack", u.stack}, {"layer", u.layer},
            {"router", u.router}, {"tasks", file_.tasks}, {"counts", counts}};
  }

  /// Nothing without rows, and nothing of a model whose loss is not finite: it says nothing.
  std::optional<DirectionScore> score(const EncodedDirection& rows, const moe::LossSums& sums) {
    if (s_.bleu_rows == 0 || rows.source.empty() || !std::isfinite(sums.nll)) return std::nullopt;
    try {
      return score_direction(model_, file_, *data_.tokenizer, data_.corpus.split("dev"), rows.direction, s_.kinds,
                             scoring_length(s_.max_length), s_.bleu_rows);
    } catch (const moe::Error& problem) {
      warnings.push_back(moe::join(rows.direction.name(), " has no BLEU: ", problem.what()));
      return std::nullopt;
    }
  }

  Translator& model_;
  const ModelFile& file_;
  const TrainingData& data_;
  const TrainSettings& s_;
  std::vector<Use> use_;
  HostBatch batch_;
  std::string text_;
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// run_log.hpp -- a run's log.jsonl as curves and tables: what the trainer wrote, gathered by stack and layer.
// Main idea: absent, null or mistyped numbers become NaN (a gap), so that a report can be made of any log, old or cut.
// Records: "start", "resume", "train", "validation", "usage", "warning", "diverged"; their fields are those read below.
// Read next: training_report.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/io/log.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Values over steps; NaN where a record had none.
struct Curve {
  std::vector<double> step, value;
  void add(double s, double v) {
    step.push_back(s);
    value.push_back(v);
  }
  /// The last finite value, or NaN.
  double last() const {
    for (auto v = value.rbegin(); v != value.rend(); ++v)
      if (std::isfinite(*v)) return *v;
    return std::nan("");
  }
};

/// A sparse layer: ("encoder", 1).
using LayerKey = std::pair<std::string, std::int64_t>;

/// By stack, encoder before decoder as data flows (the alphabet backwards), then by layer.
struct LayerOrder {
  bool operator()(const LayerKey& a, const LayerKey& b) const {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  }
};

struct LayerLog {
  std::string router;
  Curve drop_rate;                        // fraction of choices dropped
  Curve entropy;                          // nats, as logged
  std::deque<std::vector<double>> loads;  // fraction per expert, the last 20 records

  /// Mean load per expert over `loads`; empty if none was logged.
  std::vector<double> mean_load() const {
    std::vector<double> mean(loads.empty() ? 0 : loads.back().size(), 0.0);
    double count = 0;
    for (const auto& load : loads) {
      if (load.size() != mean.size()) continue;
      for (std::size_t e = 0; e < mean.size(); ++e) mean[e] += load[e];
      ++count;
    }
    for (double& m : mean) m /= count;
    return mean;
  }
};

/// The last usage record of a layer: how often each task's tokens went to each expert.
struct UsageLog {
  std::int64_t step = -1;
  std::string router;
  std::vector<std::string> tasks;
  std::vector<std::vector<double>> counts;  // (tasks, experts)
};

struct RunLog {
  Curve loss, nll, learning_rate, grad_norm, tokens_per_second;
  Curve hard, soft;                     // the parts of the loss against labels and against a teacher
  std::map<std::string, Curve> losses;  // balance, z, ...
  Curve validation_loss, bleu, chrf;
  std::map<std::string, std::map<std::string, double>> directions;  // of the last validation: "en-da" -> "bleu" -> ...
  std::map<LayerKey, LayerLog, LayerOrder> layers;
  std::map<LayerKey, UsageLog, LayerOrder> usage;
  std::int64_t last_step = -1;
  double seconds = 0, tokens = 0, skipped = 0;
  std::size_t records = 0, damaged = 0;
  Json start = Json::object();  // of the last run into this log: machine, corpus, what was left out
  std::size_t starts = 0;
  /// A sentence and the step that it is about.
  struct Note {
    std::int64_t step = -1;
    std::string text;
  };
  std::vector<Note> warnings;
  std::vector<Note> resumes;  // with the options that were changed
  Note diverged;              // no text: it did not
};

namespace detail {

inline double number_at(const Json& object, const char* key) {
  const auto at = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && at != object.end() && at->is_number() ? at->get<double>() : std::nan("");
}
inline std::string text_at(const Json& object, const char* key) {
  const auto at = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && at != object.end() && at->is_string() ? at->get<std::string>() : "";
}
/// The array under `key`, or an empty one.
inline const Json& array_at(const Json& object, const char* key) {
  static const Json none = Json::array();
  const auto at = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && at != object.end() && at->is_array() ? *at : none;
}
inline std::vector<double> numbers(const Json& array) {
  std::vector<double> out;
  if (array.is_array())
    for (const Json& v : array) out.push_back(v.is_number() ? v.get<double>() : std::nan(""));
  return out;
}
inline LayerKey layer_key(const Json& record) {
  const double layer = number_at(record, "layer");
  return {text_at(record, "stack"), layer >= 0 && layer < 1e6 ? static_cast<std::int64_t>(layer) : -1};
}

inline void add_train(RunLog& log, const Json& r) {
  const double step = static_cast<double>(record_step(r));
  const auto add = [&](Curve& curve, const char* key) { curve.add(step, number_at(r, key)); };
  add(log.loss, "loss");
  add(log.nll, "nll");
  add(log.hard, "hard");
  add(log.soft, "soft");
  add(log.learning_rate, "learning_rate");
  add(log.grad_norm, "grad_norm");
  add(log.tokens_per_second, "tokens_per_second");
  const auto keep = [&](double& value, const char* key) {
    const double v = number_at(r, key);
    if (std::isfinite(v)) value = v;
  };
  keep(log.seconds, "seconds");
  keep(log.tokens, "tokens");
  keep(log.skipped, "skipped");
  const auto losses = r.find("losses");
  if (losses != r.end() && losses->is_object())
    for (const auto& [name, value] : losses->items())
      log.losses[name].add(step, value.is_number() ? value.get<double>() : std::nan(""));
  for (const Json& l : array_at(r, "layers")) {
    LayerLog& layer = log.layers[layer_key(l)];
    layer.router = text_at(l, "router");
    layer.drop_rate.add(step, number_at(l, "drop_rate"));
    layer.entropy.add(step, number_at(l, "entropy"));
    std::vector<double> load = numbers(array_at(l, "load"));
    if (load.empty()) continue;
    layer.loads.push_back(std::move(load));
    if (layer.loads.size() > 20) layer.loads.pop_front();
  }
}

inline void add_validation(RunLog& log, const Json& r) {
  const double step = static_cast<double>(record_step(r));
  log.validation_loss.add(step, number_at(r, "loss"));
  log.bleu.add(step, number_at(r, "bleu"));
  log.chrf.add(step, number_at(r, "chrf"));
  const auto directions = r.find("directions");
  if (directions == r.end() || !directions->is_object() || directions->empty()) return;
  log.directions.clear();
  for (const auto& [name, scores] : directions->items())
    for (const char* key : {"bleu", "chrf", "loss"}) log.directions[name][key] = number_at(scores, key);
}

/// "learning_rate: 0.001, now 0.0001; ..." of a resume.
inline std::string changes_of(const Json& r) {
  std::string text;
  const auto changed = r.find("changed");
  if (changed == r.end() || !changed->is_object()) return text;
  const auto shown = [](const Json& change, const char* key) {
    const auto at = change.is_object() ? change.find(key) : change.end();
    return change.is_object() && at != change.end() ? at->dump(-1, ' ', false, Json::error_handler_t::replace)
                                                    : std::string("?");
  };
  for (const auto& [key, change] : changed->items())
    text += (text.empty() ? "" : "; ") + key + ": " + shown(change, "before") + ", now " + shown(change, "now");
  return text;
}

/// A record whose counts do not fit its tasks is left out: a wrong heat map is worse than none.
inline void add_usage(RunLog& log, const Json& r) {
  UsageLog usage{record_step(r), text_at(r, "router"), {}, {}};
  for (const Json& task : array_at(r, "tasks")) usage.tasks.push_back(task.is_string() ? task.get<std::string>() : "?");
  for (const Json& row : array_at(r, "counts")) usage.counts.push_back(numbers(row));
  bool fits = !usage.tasks.empty() && usage.counts.size() == usage.tasks.size() && !usage.counts[0].empty();
  for (const auto& row : usage.counts) fits = fits && row.size() == usage.counts[0].size();
  if (fits) {
    log.usage[layer_key(r)] = std::move(usage);
  } else {
    ++log.damaged;
  }
}

}  // namespace detail

/// Reads a log whole. Unknown kinds are passed over. Throws FileError if the file cannot be read.
inline RunLog read_run_log(const std::filesystem::path& path) {
  RunLog log;
  const LogEnd end = read_log(path, [&](const Json& r, std::uint64_t) {
    ++log.records;
    log.last_step = std::max(log.last_step, record_step(r));
    const std::string kind = detail::text_at(r, "kind");
    if (kind == "train") detail::add_train(log, r);
    if (kind == "validation") detail::add_validation(log, r);
    if (kind == "usage") detail::add_usage(log, r);
    if (kind == "start") log.start = r, ++log.starts;
    if (kind == "warning") log.warnings.push_back({record_step(r), detail::text_at(r, "text")});
    if (kind == "resume") log.resumes.push_back({record_step(r), detail::changes_of(r)});
    if (kind == "diverged") log.diverged = {record_step(r), detail::text_at(r, "text")};
    if (kind == "resume") log.diverged = {};
  });
  log.damaged += end.damaged;
  return log;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

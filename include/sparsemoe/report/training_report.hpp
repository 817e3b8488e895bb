// SPDX-License-Identifier: Apache-2.0
// training_report.hpp -- one HTML page about a run: curves, expert use by language, scores, samples, config.
// Main idea: everything is read from files in the run's directory, so a report can be made of a running, stopped or
// copied run. Only log.jsonl must be there. Read next: run_log.hpp for the records, html.hpp for the page.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/io/json.hpp"
#include "sparsemoe/report/html.hpp"
#include "sparsemoe/report/run_log.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

inline std::string digits(double value, int count) {
  return std::isfinite(value) ? print_number("%.*f", count, value) : std::string("none");
}

inline Series series(const std::string& name, const Curve& curve) { return {name, curve.step, curve.value}; }

inline std::string layer_name(const LayerKey& key) {
  return key.first + (key.second >= 0 ? " layer " + std::to_string(key.second) : "");
}

inline std::vector<std::string> expert_names(std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t e = 0; e < count; ++e) names.push_back(std::to_string(e));
  return names;
}

inline void add_summary(HtmlReport& page, const RunLog& log) {
  double best_loss = INFINITY, best_bleu = -INFINITY;
  double best_loss_step = -1, best_bleu_step = -1;
  for (std::size_t i = 0; i < log.validation_loss.value.size(); ++i) {
    if (log.validation_loss.value[i] < best_loss)
      best_loss = log.validation_loss.value[i], best_loss_step = log.validation_loss.step[i];
    if (log.bleu.value[i] > best_bleu) best_bleu = log.bleu.value[i], best_bleu_step = log.bleu.step[i];
  }
  KeyValues facts{{"step", std::to_string(std::max<std::int64_t>(0, log.last_step))},
                  {"time", short_time(log.seconds)},
                  {"tokens", short_number(log.tokens)},
                  {"last training loss", digits(log.loss.last(), 4)}};
  if (log.seconds > 0 && log.tokens > 0)
    facts.emplace_back("tokens/s, whole run", short_number(log.tokens / log.seconds));
  const auto best = [&](const char* what, double value, double step, int count) {
    if (step >= 0)
      facts.emplace_back(what, digits(value, count) + " at step " + digits(step, 0));
    else if (!log.validation_loss.value.empty())
      facts.emplace_back(what, "none");  // a validation without rows
  };
  best("best validation loss", best_loss, best_loss_step, 4);
  best("best BLEU", best_bleu, best_bleu_step, 2);
  if (log.skipped > 0) facts.emplace_back("skipped steps", digits(log.skipped, 0));
  if (log.damaged > 0) facts.emplace_back("damaged log lines", std::to_string(log.damaged));
  if (log.records == 0) facts.emplace_back("log", "without a record");
  if (!log.diverged.text.empty()) facts.emplace_back("diverged", "at step " + std::to_string(log.diverged.step));
  page.key_values(facts);
}

/// What went wrong, and where the run was taken up again.
inline void add_events(HtmlReport& page, const RunLog& log) {
  constexpr std::size_t kMost = 40;
  Table events{{"step", "what happened"}, {}};
  const auto add = [&](const RunLog::Note& note, const std::string& text) {
    events.rows.push_back({std::to_string(note.step), text});
  };
  for (const auto& note : log.resumes)
    add(note, "resumed" + (note.text.empty() ? std::string(", nothing changed") : " with " + note.text));
  for (std::size_t i = 0; i < std::min(kMost, log.warnings.size()); ++i)
    add(log.warnings[i], "warning: " + log.warnings[i].text);
  if (log.warnings.size() > kMost)
    add(log.warnings.back(), "and " + std::to_string(log.warnings.size() - kMost) + " warnings more, in log.jsonl");
  if (!log.diverged.text.empty()) add(log.diverged, log.diverged.text);
  if (events.rows.empty()) return;
  page.section("Resumes and warnings");
  page.table(events);
}

/// "left_out" -> "left out"
inline std::string fact_name(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return key;
}

inline void flatten(const Json& value, const std::string& key, Table& table) {
  if (value.is_object() && !value.empty()) {
    for (const auto& [name, inner] : value.items()) flatten(inner, key.empty() ? name : key + "." + name, table);
  } else {
    table.rows.push_back({key, value.is_string() ? value.get<std::string>()
                                                 : value.dump(-1, ' ', false, Json::error_handler_t::replace)});
  }
}

/// Corpus and machine, as the last start of the run wrote them; only what is there.
inline void add_run_facts(HtmlReport& page, const RunLog& log, const Json& settings) {
  Table facts{{"of the run", ""}, {}};
  const std::string corpus = text_at(settings, "corpus");
  if (!corpus.empty()) facts.rows.push_back({"corpus", corpus});
  for (const auto& [key, value] : log.start.items()) {
    if (key == "kind" || key == "step" || key == "settings" || value.is_null()) continue;
    if (value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_string(); })) {
      std::string list;
      for (const Json& v : value) list += (list.empty() ? "" : ", ") + v.get<std::string>();
      facts.rows.push_back({fact_name(key), list});
    } else {
      flatten(value, fact_name(key), facts);
    }
  }
  if (log.starts > 1) facts.rows.push_back({"starts", std::to_string(log.starts) + ", the last is shown"});
  if (facts.rows.empty()) return;
  page.section("Corpus and machine");
  page.table(facts);
}

inline void add_curves(HtmlReport& page, const RunLog& log) {
  page.section("Training");
  std::vector<LineChart> charts;
  charts.push_back({"Loss", "step", "", {series("training", log.loss), series("validation", log.validation_loss)}});
  charts.push_back({"Translation quality", "step", "", {series("BLEU", log.bleu), series("chrF", log.chrf)}});
  charts.push_back({"Speed", "step", "", {series("tokens/s", log.tokens_per_second)}});
  charts.push_back({"Negative log-likelihood", "step", "nats per token", {series("training", log.nll)}});
  if (std::isfinite(log.soft.last()))
    charts.push_back({"Labels and teacher",
                      "step",
                      "cross entropy, nats per token",
                      {series("labels", log.hard), series("teacher", log.soft)}});
  LineChart losses{"Router losses", "step", "uniform routing gives a balance loss of 1", {}};
  for (const auto& [name, curve] : log.losses) losses.series.push_back(series(name, curve));
  charts.push_back(std::move(losses));
  charts.push_back({"Learning rate", "step", "", {series("learning rate", log.learning_rate)}});
  charts.push_back({"Gradient norm", "step", "before clipping", {series("norm", log.grad_norm)}});
  page.line_charts(charts);
}

/// One chart per stack: twelve layers of two stacks on one chart cannot be told apart.
inline void add_routing_curves(HtmlReport& page, const RunLog& log) {
  std::map<std::string, LineChart, std::greater<>> drop, entropy;
  for (const auto& [key, layer] : log.layers) {
    const std::string name = "layer " + std::to_string(key.second);
    drop.try_emplace(key.first, LineChart{"Drop rate, " + key.first, "step", "fraction of choices dropped", {}});
    entropy.try_emplace(key.first, LineChart{"Router entropy, " + key.first, "step", "nats", {}});
    drop[key.first].series.push_back(series(name, layer.drop_rate));
    entropy[key.first].series.push_back(series(name, layer.entropy));
  }
  std::vector<LineChart> charts;
  for (auto& [stack, chart] : drop) {
    charts.push_back(std::move(chart));
    charts.push_back(std::move(entropy[stack]));
  }
  page.line_charts(charts);
}

inline void add_layer_health(HtmlReport& page, const RunLog& log) {
  Table table{{"layer", "router", "experts", "highest load", "lowest load", "idle experts", "drop rate", "entropy"},
              {}};
  for (const auto& [key, layer] : log.layers) {
    const std::vector<double> load = layer.mean_load();
    const double fair = load.empty() ? 0 : 1.0 / static_cast<double>(load.size());
    double high = std::nan(""), low = std::nan("");
    std::size_t idle = 0;
    for (const double l : load) {
      high = std::fmax(high, l / fair), low = std::fmin(low, l / fair);
      idle += l < 0.01 * fair ? 1 : 0;
    }
    table.rows.push_back({layer_name(key), layer.router, std::to_string(load.size()), digits(high, 2), digits(low, 2),
                          std::to_string(idle), digits(layer.drop_rate.last(), 4), digits(layer.entropy.last(), 3)});
  }
  if (table.rows.empty()) return;
  page.paragraph("Loads are multiples of the fair share, mean of the last 20 records; idle is below 0.01.");
  page.table(table);
}

/// Load by layer, one map per stack; layers of one stack may differ in their number of experts.
inline void add_load_maps(HtmlReport& page, const RunLog& log) {
  std::map<std::string, HeatMap, std::greater<>> maps;
  std::map<std::string, std::size_t> experts;
  for (const auto& [key, layer] : log.layers)
    experts[key.first] = std::max(experts[key.first], layer.mean_load().size());
  for (const auto& [key, layer] : log.layers) {
    const std::vector<double> load = layer.mean_load();
    const std::size_t columns = experts[key.first];
    if (load.empty()) continue;
    HeatMap& map = maps[key.first];
    map.title = "Load by layer, " + key.first;
    map.row_label = "layer";
    map.column_label = "expert";
    map.value_label = "times the fair share";
    map.rows.push_back(std::to_string(key.second));
    map.columns = expert_names(columns);
    for (std::size_t e = 0; e < columns; ++e)
      map.values.push_back(e < load.size() ? load[e] * static_cast<double>(load.size()) : std::nan(""));
  }
  for (const auto& [stack, map] : maps) page.heat_map(map);
}

inline void add_usage_maps(HtmlReport& page, const RunLog& log) {
  for (const auto& [key, usage] : log.usage) {
    HeatMap map;
    map.title = layer_name(key) + (usage.router.empty() ? "" : ", router: " + usage.router) + ", step " +
                std::to_string(usage.step);
    map.row_label = "task";
    map.column_label = "expert";
    map.value_label = "times the fair share of the row's tokens";
    map.rows = usage.tasks;
    map.columns = expert_names(usage.counts[0].size());
    for (const auto& row : usage.counts) {
      double sum = 0;
      for (const double c : row) sum += std::isfinite(c) ? c : 0;
      for (const double c : row)
        map.values.push_back(sum > 0 ? c / sum * static_cast<double>(row.size()) : std::nan(""));
    }
    page.heat_map(map);
  }
}

/// Source languages by target languages, if there are enough directions for a map to help.
inline void add_direction_map(HtmlReport& page, const std::map<std::pair<std::string, std::string>, double>& bleu) {
  std::set<std::string> from, to;
  for (const auto& [pair, value] : bleu) from.insert(pair.first), to.insert(pair.second);
  if (from.size() < 3 || to.size() < 3) return;
  HeatMap map{"BLEU by direction", "from", "to", "BLEU", {from.begin(), from.end()}, {to.begin(), to.end()}, {}};
  for (const auto& source : from)
    for (const auto& target : to) {
      const auto at = bleu.find({source, target});
      map.values.push_back(at == bleu.end() ? std::nan("") : at->second);
    }
  page.heat_map(map);
}

inline void add_scores(HtmlReport& page, const Json& scores) {
  page.section("Scores");
  const std::string signature = text_at(scores, "signature");
  if (!signature.empty()) page.paragraph("Signature: " + signature);
  const auto averages = scores.find("averages");
  if (averages != scores.end() && averages->is_object() && !averages->empty()) {
    Table table{{"average over", "BLEU", "chrF"}, {}};
    for (const auto& [name, row] : averages->items())
      table.rows.push_back({name, digits(number_at(row, "bleu"), 2), digits(number_at(row, "chrf"), 2)});
    page.table(table);
  }
  Table table{{"direction", "BLEU", "copy BLEU", "gain", "chrF", "copy chrF", "gain", "segments"}, {}};
  std::map<std::pair<std::string, std::string>, double> bleu;
  for (const Json& row : array_at(scores, "directions")) {
    const std::string direction = text_at(row, "direction");
    const double b = number_at(row, "bleu"), cb = number_at(row, "copy_bleu");
    const double c = number_at(row, "chrf"), cc = number_at(row, "copy_chrf");
    table.rows.push_back({direction, digits(b, 2), digits(cb, 2), digits(b - cb, 2), digits(c, 2), digits(cc, 2),
                          digits(c - cc, 2), digits(number_at(row, "segments"), 0)});
    const std::size_t dash = direction.find('-');
    if (dash != std::string::npos) bleu[{direction.substr(0, dash), direction.substr(dash + 1)}] = b;
  }
  if (table.rows.empty()) return;
  page.paragraph("Copy is the score of giving the source back untranslated.");
  page.table(table);
  add_direction_map(page, bleu);
}

inline void add_last_validation(HtmlReport& page, const RunLog& log) {
  if (log.directions.empty()) return;
  page.section("Last validation");
  Table table{{"direction", "BLEU", "chrF", "loss"}, {}};
  for (const auto& [direction, s] : log.directions)
    table.rows.push_back({direction, digits(s.at("bleu"), 2), digits(s.at("chrf"), 2), digits(s.at("loss"), 4)});
  page.table(table);
}

inline void add_samples(HtmlReport& page, const Json& samples) {
  page.section("Sample translations");
  for (const Json& sample : samples) {
    page.heading(text_at(sample, "source_language") + ": " + text_at(sample, "source"));
    Table table{{"language", "translation"}, {}};
    for (const Json& t : array_at(sample, "translations"))
      table.rows.push_back({text_at(t, "language"), text_at(t, "text")});
    page.table(table);
  }
}

}  // namespace detail

/// Reads RUN/log.jsonl and, where present, RUN/scores.json, RUN/samples.json and RUN/settings.json; writes `out_html`
/// atomically. Throws FileError for an absent log or a file that is not JSON.
inline void write_training_report(const std::filesystem::path& run_dir, const std::filesystem::path& out_html) {
  const RunLog log = read_run_log(run_dir / "log.jsonl");
  const auto optional_json = [&](const char* name) {
    return std::filesystem::exists(run_dir / name) ? read_json(run_dir / name) : Json();
  };
  const Json scores = optional_json("scores.json"), samples = optional_json("samples.json");
  const Json config = optional_json("settings.json");

  HtmlReport page("Training report: " + run_name(run_dir), "written by sparsemoe " SPARSEMOE_VERSION);
  detail::add_summary(page, log);
  detail::add_events(page, log);
  detail::add_run_facts(page, log, config);
  detail::add_curves(page, log);
  if (!log.layers.empty()) {
    page.section("Routing");
    detail::add_layer_health(page, log);
    detail::add_routing_curves(page, log);
    detail::add_load_maps(page, log);
  }
  if (!log.usage.empty()) {
    page.section("Experts by language");
    page.paragraph(
        "Each row is one task's tokens over the experts: 1 is an even spread, the number of experts is all "
        "tokens in one expert. Point at a cell for its value.");
    detail::add_usage_maps(page, log);
  }
  if (scores.is_object()) detail::add_scores(page, scores);
  detail::add_last_validation(page, log);
  if (samples.is_array()) detail::add_samples(page, samples);
  if (config.is_object()) {
    page.section("Configuration");
    Table table{{"key", "value"}, {}};
    detail::flatten(config, "", table);
    page.table(table);
  }
  page.write(out_html);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

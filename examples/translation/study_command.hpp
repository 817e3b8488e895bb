// SPDX-License-Identifier: Apache-2.0
// study_command.hpp -- the command `study`: the rows of Kudugunta et al. 2021, Table 1, trained from one config file
// with equal seeds, data and steps, then scored, extracted and timed. A folder a run; what is finished is not done
// again. Read next: train.hpp, extract_command.hpp.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "evaluate.hpp"
#include "extract.hpp"
#include "run_files.hpp"
#include "scoring.hpp"
#include "sparsemoe/io/file_set.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/report/html.hpp"
#include "training_run.hpp"

namespace nmt {

/// A row of the table: routers by stack, and what a task is.
struct StudyRow {
  std::string name, encoder, decoder, task;
  /// A directory's name: "pair/token" becomes "pair-token".
  std::string folder() const {
    std::string f = name;
    std::replace(f.begin(), f.end(), '/', '-');
    return f;
  }
  bool extractable() const { return moe::named_router(encoder).by_task || moe::named_router(decoder).by_task; }
};

/// A row of two routers; under a learned table of tasks a stack is named by what a task is.
template <class Encoder, class Decoder>
StudyRow mixed(const std::string& task = "target") {
  const auto name = [&](const moe::NamedRouter& r) { return r.level == moe::Level::task ? task : std::string(r.name); };
  const moe::NamedRouter &encoder = moe::named_router(moe::router_name<Encoder>()),
                         &decoder = moe::named_router(moe::router_name<Decoder>());
  return {name(encoder) + "/" + name(decoder), std::string(encoder.name), std::string(decoder.name), task};
}
template <class R>
StudyRow both(const std::string& task = "target") {
  return mixed<R, R>(task);
}
/// A strategy that is compared as a whole, under its name.
inline StudyRow whole(std::string_view router) {
  const std::string name(router);
  return {name, name, name, "target"};
}

/// Those of the paper's table, and the routers that are named for it.
inline const std::vector<StudyRow>& study_rows() {
  static const std::vector<StudyRow> rows = [] {
    using Token = moe::TopK<2>;
    using moe::Task, moe::Sentence;
    std::vector<StudyRow> all = {whole(moe::router_name<moe::Dense>()),
                                 whole(moe::router_name<moe::StaticTask>()),
                                 both<Sentence>(),
                                 both<Token>(),
                                 both<Task>("pair"),
                                 both<Task>("target"),
                                 mixed<Task, Token>("pair"),
                                 mixed<Task, Token>("target"),
                                 mixed<Token, Task>("pair"),
                                 mixed<Token, Task>("target")};
    for (const moe::NamedRouter& r : moe::named_routers)
      if (r.in_study) all.push_back(whole(r.name));
    return all;
  }();
  return rows;
}
inline std::vector<std::string> names_of_rows() {
  std::vector<std::string> names;
  for (const StudyRow& row : study_rows()) names.push_back(row.name);
  return names;
}

/// The config file of a study: a training run's keys, and these.
struct StudySettings {
  TrainSettings train;
  std::vector<std::string> rows;  // none: all
  std::int64_t seeds = 1, eval_rows = 200, speed_rows = 64, speed_rounds = 3;
  std::string split = "dev";

  template <class F>
  void visit(F&& f) {
    train.visit(f);
    static const std::string all = study_rows().size() == 12 ? "twelve" : std::to_string(study_rows().size());
    static const std::string help = "rows of the table, e.g. token/target; none: all " + all;
    f("rows", rows, help.c_str());
    f("seeds", seeds, "runs of a row, with seeds 1, 2, ...");
    f("eval_rows", eval_rows, "rows a direction that are scored; 0: all");
    f("split", split, "split that is scored: dev or test");
    f("speed_rows", speed_rows, "sentences decoded to time a model; 0: no timing");
    f("speed_rounds", speed_rounds, "times each model is timed, in turn with the others; the best counts");
  }
  void check() const {
    train.check();
    const ModelSettings& m = train.model;
    moe::require(m.sparse_layers(m.encoder_layers) > 0 && m.sparse_layers(m.decoder_layers) > 0,
                 "study: a stack has no sparse layer: ", m.encoder_layers, " encoder and ", m.decoder_layers,
                 " decoder layers, of which every ", m.stack.sparse_every,
                 ". is sparse; give --sparse-every 1 or more layers");
    moe::require(seeds >= 1 && eval_rows >= 0 && speed_rows >= 0 && speed_rounds >= 1,
                 "seeds and speed_rounds must be at least 1, eval_rows and speed_rows not negative");
    require_ranges({{"seeds", number(seeds), 1, 100000},
                    {"eval_rows", number(eval_rows), 0, kMostCount},
                    {"speed_rows", number(speed_rows), 0, kMostCount},
                    {"speed_rounds", number(speed_rounds), 1, 1e6}});
    for (const auto& r : rows)
      moe::require(
          std::any_of(study_rows().begin(), study_rows().end(), [&](const StudyRow& s) { return s.name == r; }),
          "there is no study row '", r, "'; the rows are ", moe::listed(names_of_rows(), "and"));
  }
};

class Study {
 public:
  explicit Study(const StudySettings& settings) : s_(settings), out_(settings.train.out) {
    s_.check();
    moe::require(!s_.train.out.empty(), "study: give --out DIR, the directory of the study");
    for (const auto& row : study_rows())
      if (s_.rows.empty() || std::find(s_.rows.begin(), s_.rows.end(), row.name) != s_.rows.end()) rows_.push_back(row);
    fs::create_directories(out_);
    const fs::path saved = out_ / "study-settings.json";
    if (fs::exists(saved)) {  // runs of different settings must not stand in one table
      StudySettings before;
      moe::load_config(saved, before);
      moe::Json a = moe::to_json(before), b = moe::to_json(s_);
      for (const char* free : {"rows", "seeds", "eval_rows", "split", "speed_rows", "speed_rounds", "threads", "out"})
        a.erase(free), b.erase(free);
      for (const auto& [key, value] : a.items())
        moe::require(value == b[key], saved.string(), ": ", key, " was ", value.dump(),
                     " for the runs that are there, not ", b[key].dump(), "; choose another --out");
    }
    moe::save_config(saved, s_);
  }

  /// Trains, scores and extracts what is not finished, times all, writes OUT/study.{json,md,html}. 0, or 128 + signal.
  int run() {
    for (std::int64_t seed = 1; seed <= s_.seeds; ++seed)
      for (const auto& row : rows_) {
        const fs::path at = folder(row, seed);
        if (fs::exists(at / "scores.json")) continue;
        std::fprintf(stderr, "== %s, seed %lld\n", row.name.c_str(), static_cast<long long>(seed));
        if (const int status = train(row, seed, at); status != 0) return status;
        EvaluateOptions e;
        e.model = at.string(), e.corpus = s_.train.corpus, e.split = s_.split, e.rows = s_.eval_rows,
        e.threads = s_.train.threads;
        e.scores = (at / "scores.json").string();
        evaluate(e);
      }
    for (const auto& row : rows_)
      if (row.extractable()) extract(row);
    time_all();
    write();
    return 0;
  }

 private:
  fs::path folder(const StudyRow& row, std::int64_t seed) const {
    return out_ / row.folder() / ("seed-" + std::to_string(seed));
  }

  int train(const StudyRow& row, std::int64_t seed, const fs::path& at) const {
    TrainSettings t = s_.train;
    t.out = at.string();
    t.seed = static_cast<std::uint64_t>(seed);
    t.model.encoder_router = row.encoder, t.model.decoder_router = row.decoder, t.model.task = row.task;
    if (!moe::named_router(row.encoder).can_drop && !moe::named_router(row.decoder).can_drop)
      t.model.stack.moe.capacity_factor = t.model.stack.moe.eval_capacity_factor = 0;
    const bool resume = fs::exists(at / "settings.json");
    return run_training(t, resume);
  }

  /// The direction whose task is extracted and whose sentences are timed: from English into the first language.
  std::pair<std::string, std::string> direction(const ModelFile& file) const {
    return {file.languages.at(0), file.languages.at(1)};
  }

  void extract(const StudyRow& row) const {
    const ModelFile file = read_model_file(model_directory(folder(row, 1)));
    const auto [source, target] = direction(file);
    for (const bool dense : {false, true}) {
      ExtractOptions x;
      x.model = folder(row, 1).string(), x.out = (out_ / row.folder() / (dense ? "dense" : "extracted")).string();
      x.tasks = {file.model.task == "pair" ? source + "-" + target : target};
      x.dense = dense, x.quiet = true, x.threads = s_.train.threads;
      if (!fs::exists(fs::path(x.out) / "extraction.json")) nmt::extract(x);
    }
  }

  struct Timed {
    std::string name;
    fs::path path;
    std::map<std::int64_t, double> tokens_per_second;  // by batch size
    double best() const {
      double b = 0;
      for (const auto& [n, v] : tokens_per_second) b = std::max(b, v);
      return b;
    }
  };
  /// Greedy decoding of the same sentences by every model, in turn, several rounds: a slow moment of the machine hits
  /// all. Tokens are those of the outputs' text, encoded again, and an end each.
  void time_all() {
    if (s_.speed_rows == 0) return;
    for (const auto& row : rows_) {
      timed_.push_back({row.name, folder(row, 1), {}});
      if (!row.extractable()) continue;
      timed_.push_back({row.name + ", extracted", out_ / row.folder() / "extracted", {}});
      timed_.push_back({row.name + ", folded", out_ / row.folder() / "dense", {}});
    }
    Corpus corpus;
    for (std::int64_t round = 0; round < s_.speed_rounds; ++round)
      for (auto& t : timed_) {
        auto loaded = load_model(t.path, s_.train.threads);
        const auto [source, target] = direction(loaded.file);
        if (corpus.splits.empty()) corpus = load_corpus(s_.train.corpus, {source, target});
        const Direction d{source, target};
        const std::int64_t longest = scoring_length(s_.train.max_length);
        const auto rows = encode_direction(corpus.split(s_.split), d, loaded.file.task_of(source, target),
                                           *loaded.tokenizer, s_.train.kinds, longest, false, s_.speed_rows);
        moe::require(!rows.source.empty(), s_.train.corpus, ": split '", s_.split, "' has no pair ", d.name(),
                     " to time the models with; --speed-rows 0 times none");
        std::vector<const Ids*> sources;
        for (const auto& ids : rows.source) sources.push_back(&ids);
        const std::vector<std::int32_t> tasks(sources.size(), rows.task);
        translate_all(*loaded.translator, *loaded.tokenizer, {sources.begin(), sources.begin() + 1}, {rows.task},
                      longest, 1);
        for (const std::int64_t batch : {1, 8, 64}) {
          const auto start = std::chrono::steady_clock::now();
          const auto texts = translate_all(*loaded.translator, *loaded.tokenizer, sources, tasks, longest, batch);
          const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
          double tokens = 0;
          for (const auto& text : texts) tokens += static_cast<double>(loaded.tokenizer->encode(text).size()) + 1;
          t.tokens_per_second[batch] = std::max(t.tokens_per_second[batch], tokens / seconds);
        }
      }
  }

  /// Mean and sample standard deviation over seeds.
  struct Spread {
    double mean = 0, deviation = 0;
    std::size_t n = 0;
    std::string text() const {
      return moe::detail::fixed(mean, 1) + (n > 1 ? " ± " + moe::detail::fixed(deviation, 1) : "");
    }
  };
  static Spread spread(const std::vector<double>& v) {
    Spread s;
    s.n = v.size();
    for (const double x : v) s.mean += x / static_cast<double>(v.size());
    for (const double x : v) s.deviation += (x - s.mean) * (x - s.mean);
    s.deviation = v.size() > 1 ? std::sqrt(s.deviation / static_cast<double>(v.size() - 1)) : 0;
    return s;
  }

  struct Score {
    std::string head, key;
  };
  /// Whether some languages have many training pairs and some few; where all are of one kind its mean is that of all.
  bool told_apart() const {
    for (const auto& row : rows_) {
      const moe::Json scores = moe::read_json(folder(row, 1) / "scores.json");
      if (scores["averages"].contains("high") && scores["averages"].contains("low")) return true;
    }
    return false;
  }
  void write() const {
    std::vector<Score> columns = {{"BLEU", "bleu all"},  {"xx2en", "bleu xx2en"}, {"en2xx", "bleu en2xx"},
                                  {"high", "bleu high"}, {"low", "bleu low"},     {"chrF", "chrf all"}};
    if (!told_apart())
      columns.erase(std::remove_if(columns.begin(), columns.end(),
                                   [](const Score& c) { return c.key == "bleu high" || c.key == "bleu low"; }),
                    columns.end());
    const std::string reference = both<moe::TopK<2>>().name;
    moe::Table means{{"routing (encoder/decoder)"}, {}};
    for (const auto& c : columns) means.columns.push_back(c.head);
    means.columns.insert(means.columns.end(), {"parameters", "serving one task"});
    moe::Table languages{{"routing"}, {}},
        speed{{"model", "batch 1", "batch 8", "batch 64", "peak, of " + reference}, {}};
    moe::Json all = moe::Json::array(), times = moe::Json::array();
    double token_peak = 0;
    for (const auto& t : timed_)
      if (t.name == reference) token_peak = t.best();
    for (const auto& row : rows_) {
      std::map<std::string, std::vector<double>> value;  // "bleu all", "chrf all", "bleu en-da", ...
      for (std::int64_t seed = 1; seed <= s_.seeds; ++seed) {
        const moe::Json scores = moe::read_json(folder(row, seed) / "scores.json");
        for (const auto& [name, v] : scores["averages"].items())
          value["bleu " + name].push_back(v["bleu"]), value["chrf " + name].push_back(v["chrf"]);
        for (const auto& d : scores["directions"])
          value["bleu " + d["direction"].get<std::string>()].push_back(d["bleu"]);
        if (languages.columns.size() == 1)
          for (const auto& d : scores["directions"]) languages.columns.push_back(d["direction"].get<std::string>());
      }
      const auto text = [&](const std::string& key) {
        return value.count(key) != 0 ? spread(value.at(key)).text() : std::string("-");
      };
      const fs::path extraction = out_ / row.folder() / "extracted" / "extraction.json";
      double parameters = 0, serving = 0;
      if (fs::exists(extraction)) {
        const moe::Json total = moe::read_json(extraction)["stacks"]["total"]["parameters"];
        parameters = total[0], serving = total[1];
      } else {
        parameters = serving = static_cast<double>(load_model(folder(row, 1), 1).translator->parameters());
      }
      means.rows.push_back({row.name});
      for (const auto& c : columns) means.rows.back().push_back(text(c.key));
      for (const double n : {parameters, serving}) means.rows.back().push_back(moe::short_number(n));
      std::vector<std::string> line = {row.name};
      for (std::size_t i = 1; i < languages.columns.size(); ++i) line.push_back(text("bleu " + languages.columns[i]));
      languages.rows.push_back(line);
      moe::Json record = {
          {"row", row.name}, {"seeds", s_.seeds}, {"parameters", parameters}, {"serving_parameters", serving}};
      for (const auto& [key, v] : value) record[key] = {{"mean", spread(v).mean}, {"deviation", spread(v).deviation}};
      all.push_back(record);
    }
    for (const auto& t : timed_) {
      std::vector<std::string> line = {t.name};
      moe::Json by_batch = moe::Json::object();
      for (const auto& [batch, v] : t.tokens_per_second)
        line.push_back(moe::detail::fixed(v, 0)), by_batch[std::to_string(batch)] = v;
      line.push_back(token_peak > 0 ? moe::detail::fixed(t.best() / token_peak, 2) : "-");
      speed.rows.push_back(line);
      times.push_back({{"model", t.name},
                       {"tokens_per_second", by_batch},
                       {"peak_of_token_token", token_peak > 0 ? moe::Json(t.best() / token_peak) : moe::Json()}});
    }
    const std::string not_timed = "Not timed (--speed-rows 0).";
    moe::FileSet files(out_);
    files.add("study.json", moe::dump_json({{"rows", all}, {"throughput", times}, {"settings", moe::to_json(s_)}}));
    files.add("study.md", "## Routing strategies\n\n" + moe::markdown(means) + "\n## BLEU by direction\n\n" +
                              moe::markdown(languages) + "\n## Greedy decoding, tokens a second\n\n" +
                              (timed_.empty() ? not_timed + "\n" : moe::markdown(speed)));
    moe::HtmlReport page("Routing strategies", "written by sparsemoe " SPARSEMOE_VERSION);
    page.section("Scores");
    page.paragraph(
        "Equal data, steps and seeds; mean and standard deviation over seeds. Serving one task: the parameters of its "
        "extracted sub-network.");
    page.table(means);
    page.section("BLEU by direction");
    page.table(languages);
    page.section("Greedy decoding, tokens a second");
    timed_.empty() ? page.paragraph(not_timed) : page.table(speed);
    files.add("study.html", page.text());
    files.commit();
    std::printf("%s", moe::markdown(means).c_str());
    moe::require_output_written();
  }

  StudySettings s_;
  fs::path out_;
  std::vector<StudyRow> rows_;
  std::vector<Timed> timed_;
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// benchmark/benchmark.hpp -- the command `benchmark`: decoding speed of token-routed, task-routed, extracted and dense
// models over batch sizes and numbers of experts, in turn in one run, beside what bytes and operations allow (the
// counterpart of Kudugunta et al. 2021, Figures 2 and 4). Read next: limits.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../extract.hpp"
#include "../run_files.hpp"
#include "limits.hpp"
#include "sparsemoe/io/file_set.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/report/html.hpp"

namespace nmt {

/// The models that are made here are named after their decoders' routers.
inline const std::string kTokenModel{moe::router_name<moe::TopK<2>>()}, kTaskModel{moe::router_name<moe::Task>()},
    kDenseModel{moe::router_name<moe::Dense>()};

/// What is compared. The models are made here with random weights, or are runs named by `models`.
struct BenchmarkSettings {
  std::string corpus, out, split = "test", kinds = "s,t,p,l", to;
  std::vector<std::string> models;
  ModelSettings model = [] {
    ModelSettings m;
    m.encoder_router = kDenseModel;
    return m;
  }();
  std::vector<std::int64_t> expert_counts = {8, 32, 128}, batches = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
  std::int64_t new_tokens = 24, source_tokens = 24, rounds = 5, threads = 0;
  std::uint64_t seed = 1;

  template <class F>
  void visit(F&& f) {
    f("corpus", corpus, "directory made by the corpus command");
    f("out", out, "directory for benchmark.json, benchmark.md, benchmark.html and the models");
    f("models", models, "trained runs to compare, the first is the reference; none: models of each number of experts");
    f("split", split, "split that is decoded: dev or test");
    f("kinds", kinds, "kinds of text");
    f("to", to, "target language; empty: the first beside English");
    model.visit(f);
    f("expert_counts", expert_counts, "numbers of experts of the models made here");
    f("batches", batches, "sentences decoded together");
    f("new_tokens", new_tokens, "tokens decoded a sentence");
    f("source_tokens", source_tokens, "most tokens of a source");
    f("rounds", rounds, "times each model decodes each batch, in turn with the others; medians count");
    f("seed", seed, "seed of the weights of models made here");
    f("threads", threads, "threads; 0: all");
  }
  void check() const {
    using moe::require;
    require(!corpus.empty() && !out.empty(), "benchmark: give --corpus DIR and --out DIR");
    require(new_tokens >= 1 && source_tokens >= 4 && rounds >= 1 && threads >= 0,
            "new_tokens and rounds must be at least 1, source_tokens at least 4, threads not negative");
    require_ranges({{"new_tokens", number(new_tokens), 1, 100000},
                    {"source_tokens", number(source_tokens), 4, 100000},
                    {"rounds", number(rounds), 1, 1e6},
                    {"threads", number(threads), 0, 1024}});
    require(!batches.empty() && !(models.empty() && expert_counts.empty()),
            "batches and expert_counts must have an entry");
    for (const auto b : batches) require(b >= 1 && b <= 65536, "batches must be between 1 and 65536, not ", b);
    if (!models.empty()) return;
    require(moe::named_router(model.encoder_router).dense(),
            "encoder_router: the models made here differ in the decoder and share a dense encoder; got ",
            model.encoder_router);
    for (const auto e : expert_counts)
      require(e >= 2 && e <= 65536, "expert_counts must be between 2 and 65536, not ", e);
    ModelSettings m = model;
    m.decoder_router = kTokenModel;
    m.check();
    require(m.stack.sparse_every >= 1 && m.stack.sparse_every <= m.decoder_layers,
            "sparse_every must leave a sparse layer among the ", m.decoder_layers, " of the decoder; got ",
            m.stack.sparse_every);
  }
};

/// One model and what it did at one batch size.
struct BenchmarkResult {
  std::string model;
  std::int64_t experts = 0, batch = 0;
  double seconds = 0;        // of encoding the batch and decoding its tokens; median over rounds
  double limit_seconds = 0;  // least time by bytes and operations
  double tokens_per_second = 0;
  double experts_touched = 0;  // a sparse layer and step, mean
  double expert_bytes = 0;     // of expert weights a step, over all layers, mean
};

class Benchmark {
 public:
  explicit Benchmark(const BenchmarkSettings& settings) : s_(settings), out_(settings.out), limits_(settings.threads) {
    s_.check();
    fs::create_directories(out_);
  }

  /// Times all, then writes OUT/benchmark.{json,md,html}.
  int run() {
    if (!s_.models.empty()) {
      std::vector<Entry> entries;
      for (const auto& path : s_.models) entries.push_back({path, 0, path});
      time(entries);
    } else {
      for (const auto experts : s_.expert_counts) time(make_models(experts));
    }
    write();
    return 0;
  }

 private:
  struct Entry {
    std::string name;
    std::int64_t experts;
    fs::path path;
  };

  void load_corpus_once(const std::vector<std::string>& languages) {
    if (!corpus_.splits.empty()) return;
    corpus_ = load_corpus(s_.corpus, languages);
    moe::require(!corpus_.tokenizer.empty(), s_.corpus, ": the corpus has no tokenizer (spm.model)");
  }

  /// token-routed, task-routed, the task's sub-network with and without the folding, and a dense model of its widths.
  std::vector<Entry> make_models(std::int64_t experts) {
    load_corpus_once({});
    const Tokenizer tokenizer(corpus_.tokenizer);
    const fs::path root = out_ / "models" / ("E" + std::to_string(experts));
    std::vector<Entry> entries;
    const auto make = [&](const std::string& name, const ModelSettings& model, std::vector<std::int64_t> hidden) {
      const fs::path at = root / name;
      entries.push_back({name, experts, at});
      ModelFile file{model, tokenizer.size(), corpus_.languages, task_names(corpus_.languages, model.task)};
      file.decoder_hidden = std::move(hidden);
      if (fs::exists(at / "config.json") && moe::to_json(read_model_file(at)) == moe::to_json(file)) return;
      fs::remove_all(at);
      fs::create_directories(root);
      TranslatorRequest request;
      request.file = file;
      request.seed = s_.seed;
      request.threads = s_.threads;
      moe::AtomicDirectory directory(at);
      make_translator(request)->save(directory.path(), false);
      moe::atomic_write(directory.path() / "config.json", moe::to_json(file).dump(2) + "\n");
      moe::atomic_write(directory.path() / "spm.model", moe::read_file(corpus_.tokenizer));
      moe::write_manifest(directory.path(), moe::Json::object());
      directory.commit(moe::Existing::replace);
    };
    ModelSettings m = s_.model;
    m.stack.moe.experts = experts;
    m.decoder_router = kTokenModel;
    make(kTokenModel, m, {});
    m.decoder_router = kTaskModel;
    make(kTaskModel, m, {});
    const ModelFile file = read_model_file(root / kTaskModel);
    for (const bool fold : {false, true}) {
      ExtractOptions x;
      x.model = (root / kTaskModel).string(), x.out = (root / (fold ? "folded" : "extracted")).string();
      x.tasks = {task_name(file)};
      x.dense = fold, x.quiet = true, x.threads = s_.threads;
      fs::remove_all(x.out);
      extract(x);
      entries.push_back({fold ? "folded" : "extracted", experts, x.out});
    }
    const ModelFile folded = read_model_file(root / "folded");
    m = folded.model;

    make(kDenseModel, m, folded.stack("decoder").hidden);
    return entries;
  }

  std::string target(const ModelFile& file) const {
    return s_.to.empty() ? file.languages.at(1) : require_language(file, s_.to, "--to");
  }
  std::string task_name(const ModelFile& file) const {
    return file.model.task == "pair" ? file.languages.at(0) + "-" + target(file) : target(file);
  }

  struct Loaded {
    Entry entry;
    LoadedModel model;
    std::int32_t task = 0;
    EncodedDirection rows;
    std::vector<double> seconds;
  };

  /// `batch` sentences of the split, from the start again where it has fewer; targets run on into the next row's until
  /// each has new_tokens.
  HostBatch batch_of(const Loaded& l, std::int64_t batch) const {
    const auto n = l.rows.source.size();
    std::vector<Ids> targets(static_cast<std::size_t>(batch));
    std::vector<const Ids*> sources, wanted;
    for (std::size_t r = 0; r < targets.size(); ++r) {
      Ids& t = targets[r];
      for (std::size_t i = r; static_cast<std::int64_t>(t.size()) + 1 < s_.new_tokens; ++i) {
        const Ids& more = l.rows.target[i % n];
        t.insert(t.end(), more.begin(), more.end());
        if (more.empty()) t.push_back(Tokenizer::end);
      }
      t.resize(static_cast<std::size_t>(s_.new_tokens - 1));
      sources.push_back(&l.rows.source[r % n]);
      wanted.push_back(&t);
    }
    HostBatch b;
    make_batch(sources, wanted, std::vector<std::int32_t>(sources.size(), l.task), b);
    return b;
  }

  void time(const std::vector<Entry>& entries) {
    std::vector<Loaded> all;
    for (const auto& entry : entries) {
      Loaded l{entry, load_model(entry.path, s_.threads), 0, {}, {}};
      load_corpus_once(l.model.file.languages);
      task_name(l.model.file);
      const Direction d{l.model.file.languages.at(0), target(l.model.file)};
      l.task = l.model.file.task_of(d.source, d.target);
      l.rows = encode_direction(corpus_.split(s_.split), d, l.task, *l.model.tokenizer, s_.kinds, s_.source_tokens,
                                false, 0);
      moe::require(!l.rows.source.empty(), s_.corpus, ": split '", s_.split, "' has no pair of kinds '", s_.kinds,
                   "' from ", d.source, " to ", d.target);
      all.push_back(std::move(l));
    }
    for (const auto batch : s_.batches) {
      std::vector<HostBatch> batches;
      for (auto& l : all) {
        batches.push_back(batch_of(l, batch));
        l.seconds.clear();
        l.model.translator->replay(batches.back(), nullptr);  // memory is taken here
      }
      for (std::int64_t round = 0; round < s_.rounds; ++round)
        for (std::size_t i = 0; i < all.size(); ++i) {
          const double start = seconds_now();
          all[i].model.translator->replay(batches[i], nullptr);
          all[i].seconds.push_back(seconds_now() - start);
        }
      for (std::size_t i = 0; i < all.size(); ++i) results_.push_back(result(all[i], batches[i]));
      std::fprintf(stderr, "experts %lld, batch %lld:", static_cast<long long>(all[0].entry.experts),
                   static_cast<long long>(batch));
      for (std::size_t i = results_.size() - all.size(); i < results_.size(); ++i)
        std::fprintf(stderr, " %s %.0f", moe::printable(results_[i].model).c_str(), results_[i].tokens_per_second);
      std::fprintf(stderr, " tokens/s\n");
    }
  }

  BenchmarkResult result(Loaded& l, const HostBatch& batch) {
    BenchmarkResult r;
    r.model = l.entry.name, r.experts = l.entry.experts, r.batch = batch.rows;
    std::nth_element(l.seconds.begin(), l.seconds.begin() + static_cast<std::ptrdiff_t>(l.seconds.size() / 2),
                     l.seconds.end());
    r.seconds = l.seconds[l.seconds.size() / 2];
    r.tokens_per_second = static_cast<double>(batch.rows * batch.target_length) / r.seconds;
    std::vector<std::vector<NamedStatistics>> steps;
    l.model.translator->replay(batch, &steps);
    r.limit_seconds = limit(l.model.file, batch, steps, r);
    return r;
  }

  /// The least time for a batch: each kind of weights is read once a step at the bandwidth of a buffer as large as all
  /// that the step reads, or multiplied at the rate of large products, whichever takes longer; kept keys and values are
  /// read. Norms, softmax, embeddings, routing and everything the host does count as nothing.
  double limit(const ModelFile& file, const HostBatch& batch, const std::vector<std::vector<NamedStatistics>>& steps,
               BenchmarkResult& r) {
    const bool wide = file.model.precision == "fp32";
    const double size = wide ? 4 : 2, d = static_cast<double>(file.model.stack.width);
    const double b = static_cast<double>(batch.rows), ls = static_cast<double>(batch.source_length);
    double& rate = rates_[{wide, file.model.stack.width, file.model.stack.hidden}];
    if (rate == 0)
      rate = wide ? limits_.product_rate<moe::Fp32>(file.model.stack.width, file.model.stack.hidden)
                  : limits_.product_rate<moe::Bf16>(file.model.stack.width, file.model.stack.hidden);
    const auto product = [&](double parameters, double rows) { return Work{parameters * size, 2 * parameters * rows}; };
    const StackSettings encoder = file.stack("encoder"), decoder = file.stack("decoder");
    const auto chosen = [](const StackSettings& s) { return static_cast<double>(s.traits().choices); };

    double dense = 0, first = 0;  // parameters of the encoder, without and with experts; of the projected memory
    Work experts;
    for (std::size_t l = 0; l < encoder.experts.size(); ++l) {
      const double expert = 2 * d * static_cast<double>(encoder.hidden[l]), n = static_cast<double>(encoder.experts[l]);
      dense += 4 * d * d + (n > 0 ? 0 : expert);
      if (n == 0) continue;
      if (encoder.traits().feed == moe::Feed::soft) {  // every expert computes its slots of every sentence
        experts.bytes += n * expert * size, experts.flops += 2 * n * encoder.traits().slots * expert * b;
        continue;
      }
      const double k = std::min(n, chosen(encoder));
      experts.bytes += std::min(n, k * b * ls) * expert * size, experts.flops += 2 * k * expert * b * ls;
    }
    first = 2 * d * d * static_cast<double>(decoder.layers);
    const Work start = product(dense + first, b * ls);
    const double start_bandwidth = limits_.read_bandwidth(start.bytes + experts.bytes);
    double seconds = start.seconds(start_bandwidth, rate) + experts.seconds(start_bandwidth, rate);

    double step = static_cast<double>(file.vocabulary) * d;  // parameters every step reads
    std::map<std::int64_t, double> expert_of;                // by layer
    for (std::size_t l = 0; l < decoder.experts.size(); ++l) {
      const double expert = 2 * d * static_cast<double>(decoder.hidden[l]);
      step += 6 * d * d + (decoder.experts[l] > 0 ? 0 : expert);
      if (decoder.experts[l] > 0) expert_of[static_cast<std::int64_t>(l)] = expert;
    }
    double layers_seen = 0;
    for (std::size_t t = 0; t < steps.size(); ++t) {
      Work routed;
      for (const auto& s : steps[t]) {
        double touched = 0, rows = 0;
        for (const auto n : s.layer.routing.load) touched += n > 0 ? 1 : 0, rows += static_cast<double>(n);
        const double expert = expert_of.at(s.layer.layer);
        routed.bytes += touched * expert * size, routed.flops += 2 * rows * expert;
        r.experts_touched += touched, layers_seen += 1;
      }
      r.expert_bytes += routed.bytes / static_cast<double>(steps.size());
      const Work fixed = product(step, b);
      const double kept = b * (ls + static_cast<double>(t + 1)) * 2 * d * size * static_cast<double>(decoder.layers);
      const double bandwidth = limits_.read_bandwidth(fixed.bytes + routed.bytes + kept);
      seconds += fixed.seconds(bandwidth, rate) + routed.seconds(bandwidth, rate) + kept / bandwidth;
    }
    if (layers_seen > 0) r.experts_touched /= layers_seen;
    return seconds;
  }

  const BenchmarkResult* find(const std::string& model, std::int64_t experts, std::int64_t batch) const {
    for (const auto& r : results_)
      if (r.model == model && r.experts == experts && r.batch == batch) return &r;
    return nullptr;
  }
  /// The model others are compared with: token routing, or the first that was named.
  std::string reference() const { return s_.models.empty() ? kTokenModel : s_.models.front(); }

  void write() const {
    moe::Json list = moe::Json::array();
    std::set<std::int64_t> groups;
    for (const auto& r : results_) {
      groups.insert(r.experts);
      const BenchmarkResult& base = *find(reference(), r.experts, r.batch);
      list.push_back({{"model", r.model},
                      {"experts", r.experts},
                      {"batch", r.batch},
                      {"tokens_per_second", r.tokens_per_second},
                      {"experts_touched", r.experts_touched},
                      {"expert_bytes_a_step", r.expert_bytes},
                      {"share_of_limit", r.limit_seconds / r.seconds},
                      {"speed_of_reference", base.seconds / r.seconds},
                      {"speed_of_reference_at_the_limits", base.limit_seconds / r.limit_seconds}});
    }
    moe::FileSet files(out_);
    files.add("benchmark.json",
              moe::dump_json({{"reference", reference()}, {"results", list}, {"settings", moe::to_json(s_)}}));
    moe::HtmlReport page("Decoding speed", "written by sparsemoe " SPARSEMOE_VERSION);
    page.paragraph(
        "Models decode the same tokens in turn. Limit: every weight that a step needs is read once, at the bandwidth "
        "of a "
        "buffer of that size in this run, or multiplied at the rate of large products, whichever takes longer.");
    std::string markdown;
    for (const auto experts : groups) {
      const std::string title = s_.models.empty() ? std::to_string(experts) + " experts" : "Trained models";
      const moe::Table table = group(experts);
      markdown += "### " + title + "\n\n" + moe::markdown(table) + "\n";
      page.section(title);
      page.table(table);
      page.line_charts(charts(experts));
    }
    files.add("benchmark.md", markdown);
    files.add("benchmark.html", page.text());
    files.commit();
    std::printf("%s", markdown.c_str());
    moe::require_output_written();
  }

  std::vector<std::string> models(std::int64_t experts) const {
    std::vector<std::string> names;
    for (const auto& r : results_)
      if (r.experts == experts && std::find(names.begin(), names.end(), r.model) == names.end())
        names.push_back(r.model);
    return names;
  }

  moe::Table group(std::int64_t experts) const {
    const auto names = models(experts);
    const auto number = [](double v, int digits) { return moe::detail::fixed(v, digits); };
    moe::Table table;
    table.columns = {"batch"};
    for (const auto& n : names) table.columns.push_back(n + ", tokens/s");
    table.columns.push_back("expert MB a step: " + names[0]);
    for (std::size_t i = 1; i < names.size(); ++i) {
      if (names[i] == kDenseModel) continue;
      table.columns.push_back(names[i] + " : " + names[0] + ", measured / at the limits");
    }
    table.columns.push_back(names[0] + ", share of its limit");
    const bool served = find("extracted", experts, s_.batches[0]) != nullptr;
    if (served) table.columns.push_back("extracted : dense"), table.columns.push_back("folded : dense");
    for (const auto batch : s_.batches) {
      const BenchmarkResult& base = *find(names[0], experts, batch);
      std::vector<std::string> row = {std::to_string(batch)};
      for (const auto& n : names) row.push_back(number(find(n, experts, batch)->tokens_per_second, 0));
      row.push_back(number(base.expert_bytes / 1e6, 1));
      for (std::size_t i = 1; i < names.size(); ++i) {
        if (names[i] == kDenseModel) continue;
        const BenchmarkResult& r = *find(names[i], experts, batch);
        row.push_back(number(base.seconds / r.seconds, 2) + " / " + number(base.limit_seconds / r.limit_seconds, 2));
      }
      row.push_back(number(100 * base.limit_seconds / base.seconds, 0) + " %");
      if (served) {
        const double dense = find(kDenseModel, experts, batch)->seconds;
        row.push_back(number(dense / find("extracted", experts, batch)->seconds, 2));
        row.push_back(number(dense / find("folded", experts, batch)->seconds, 2));
      }
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  std::vector<moe::LineChart> charts(std::int64_t experts) const {
    moe::LineChart speed, ratio;
    speed.title = "Tokens a second", ratio.title = "Speed of the reference, measured and at the limits";
    speed.x_label = ratio.x_label = "log2 of the batch";
    for (const auto& n : models(experts)) {
      moe::Series measured{n, {}, {}}, times{n, {}, {}}, limit{n + ", limit", {}, {}};
      for (const auto batch : s_.batches) {
        const BenchmarkResult &r = *find(n, experts, batch), &base = *find(reference(), experts, batch);
        const double x = std::log2(static_cast<double>(batch));
        measured.x.push_back(x), measured.y.push_back(r.tokens_per_second);
        times.x.push_back(x), times.y.push_back(base.seconds / r.seconds);
        limit.x.push_back(x), limit.y.push_back(base.limit_seconds / r.limit_seconds);
      }
      speed.series.push_back(measured);
      if (n != kTaskModel && !(n != reference() && !s_.models.empty())) continue;
      ratio.series.push_back(times), ratio.series.push_back(limit);
    }
    return {speed, ratio};
  }

  BenchmarkSettings s_;
  fs::path out_;
  MachineLimits limits_;
  Corpus corpus_;
  std::vector<BenchmarkResult> results_;
  std::map<std::tuple<bool, std::int64_t, std::int64_t>, double> rates_;
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// extract_command.hpp -- the command `extract`: from a trained model the sub-network of some tasks, as a checkpoint of
// its own, with a table of what it saves; on request token-routed layers lose the experts that the tasks hardly use.
// Works on the files, a leaf at a time, so that the large model is never built. Read next: sparsemoe/model/extract.hpp.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "extract.hpp"
#include "run_files.hpp"
#include "scoring.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/io/weights.hpp"
#include "sparsemoe/model/extract_weights.hpp"
#include "sparsemoe/text/language.hpp"

namespace nmt {

/// The leaves of model.safetensors, read piece by piece.
class WeightsFile {
 public:
  /// `list` are the model's leaves: what the file's tensors are is asked of them.
  WeightsFile(const fs::path& path, const std::vector<moe::ParamInfo>& list) : reader_(path) {
    std::map<std::string, const moe::ParamInfo*> of_model;
    for (const auto& p : list) of_model[p.name] = &p;
    for (const auto& info : reader_.tensors()) {
      if (info.dtype == moe::DType::kI32 && info.shape.size() == 1) {
        auto& table = tables[info.name];
        table.resize(static_cast<std::size_t>(info.shape[0]));
        reader_.read(info, table.data());
        continue;
      }
      const auto rank = info.shape.size();
      const bool known = info.dtype == moe::DType::kF32 || info.dtype == moe::DType::kBF16;
      if (!known || rank < 1 || rank > 3)
        moe::fail_file(path, "tensor '", info.name,
                       "' is not a parameter: expected F32 or BF16 in one to three dimensions");
      const auto extent = [&](std::size_t from_last) { return rank >= from_last ? info.shape[rank - from_last] : 1; };
      const auto found = of_model.find(info.name);
      if (found == of_model.end())
        moe::fail_file(path, "tensor '", info.name, "' is not a parameter of the model that config.json describes");
      leaves.push_back(*found->second);
      leaves.back().offset = 0;
      leaves.back().shape = {nullptr, extent(3), extent(2), extent(1), static_cast<int>(rank)};
    }
  }
  /// Elements [first, first + count) of a leaf.
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* to) const {
    const moe::TensorInfo& info = reader_.at(name);
    moe::require(first >= 0 && count >= 0 && static_cast<std::uint64_t>(first + count) <= info.elements(),
                 reader_.path().string(), ": tensor '", name, "' has ", info.elements(),
                 " elements, expected at least ", first + count);
    moe::read_values(reader_, info, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(count), to);
  }

  std::vector<moe::ParamInfo> leaves;  // by name
  moe::Tables tables;

 private:
  moe::SafetensorsReader reader_;
};

/// For sentences about a model: "token in the encoder and task in the decoder".
inline std::string routers_of(const ModelFile& file) {
  return file.model.encoder_router + " in the encoder and " + file.model.decoder_router + " in the decoder";
}

inline moe::InStack stack_of(const std::string& name) {
  return name == "encoder" ? moe::InStack::encoder : moe::InStack::decoder;
}

inline const char* name_of(moe::InStack stack) { return stack == moe::InStack::encoder ? "encoder" : "decoder"; }

/// What plan_stack asks of a stack: layers, widths, experts and tasks.
inline moe::StackConfig sizes_of(const StackSettings& s, const ModelFile& file) {
  moe::StackConfig c;
  c.layers = s.layers, c.width = file.model.stack.width, c.hidden = file.model.stack.hidden;
  c.experts_of_layer = s.experts, c.hidden_of_layer = s.hidden;
  c.moe.experts = file.model.stack.moe.experts;
  c.moe.tasks = static_cast<moe::index_t>(file.tasks.size());
  return c;
}
inline bool has_sparse_layer(const StackSettings& s) {
  return std::any_of(s.experts.begin(), s.experts.end(), [](auto n) { return n > 0; });
}

/// The task that a name means: its own, or that of the same language or pair of languages by other codes; or end().
inline std::vector<std::string>::const_iterator find_task(const ModelFile& file, const std::string& name) {
  const auto& tasks = file.tasks;
  if (const auto it = std::find(tasks.begin(), tasks.end(), name); it != tasks.end()) return it;
  if (file.model.task != "pair") return std::find(tasks.begin(), tasks.end(), moe::find_language(name, tasks));
  return std::find_if(tasks.begin(), tasks.end(), [&](const std::string& task) {
    for (std::size_t at = name.find('-'); at != std::string::npos; at = name.find('-', at + 1))
      for (std::size_t of = task.find('-'); of != std::string::npos; of = task.find('-', of + 1))
        if (moe::same_language(name.substr(0, at), task.substr(0, of)) &&
            moe::same_language(name.substr(at + 1), task.substr(of + 1)))
          return true;
    return false;
  });
}

/// Numbers of the named tasks. Throws Error for a name that the model does not know, or that comes twice.
inline std::vector<moe::index_t> task_numbers(const ModelFile& file, const std::vector<std::string>& names) {
  std::vector<moe::index_t> numbers;
  std::string all;
  for (const auto& t : file.tasks) all += (all.empty() ? "" : ", ") + t;
  for (const auto& name : names) {
    const auto it = find_task(file, name);
    moe::require(it != file.tasks.end(), "--task: the model has no task '", name, "'; it knows ", all);
    const auto number = static_cast<moe::index_t>(it - file.tasks.begin());
    moe::require(std::find(numbers.begin(), numbers.end(), number) == numbers.end(), "--task: '", name,
                 "' is named twice");
    numbers.push_back(number);
  }
  return numbers;
}

/// How many experts of a layer --prune-by-usage keeps.
struct PruneRule {
  double share = 0;  // of the choices that the kept experts must have had; or
  std::int64_t count = 0;

  /// "4" is a number of experts, "0.95" a share of the choices. Throws Error for anything else.
  static PruneRule of(const std::string& text) {
    PruneRule rule;
    const char* end = text.data() + text.size();
    const bool share = text.find('.') != std::string::npos;
    const auto read =
        share ? std::from_chars(text.data(), end, rule.share) : std::from_chars(text.data(), end, rule.count);
    const bool sound =
        read.ec == std::errc() && read.ptr == end && (share ? rule.share > 0 && rule.share <= 1 : rule.count >= 1);
    moe::require(sound, "--prune-by-usage: expected a number of experts (4) or a share of the choices (0.95), not '",
                 text, "'");
    return rule;
  }
  /// The experts that stay, ascending: the most used, at least `least` of them; ties go to the lower number.
  std::vector<moe::index_t> keep(const std::vector<std::int64_t>& usage, std::int64_t least) const {
    std::vector<moe::index_t> order(usage.size());
    for (std::size_t e = 0; e < order.size(); ++e) order[e] = static_cast<moe::index_t>(e);
    const auto used = [&](moe::index_t e) { return usage[static_cast<std::size_t>(e)]; };
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return used(a) > used(b); });
    double all = 0, kept = 0;
    for (const auto n : usage) all += static_cast<double>(n);
    std::int64_t n = 0;
    for (; n < static_cast<std::int64_t>(order.size()); ++n) {
      if (n >= least && (count > 0 ? n >= count : kept >= share * all)) break;
      kept += static_cast<double>(used(order[static_cast<std::size_t>(n)]));
    }
    order.resize(static_cast<std::size_t>(n));
    std::sort(order.begin(), order.end());
    return order;
  }
};

/// Loss and scores of a model on the directions of its tasks, and which experts they used.
struct Measured {
  double loss = 0, bleu = 0, chrf = 0;  // cross entropy a token in nats; means over the directions
  std::int64_t directions = 0, rows = 0;
  std::map<std::pair<std::string, moe::index_t>, std::vector<std::int64_t>> usage;  // (stack, layer): choices by expert
};
/// `tasks` by name: the directions of other tasks are left out. Throws Error if the split has no pair for them.
inline Measured measure(LoadedModel& model, const Corpus& corpus, const ExtractOptions& o, const std::string& kinds,
                        std::int64_t max_length) {
  Measured m;
  const auto& split = corpus.split(o.split);
  moe::LossSums sums;
  HostBatch batch;
  for (const auto& d : directions_of(model.file.languages, "both")) {
    const std::string name = model.file.model.task == "pair" ? d.name() : d.target;
    if (std::find(o.tasks.begin(), o.tasks.end(), name) == o.tasks.end()) continue;
    const auto rows = encode_direction(split, d, model.file.task_of(d.source, d.target), *model.tokenizer, kinds,
                                       max_length, true, o.rows);
    if (rows.source.empty()) continue;
    for (std::size_t at = 0; at < rows.source.size(); at += 32) {
      std::vector<const Ids*> sources, targets;
      for (std::size_t i = at; i < std::min(at + 32, rows.source.size()); ++i)
        sources.push_back(&rows.source[i]), targets.push_back(&rows.target[i]);
      make_batch(sources, targets, std::vector<std::int32_t>(sources.size(), rows.task), batch);
      sums += model.translator->loss(batch, 0, 0, 0);
      for (const auto& s : model.translator->statistics()) {
        auto& counts = m.usage[{s.stack, s.layer.layer}];
        counts.resize(s.layer.routing.load.size());
        for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += s.layer.routing.load[e];
      }
    }
    const auto score =
        score_direction(*model.translator, model.file, *model.tokenizer, split, d, kinds, max_length, o.rows);
    m.bleu += score.bleu, m.chrf += score.chrf;
    m.rows += static_cast<std::int64_t>(score.segments);
    ++m.directions;
  }
  moe::require(m.directions > 0, o.corpus, ": split '", o.split, "' has no pair of kinds '", kinds, "' for the tasks");
  m.bleu /= static_cast<double>(m.directions), m.chrf /= static_cast<double>(m.directions);
  m.loss = sums.nll / sums.tokens;
  return m;
}

/// The command. One object an extraction: what is planned, and then written.
class Extraction {
 public:
  explicit Extraction(const ExtractOptions& options) : o_(options), out_(options.out) {
    if (!out_.has_filename()) out_ = out_.parent_path();
    check_out();
    moe::require(!o_.dense || o_.tasks.size() == 1, "--dense folds the experts of one task; got ", o_.tasks.size(),
                 " tasks");
    const bool prune = !o_.prune.empty();
    moe::require(!prune || !o_.corpus.empty(),
                 "--prune-by-usage: give --corpus DIR, on which the use of experts is measured");
    if (prune) rule_ = PruneRule::of(o_.prune);
    directory_ = model_directory(o_.model);
    file_ = small_ = read_model_file(directory_);
    numbers_ = task_numbers(file_, o_.tasks);
    for (std::size_t i = 0; i < numbers_.size(); ++i) o_.tasks[i] = file_.tasks[static_cast<std::size_t>(numbers_[i])];
    const auto exact = [&](const char* stack) {
      const StackSettings s = file_.stack(stack);
      return s.traits().by_task && has_sparse_layer(s);
    };
    const bool sparse = has_sparse_layer(file_.stack("encoder")) || has_sparse_layer(file_.stack("decoder"));
    moe::require(sparse, o_.model, ": has no sparse layer, so no expert can be left out");
    moe::require(prune || exact("encoder") || exact("decoder"), o_.model,
                 ": no sparse layer is routed by task, so no task has a sub-network: the model has ", routers_of(file_),
                 " routing; --prune-by-usage removes little-used experts of token routing");
    moe::require(!o_.dense || exact("encoder") || exact("decoder"), o_.model,
                 ": --dense folds experts that are chosen by task; the model has ", routers_of(file_), " routing");
  }

  int run() {
    const WeightsFile weights(directory_ / "model.safetensors", model_leaves(file_));
    if (!o_.prune.empty()) measure_before();
    plan("encoder", weights);
    plan("decoder", weights);
    small_.tasks = o_.tasks;
    small_.check();
    leaves_ = moe::extracted_leaves(weights.leaves, plans_);
    count(weights.leaves);
    write(weights);
    if (!o_.quiet) print();
    return 0;
  }

 private:
  void check_out() const {
    moe::require(!o_.out.empty(), "extract: give --out DIR, the directory of the sub-network");
    if (!fs::exists(fs::symlink_status(out_))) return;
    moe::require(fs::is_directory(out_), out_.string(),
                 ": is not a directory; --out names the directory of the sub-network");
    moe::require(fs::is_empty(out_), out_.string(), ": is not empty; choose another --out");
  }

  void measure_before() {
    TrainSettings trained;
    if (const auto saved = fs::path(o_.model) / "settings.json"; fs::exists(saved)) moe::load_config(saved, trained);
    kinds_ = o_.kinds.empty() ? trained.kinds : o_.kinds;
    max_length_ = o_.max_length == 0 ? scoring_length(trained.max_length) : o_.max_length;
    corpus_ = load_corpus(o_.corpus, file_.languages);
    auto model = load_model(directory_, o_.threads);
    before_ = measure(model, corpus_, o_, kinds_, max_length_);
  }

  /// Plans one stack: by task, pruned, or left alone.
  void plan(const std::string& name, const WeightsFile& weights) {
    const StackSettings s = file_.stack(name);
    const moe::StackConfig config = sizes_of(s, file_);
    const moe::InStack stack = stack_of(name);
    const auto read = [&](moe::index_t layer, moe::index_t n, float* to) {
      for (const auto& leaf : weights.leaves)
        if (leaf.role == moe::Role::gate && leaf.stack == stack && leaf.layer == layer)
          return weights.read(leaf.name, 0, n, to);
      moe::fail("extract: ", (directory_ / "model.safetensors").string(), " has no table of layer ", layer, " of the ",
                name);
    };
    const moe::Fold fold = o_.dense ? moe::Fold::yes : moe::Fold::no;
    std::string& router = name == "encoder" ? small_.model.encoder_router : small_.model.decoder_router;
    auto& experts = name == "encoder" ? small_.encoder_experts : small_.decoder_experts;
    auto& hidden = name == "encoder" ? small_.encoder_hidden : small_.decoder_hidden;
    moe::StackPlan plan;
    if (!has_sparse_layer(s)) {
      done_[name] = (s.traits().dense() ? s.router : "no sparse layer") + ", left as it is";
      return;
    }
    if (s.traits().by_task) {
      plan = moe::with_router(s.router, [&]<class R>(R) -> moe::StackPlan {
        if constexpr (moe::routed_by_task<R>) return moe::plan_stack<R, float>(stack, config, numbers_, fold, read);
        return {};
      });
    } else if (!o_.prune.empty() && s.traits().gated) {
      plan = prune_plan(s);
    } else {
      done_[name] = s.router + " routing, left as it is";
      return;
    }
    if (plan.routing == moe::SubRouting::table) router = moe::router_name<moe::Task>();
    if (plan.routing == moe::SubRouting::folded) router = moe::router_name<moe::Dense>();
    const moe::StackConfig after = moe::extracted_config(config, plan, static_cast<moe::index_t>(o_.tasks.size()));
    experts = after.experts_of_layer, hidden = after.hidden_of_layer;
    if (moe::named_router(router).dense()) experts.clear();
    const auto usual = [&](auto h) { return h == file_.model.stack.hidden; };
    if (std::all_of(hidden.begin(), hidden.end(), usual)) hidden.clear();
    const char* what = plan.routing == moe::SubRouting::folded ? "folded into dense layers"
                       : plan.routing == moe::SubRouting::gate ? "pruned by usage"
                                                               : "exact";
    done_[name] = s.router + " routing, " + what;
    plans_.push_back(std::move(plan));
  }
  moe::StackPlan prune_plan(const StackSettings& s) {
    moe::StackPlan plan{stack_of(s.name), moe::SubRouting::gate, 0, {}};
    for (std::size_t l = 0; l < s.experts.size(); ++l) {
      if (s.experts[l] == 0) continue;
      const auto& usage = before_.usage[{s.name, static_cast<moe::index_t>(l)}];
      moe::require(static_cast<std::int64_t>(usage.size()) == s.experts[l],
                   "extract: no use of experts was measured in layer ", l, " of the ", s.name);
      moe::LayerPlan layer{
          static_cast<moe::index_t>(l), s.experts[l], rule_.keep(usage, s.traits().choices), {}, {}, {}};
      double all = 0, kept = 0;
      for (const auto n : usage) all += static_cast<double>(n);
      for (const auto e : layer.kept) kept += static_cast<double>(usage[static_cast<std::size_t>(e)]);
      moved_.push_back(
          {{"stack", s.name}, {"layer", l}, {"experts", layer.kept.size()}, {"moved", all > 0 ? 1 - kept / all : 0}});
      plan.layers.push_back(std::move(layer));
    }
    return plan;
  }

  struct Part {
    std::int64_t parameters = 0, bytes = 0, experts = 0;  // bytes as they are served; parameters of experts
  };
  void count(const std::vector<moe::ParamInfo>& before) {
    const std::int64_t narrow = file_.model.precision == "bf16" ? 2 : 4;
    const auto add = [&](std::map<std::string, Part>& parts, const moe::ExtractedLeaf& leaf) {
      const std::string stack = leaf.info.stack == moe::InStack::encoder   ? "encoder"
                                : leaf.info.stack == moe::InStack::decoder ? "decoder"
                                                                           : "embedding";
      const std::int64_t n = leaf.info.shape.size();
      for (Part* p : {&parts[stack], &parts["total"]}) {
        p->parameters += n;
        p->bytes += n * (leaf.info.init.wide ? 4 : narrow);
        p->experts += leaf.of_experts() ? n : 0;
      }
    };
    for (const auto& leaf : moe::extracted_leaves(before, {})) add(parts_before_, leaf);
    for (const auto& leaf : leaves_) add(parts_after_, leaf);
  }

  void write(const WeightsFile& weights) {
    std::vector<std::vector<float>> data;
    std::vector<moe::TensorView> views;
    for (const auto& leaf : leaves_) {
      auto& values = data.emplace_back(static_cast<std::size_t>(leaf.info.shape.size()));
      moe::extract_leaf<float>(
          leaf,
          [&](const moe::ParamInfo& p, moe::index_t first, moe::index_t n, float* to) {
            weights.read(p.name, first, n, to);
          },
          values.data());
      views.push_back({leaf.info.name, moe::DType::kF32, moe::file_shape(leaf.info.shape), values.data()});
    }
    for (const auto& [name, table] : weights.tables)
      views.push_back({name, moe::DType::kI32, {static_cast<std::int64_t>(table.size())}, table.data()});
    std::error_code problem;
    if (out_.has_parent_path()) fs::create_directories(out_.parent_path(), problem);
    moe::require(!problem, out_.string(), ": cannot create the directory above it: ", problem.message());
    moe::AtomicDirectory directory(out_);
    const fs::path& at = directory.path();
    moe::write_safetensors(at / "model.safetensors", views, {{"format", "sparsemoe"}});
    moe::atomic_write(at / "config.json", moe::to_json(small_).dump(2) + "\n");
    moe::atomic_write(at / "spm.model", moe::read_file(directory_ / "spm.model"));
    data.clear();
    auto model = load_model(at, o_.threads);  // also the check that every leaf is there and fits
    if (!o_.prune.empty()) after_ = measure(model, corpus_, o_, kinds_, max_length_);
    report_ = report();
    moe::atomic_write(at / "extraction.json", report_.dump(2) + "\n");
    moe::write_manifest(at, {{"tasks", o_.tasks}});
    ::rmdir(out_.c_str());  // an empty directory of that name; one that is no longer empty stays, and commit refuses
    directory.commit();
  }

  moe::Json report() const {
    moe::Json stacks = moe::Json::object(), layers = moe::Json::array();
    for (const char* name : {"embedding", "encoder", "decoder", "total"}) {
      const Part b = parts_before_.count(name) != 0 ? parts_before_.at(name) : Part{},
                 a = parts_after_.count(name) != 0 ? parts_after_.at(name) : Part{};
      stacks[name] = {{"parameters", {b.parameters, a.parameters}},
                      {"bytes", {b.bytes, a.bytes}},
                      {"expert_parameters", {b.experts, a.experts}}};
      if (done_.count(name) != 0) stacks[name]["what"] = done_.at(name);
    }
    for (const auto& plan : plans_)
      for (const auto& l : plan.layers) {
        moe::Json layer = {
            {"stack", name_of(plan.stack)}, {"layer", l.layer}, {"experts", l.experts}, {"kept", l.kept}};
        if (!l.weight.empty()) {
          moe::Json tasks = moe::Json::object();
          const auto k = static_cast<std::size_t>(plan.choices);
          for (std::size_t t = 0; t < o_.tasks.size(); ++t) {
            moe::Json experts = moe::Json::array();
            for (std::size_t i = t * k; i < (t + 1) * k; ++i)
              experts.push_back({{"expert", l.kept[static_cast<std::size_t>(l.chosen[i])]}, {"weight", l.weight[i]}});
            tasks[o_.tasks[t]] = experts;
          }
          layer["tasks"] = tasks;
        }
        layers.push_back(layer);
      }
    moe::Json all = {{"tasks", o_.tasks},
                     {"dense", o_.dense},
                     {"precision", file_.model.precision},
                     {"stacks", stacks},
                     {"layers", layers}};
    if (!o_.prune.empty()) {
      const auto score = [](const Measured& m) {
        return moe::Json{
            {"loss", m.loss}, {"bleu", m.bleu}, {"chrf", m.chrf}, {"directions", m.directions}, {"rows", m.rows}};
      };
      all["pruning"] = {{"rule", o_.prune},
                        {"split", o_.split},
                        {"before", score(before_)},
                        {"after", score(after_)},
                        {"layers", moved_}};
    }
    return all;
  }

  void print() const {
    if (o_.json) {
      std::printf("%s\n", report_.dump(2).c_str());
      return;
    }
    std::printf("%-20s %15s %15s %8s %15s %15s %8s\n", "", "parameters", "extracted", "", "bytes", "extracted", "");
    const auto line = [](const std::string& name, std::int64_t b, std::int64_t a, std::int64_t bytes_b,
                         std::int64_t bytes_a) {
      const auto share = [](std::int64_t x, std::int64_t of) {
        return of > 0 ? 100 * static_cast<double>(x) / static_cast<double>(of) : 100.0;
      };
      std::printf("%-20s %15lld %15lld %6.1f %% %15lld %15lld %6.1f %%\n", name.c_str(), static_cast<long long>(b),
                  static_cast<long long>(a), share(a, b), static_cast<long long>(bytes_b),
                  static_cast<long long>(bytes_a), share(bytes_a, bytes_b));
    };
    const std::int64_t narrow = file_.model.precision == "bf16" ? 2 : 4;
    for (const char* name : {"embedding", "encoder", "decoder", "total"}) {
      const Part b = parts_before_.count(name) != 0 ? parts_before_.at(name) : Part{},
                 a = parts_after_.count(name) != 0 ? parts_after_.at(name) : Part{};
      line(name, b.parameters, a.parameters, b.bytes, a.bytes);
      if (done_.count(name) != 0 && b.experts > 0)
        line("  its experts", b.experts, a.experts, b.experts * narrow, a.experts * narrow);
    }
    for (const char* name : {"encoder", "decoder"}) std::printf("%s: %s\n", name, done_.at(name).c_str());
    for (const auto& l : moved_)
      std::printf("%s layer %d: %d experts left, %.1f %% of the choices go to another expert\n",
                  l["stack"].get<std::string>().c_str(), l["layer"].get<int>(), l["experts"].get<int>(),
                  100 * l["moved"].get<double>());
    if (!o_.prune.empty())
      std::printf("%s, %lld rows: loss %.4f before, %.4f after; BLEU %.1f, %.1f; chrF %.1f, %.1f\n", o_.split.c_str(),
                  static_cast<long long>(before_.rows), before_.loss, after_.loss, before_.bleu, after_.bleu,
                  before_.chrf, after_.chrf);
    moe::require_output_written();
  }

  ExtractOptions o_;
  fs::path out_, directory_;
  PruneRule rule_;
  ModelFile file_, small_;
  std::vector<moe::index_t> numbers_;
  std::vector<moe::StackPlan> plans_;
  std::vector<moe::ExtractedLeaf> leaves_;
  std::map<std::string, std::string> done_;  // what became of a stack
  std::map<std::string, Part> parts_before_, parts_after_;
  Corpus corpus_;
  std::string kinds_;
  std::int64_t max_length_ = 0;
  Measured before_, after_;
  moe::Json moved_ = moe::Json::array(), report_;
};

}  // namespace nmt

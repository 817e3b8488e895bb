// SPDX-License-Identifier: Apache-2.0
// translator_of.hpp -- Translator in one precision: a Seq2Seq over stacks chosen by name, its optimiser, and files.
// Compiled once for each precision (translator_fp32.cpp, translator_bf16.cpp), so that a change elsewhere is cheap.
// Read next: any_stack.hpp.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "any_stack.hpp"
#include "sparsemoe/io/mapped_weights.hpp"
#include "sparsemoe/nn/distill.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/any_optimiser.hpp"
#include "sparsemoe/optim/factored_adam.hpp"
#include "translator.hpp"

namespace nmt {

template <class P>
class TranslatorOf final : public Translator {
  using B = moe::Cpu;
  using S = typename P::storage;
  using Model = moe::Seq2Seq<AnyEncoder<P>, AnyDecoder<P>>;
  using Adam = moe::AdamW<P, B>;
  using Factor = moe::Adafactor<P, B>;
  using FactoredAdam = moe::FactoredAdam<P, B>;
  using Optimiser = moe::AnyOptimiser<Adam, Factor, FactoredAdam>;

 public:
  explicit TranslatorOf(const TranslatorRequest& request)
      : request_(request),
        ctx_(static_cast<int>(request.threads)),
        config_(config_of(request.file, request.experts)),
        model_(ctx_, config_, make_stack<AnyEncoder, P>(request.file.model.encoder_router, config_.encoder),
               make_stack<AnyDecoder, P>(request.file.model.decoder_router, config_.decoder), request.training) {
    model_.weights.initialise(ctx_, request.seed);
    ctx_.random.seed = request.seed;
    updater_.clip_norm = request.clip;
    if (request.training) optimiser_.emplace(ctx_, model_.weights.list(), optimiser_of(request));
  }

  static std::vector<moe::ParamInfo> leaves(const ModelFile& file) {
    const moe::EncoderDecoderConfig config = config_of(file, moe::WeightForm::plain);
    Model model(config, make_stack<AnyEncoder, P>(file.model.encoder_router, config.encoder),
                make_stack<AnyDecoder, P>(file.model.decoder_router, config.decoder));
    return moe::list_weights(model);
  }

  moe::LossSums loss(const HostBatch& b, double gradient_scale, double routing_scale, std::uint64_t stream) override {
    begin_pass(gradient_scale, stream);
    const double scale = updater_.loss_scale();
    const auto sums = model_.loss(ctx_, batch_of(b), comm_, gradient_scale * scale, routing_scale * scale);
    end_pass();
    return sums;
  }
  moe::LossSums distill(const HostBatch& b, double gradient_scale, double routing_scale, std::uint64_t stream,
                        const SoftTarget& soft) override {
    soft.teacher->read(b);
    begin_pass(gradient_scale, stream);
    const double scale = updater_.loss_scale();
    const moe::Distillation<P, B> lesson{model_.loss_config(), soft.share, soft.temperature};
    const auto head = [&](moe::Matrix<S> logits, moe::index_t first) {
      taught_.resize(std::max(taught_.size(), static_cast<std::size_t>(logits.size())));
      soft.teacher->read_logits(first, logits.rows, taught_.data());
      return lesson(ctx_, logits, moe::Matrix<const float>(taught_.data(), logits.rows, logits.cols),
                    b.labels.data() + first, gradient_scale * scale);
    };
    const auto sums = model_.loss(ctx_, batch_of(b), comm_, gradient_scale * scale, routing_scale * scale, head);
    end_pass();
    return sums;
  }
  void read(const HostBatch& b) override {
    ctx_.arena.reset();
    ctx_.training = false;
    const auto batch = batch_of(b);
    read_ = model_.hidden(ctx_, batch.source, batch.target, comm_);
  }
  void read_logits(std::int64_t first, std::int64_t count, float* logits) override {
    typename moe::Arena<typename B::Memory>::Scope scope(ctx_.arena);
    const moe::Matrix<float> wide(logits, count, config_.vocabulary);
    const auto rows = read_.slice_rows(first, count).as_const();
    if constexpr (std::is_same_v<S, float>) {
      model_.output(ctx_, rows, wide);
    } else {
      const auto narrow = ctx_.arena.template matrix<S>(count, config_.vocabulary);
      model_.output(ctx_, rows, narrow);
      B::for_each_row(ctx_, count, WidenRow{narrow.as_const(), wide}, wide.cols);
    }
  }
  const std::vector<NamedStatistics>& statistics() const override { return statistics_; }
  moe::UpdateResult update(double rate, double loss) override {
    const auto result = updater_(ctx_, model_.weights, *optimiser_, rate, comm_, loss);
    ctx_.arena.reset();
    return result;
  }
  std::string probe(const HostBatch& b, std::uint64_t stream) override {
    const auto sums = loss(b, 1 / static_cast<double>(b.label_tokens), 1, stream);
    std::string cause = updater_.probe(ctx_, model_.weights, sums.loss / sums.tokens);
    ctx_.arena.reset();
    return cause;
  }
  std::int64_t step() const override { return updater_.state().step + updater_.state().skipped; }
  std::int64_t skipped() const override { return updater_.state().skipped; }
  moe::SearchResult search(const HostBatch& b, const moe::SearchOptions& options) override {
    moe::SearchOptions own = options;
    own.banned = request_.banned.empty() ? nullptr : request_.banned.data();
    own.bytes = request_.bytes.empty() ? nullptr : request_.bytes.data();
    moe::SearchResult result = moe::search(ctx_, model_, comm_, source(b), own);
    ctx_.arena.reset();
    return result;
  }
  std::int64_t replay(const HostBatch& b, std::vector<std::vector<NamedStatistics>>* steps) override {
    using S = typename P::storage;
    using C = typename P::compute;
    ctx_.training = false;
    const auto rows = static_cast<std::size_t>(b.rows);
    const moe::Tokens from = source(b);
    model_.begin(ctx_, model_.encode(ctx_, from, comm_), b.rows, b.target_length);
    const moe::Matrix<S> logits = ctx_.arena.template matrix<S>(b.rows, model_.config().vocabulary);
    std::vector<std::int32_t> ids(rows), previous(rows, -1), best(rows);
    std::vector<std::uint8_t> valid(rows);
    std::vector<C> values(rows);
    std::int64_t hits = 0;
    for (std::int64_t t = 0; t < b.target_length; ++t) {
      const auto at = [&](std::size_t r) {
        return r * static_cast<std::size_t>(b.target_length) + static_cast<std::size_t>(t);
      };
      for (std::size_t r = 0; r < rows; ++r) ids[r] = b.target[at(r)], valid[r] = b.target_valid[at(r)];
      model_.step(ctx_, {b.rows, 1, ids.data(), valid.data(), b.task.data(), t, previous.data()}, comm_, logits);
      B::for_each_row(ctx_, b.rows, moe::BestRow<S, C>{logits, nullptr, 1, best.data(), values.data()}, logits.cols);
      for (std::size_t r = 0; r < rows; ++r) hits += best[r] == b.labels[at(r)] ? 1 : 0;
      previous = ids;
      if (steps == nullptr) continue;
      auto& now = steps->emplace_back();
      for (auto& s : model_.decoder().statistics(ctx_))
        now.push_back({"decoder", request_.file.model.decoder_router, std::move(s)});
    }
    ctx_.arena.reset();
    return hits;
  }
  void save(const std::filesystem::path& directory, bool training) override {
    moe::save_weights(ctx_, model_.weights, tables_, directory / "model.safetensors", {{"format", "sparsemoe"}});
    if (!training) return;
    moe::save_moments(ctx_, *optimiser_, directory / "trainer.safetensors");
  }
  void load(const std::filesystem::path& directory, bool training) override {
    tables_ = moe::load_weights(ctx_, model_.weights, directory / "model.safetensors");
    if (request_.experts == moe::WeightForm::file) mapped_.emplace(model_, directory / "model.safetensors");
    for (const auto& [name, table] : tables_) check_table(directory / "model.safetensors", name, table);
    for (const auto& [stack, router] :
         {std::pair{"encoder", request_.file.model.encoder_router}, {"decoder", request_.file.model.decoder_router}})
      moe::require(!moe::named_router(router).needs_table || tables_.count(stack + std::string(".hash_table")) != 0,
                   (directory / "model.safetensors").string(), ": tensor '", stack, ".hash_table' is missing");
    use_tables();
    if (!training) return;
    moe::load_moments(ctx_, *optimiser_, directory / "trainer.safetensors");
  }
  void upcycle(const std::filesystem::path& weights) override { moe::load_upcycled(ctx_, model_.weights, weights); }
  std::int64_t load_shared(const std::filesystem::path& weights) override {
    return moe::load_shared_weights(ctx_, model_.weights, weights);
  }
  TrainerNumbers numbers() const override {
    const auto& s = updater_.state();
    return {s.step, s.skipped, s.good, s.loss_scale};
  }
  void set_numbers(const TrainerNumbers& n) override { updater_.state() = {n.step, n.skipped, n.good, n.loss_scale}; }
  void set_hash_tables(const std::vector<std::int32_t>& table) override {
    const auto& m = request_.file.model;
    if (moe::named_router(m.encoder_router).needs_table) tables_["encoder.hash_table"] = table;
    if (moe::named_router(m.decoder_router).needs_table) tables_["decoder.hash_table"] = table;
    use_tables();
  }
  std::int64_t parameters() const override { return model_.weights.count(); }
  moe::ExpertBytes expert_bytes() const override { return moe::expert_bytes(model_.weights); }

 private:
  struct WidenRow {
    moe::Matrix<const S> from;
    moe::Matrix<float> to;
    template <class Team>
    void operator()(Team team, moe::index_t r) const {
      for (moe::index_t j = team.lane(); j < to.cols; j += Team::lanes) to(r, j) = static_cast<float>(from(r, j));
    }
  };
  void begin_pass(double gradient_scale, std::uint64_t stream) {
    ctx_.training = gradient_scale != 0;
    ctx_.random.step = stream;
  }
  void end_pass() {
    statistics_.clear();  // they lie in the arena, which the update and the next batch reuse
    for (auto& s : model_.encoder().statistics(ctx_))
      statistics_.push_back({"encoder", request_.file.model.encoder_router, std::move(s)});
    for (auto& s : model_.decoder().statistics(ctx_))
      statistics_.push_back({"decoder", request_.file.model.decoder_router, std::move(s)});
    ctx_.arena.reset();
  }
  static moe::Seq2SeqBatch batch_of(const HostBatch& b) {
    return {source(b),
            {b.rows, b.target_length, b.target.data(), b.target_valid.data(), b.task.data(), 0, nullptr},
            b.labels.data()};
  }
  static moe::Tokens source(const HostBatch& b) {
    return {b.rows, b.source_length, b.source.data(), b.source_valid.data(), b.task.data(), 0, nullptr};
  }
  static typename Optimiser::Config optimiser_of(const TranslatorRequest& request) {
    const auto with_betas = [&](auto c) -> typename Optimiser::Config {
      c.beta1 = request.beta1, c.beta2 = request.beta2, c.weight_decay = request.weight_decay, c.eps = 1e-9;
      return c;
    };
    if (request.optimiser == OptimiserKind::adamw) return with_betas(typename Adam::Config{});
    if (request.optimiser == OptimiserKind::factored_adam) return with_betas(typename FactoredAdam::Config{});
    typename Factor::Config c;
    c.weight_decay = request.weight_decay;
    return c;
  }
  static moe::EncoderDecoderConfig config_of(const ModelFile& file, moe::WeightForm experts) {
    const ModelSettings& m = file.model;
    moe::EncoderDecoderConfig c;
    c.vocabulary = file.vocabulary;
    c.label_smoothing = m.label_smoothing;
    c.sinusoidal = !m.stack.relative_positions;
    moe::StackConfig s = m.stack;
    s.head_width = s.width / s.heads;
    s.moe.expert_form = experts;
    s.moe.tasks = static_cast<moe::index_t>(file.tasks.size());
    const auto stack = [&](const std::string& name, std::int64_t layers) {
      const moe::NamedRouter& router = moe::named_router(name);
      moe::StackConfig t = s;
      t.layers = layers;
      if (router.feed == moe::Feed::soft) t.moe.jitter = 0;  // the tokens that it scores are those it mixes
      if (!router.can_drop) t.moe.capacity_factor = t.moe.eval_capacity_factor = 0;
      return t;
    };
    c.encoder = stack(m.encoder_router, m.encoder_layers);
    c.decoder = stack(m.decoder_router, m.decoder_layers);
    c.encoder.experts_of_layer = file.encoder_experts, c.encoder.hidden_of_layer = file.encoder_hidden;
    c.decoder.experts_of_layer = file.decoder_experts, c.decoder.hidden_of_layer = file.decoder_hidden;
    return c;
  }
  void check_table(const std::filesystem::path& file, const std::string& name,
                   const std::vector<std::int32_t>& table) const {
    moe::require(static_cast<std::int64_t>(table.size()) == request_.file.vocabulary, file.string(), ": ", name,
                 " has ", table.size(), " entries, expected one for each of ", request_.file.vocabulary, " ids");
    for (const auto e : table)
      moe::require(e >= 0 && e < request_.file.model.stack.moe.experts, file.string(), ": ", name, " names expert ", e,
                   " of ", request_.file.model.stack.moe.experts);
  }
  void use_tables() {
    const auto table = [&](const char* name) { return tables_.count(name) != 0 ? tables_.at(name).data() : nullptr; };
    model_.encoder().set_hash_table(table("encoder.hash_table"));
    model_.decoder().set_hash_table(table("decoder.hash_table"));
  }

  TranslatorRequest request_;
  typename B::Context ctx_;
  moe::EncoderDecoderConfig config_;
  Model model_;
  moe::Solo comm_;
  moe::Updater<P, B> updater_;
  std::optional<Optimiser> optimiser_;
  moe::Tables tables_;
  std::optional<moe::MappedWeights> mapped_;
  std::vector<NamedStatistics> statistics_;
  moe::Matrix<S> read_;        // what read() made, in the arena
  std::vector<float> taught_;  // logits of the teacher
};

}  // namespace nmt

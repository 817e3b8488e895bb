// SPDX-License-Identifier: Apache-2.0
// tools/conformance/mixtral.cpp -- Mixtral checkpoints: forward, routing, losses, backward, generation.
#include "sparsemoe/hf/mixtral.hpp"

#include "model_case.hpp"

namespace conformance {

/// Rows without a token are arbitrary in the reference: they are not compared.
template <class P>
void compare_rows(Run<P>& run, const std::string& name, Values mine, const std::vector<std::uint8_t>& valid) {
  if (!run.c.expects(name)) return;
  const Values theirs = run.c.expected(name);
  require(mine.size() == theirs.size() && mine.size() % valid.size() == 0, name, " has ", mine.size(),
          " values, expected ", theirs.size());
  const std::size_t cols = mine.size() / valid.size();
  for (std::size_t i = 0; i < mine.size(); ++i)
    if (valid[i / cols] == 0) mine[i] = theirs[i];
  run.compare(name, mine);
}

template <class P, class Model>
void mixtral_run(Run<P>& run, Model& model, const hf::NameMap& names) {
  using S = typename P::storage;
  const Case& c = run.c;
  hf::load(run.ctx, model.weights, names, hf::Tensors(c.folder()));
  std::fill_n(model.weights.gradient(), model.weights.total(), 0);
  require(c.option("mode", "eval") == "eval", "option mode: Mixtral's training mode is its evaluation mode here");
  run.ctx.training = false;
  const Text text(c, "in/input_ids", "in/attention_mask");
  std::vector<std::int32_t> labels = c.integers("in/labels");  // row t predicts the label of t + 1
  index_t count = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const bool last = static_cast<index_t>(i + 1) % text.cols == 0;
    labels[i] = last ? -100 : labels[i + 1];
    count += labels[i] >= 0 ? 1 : 0;
  }
  Solo solo;
  Values logits;
  double aux = 0, weighted = 0;
  CrossEntropy<P, Cpu> loss;
  loss.config = model.loss_config();
  const double scale = 1 / static_cast<double>(count);
  const LossSums sums =
      model.loss(run.ctx, {text.tokens(), labels.data()}, solo, scale, 1, [&](Matrix<S> z, index_t first) {
        if (first == 0) {
          for (index_t i = 0; i <= model.config().decoder.layers; ++i)
            compare_rows(run, join("hidden_states.", i), values_of(model.decoder().hidden_state(i)), text.valid);
          model.decoder().visit_sparse([&](index_t l, const auto& moe, const auto& cache) {
            const std::string at = join("router/model.layers.", l, ".block_sparse_moe/");
            const index_t T = cache.scores.rows, E = cache.scores.cols;
            const index_t K = moe.router().chosen, most = moe.top_k();  // a row has room for most
            Values h = values_of(cache.scores.as_const());
            const auto s = moe.statistics(run.ctx, cache);
            aux += s.balance, weighted += moe.weighted_loss(s);
            compare_rows(run, at + "probs", h, text.valid);
            for (index_t i = 0; i < T * E; ++i) {
              double& v = h[static_cast<std::size_t>(i)];
              v = std::log(v) + static_cast<double>(cache.lse[i / E]);
            }
            compare_rows(run, at + "logits", h, text.valid);
            Values weight, index;
            for (index_t t = 0; t < T; ++t) {
              weight.insert(weight.end(), cache.combine + t * most, cache.combine + t * most + K);
              index.insert(index.end(), cache.chosen + t * most, cache.chosen + t * most + K);
            }
            compare_rows(run, at + "topk_weight", weight, text.valid);
            compare_rows(run, at + "topk_index", index, text.valid);
          });
        }
        const Values block = values_of(z.as_const());
        logits.insert(logits.end(), block.begin(), block.end());
        return loss(run.ctx, z, labels.data() + first, scale);
      });
  compare_rows(run, "logits", logits, text.valid);
  const double entropy = sums.loss * scale;
  run.compare("loss/cross_entropy", Values{entropy});
  run.compare("loss/total", Values{entropy + weighted});
  run.compare("loss/aux_loss", Values{aux});
  compare_gradients(run, model.weights, names);
}
template <class P>
void mixtral_model_case(Run<P>& run) {
  const hf::Config config = forward_config(run.c);
  hf::with_mixtral<P, Cpu>(run.ctx, config, true,
                           [&](auto& model, const hf::NameMap& names) { mixtral_run(run, model, names); });
}

/// One run of generate(): the prompts are padded on the left there, on the right here.
template <class P, class Model>
void mixtral_generate(Run<P>& run, Model& model, const hf::NameMap& names, const hf::Config& config,
                      const std::string& name, const json& kwargs) {
  using S = typename P::storage;
  const Case& c = run.c;
  hf::load(run.ctx, model.weights, names, hf::Tensors(c.folder()));
  run.ctx.training = false;
  auto special = hf::SpecialTokens::of(config);
  const Text padded(c, "in/input_ids", "in/attention_mask");
  Text prompts = padded;
  std::vector<index_t> length;
  for (index_t r = 0; r < padded.rows; ++r) {
    index_t n = 0;
    for (index_t i = 0; i < padded.cols; ++i) {
      const auto from = static_cast<std::size_t>(r * padded.cols + i);
      prompts.valid[from] = 0, prompts.ids[from] = 0;
      if (padded.valid[from] == 0) continue;
      const auto to = static_cast<std::size_t>(r * padded.cols + n++);
      prompts.ids[to] = padded.ids[from], prompts.valid[to] = 1;
    }
    length.push_back(n);
  }
  Arguments arguments(kwargs);
  const SearchOptions options = generate_options(special, arguments, padded.cols, model.config().vocabulary);
  (void)arguments.get("use_cache", true);  // the same logits: nothing depends on how many tokens run at once
  arguments.check();
  Solo solo;
  const SearchResult found = search(run.ctx, model, solo, prompts.tokens(), options);
  const index_t cols = c.shape(name + "/sequences")[1];
  std::vector<std::int32_t> sequences;
  std::vector<double> scores;
  for (std::size_t s = 0; s < found.size(); ++s)
    for (const Hypothesis& h : found[s]) {
      const auto first = padded.ids.begin() + static_cast<std::ptrdiff_t>(s) * padded.cols;
      std::vector<std::int32_t> row(first, first + padded.cols);
      row.insert(row.end(), h.tokens.begin(), h.tokens.end());
      if (h.ended) row.push_back(h.end);
      row.resize(static_cast<std::size_t>(cols), special.padding);
      sequences.insert(sequences.end(), row.begin(), row.end());
      scores.push_back(h.score);
    }
  run.compare(name + "/sequences", sequences);
  c.not_offered(name + "/beam_indices");  // which beam a beam came from is not kept
  run.compare(name + "/sequences_scores", scores);
  if (!c.expects(name + "/step_scores")) return;

  // The logits of every step: of the full forward pass over what was found, finished rows going on with padding.
  const index_t steps = c.shape(c.expected_name(name + "/step_scores"))[0], v = model.config().vocabulary;
  std::vector<S> logits(static_cast<std::size_t>(cols * v));
  Values all(static_cast<std::size_t>(steps * padded.rows * v));
  for (index_t r = 0; r < padded.rows; ++r) {
    const index_t n = length[static_cast<std::size_t>(r)] + steps - 1;
    const std::int32_t* ids = sequences.data() + r * cols + padded.cols - length[static_cast<std::size_t>(r)];
    const std::vector<std::uint8_t> valid(static_cast<std::size_t>(n), 1);
    model.logits(run.ctx, {1, n, ids, valid.data(), nullptr, 0, nullptr}, solo, {logits.data(), n, v});
    for (index_t s = 0; s < steps; ++s)
      for (index_t j = 0; j < v; ++j)
        all[static_cast<std::size_t>((s * padded.rows + r) * v + j)] =
            static_cast<double>(logits[static_cast<std::size_t>((n - steps + s) * v + j)]);
  }
  run.compare(name + "/step_scores", all);
}
template <class P>
void mixtral_generate_case(Run<P>& run) {
  for_each_run(run.c, [&](const std::string& name, const hf::Config& config, const json& kwargs) {
    hf::with_mixtral<P, Cpu>(run.ctx, config, false, [&](auto& model, const hf::NameMap& names) {
      mixtral_generate(run, model, names, config, name, kwargs);
    });
  });
}

void add_mixtral(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("model/mixtral", mixtral_model_case),
      SPARSEMOE_KIND("generate/mixtral", mixtral_generate_case),
  });
}

}  // namespace conformance

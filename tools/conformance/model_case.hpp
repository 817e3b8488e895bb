// SPDX-License-Identifier: Apache-2.0
// tools/conformance/model_case.hpp -- what the cases of encoder-decoder models share: the batch, hidden states, logits,
// losses, every gradient under the checkpoint's names, and generated tokens with their scores.
#pragma once

#include "kinds.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/hf/generation_config.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/nn/loss.hpp"
#include "without_cache.hpp"

namespace conformance {

inline hf::Config case_config(const Case& c, const json& overrides) {
  require(overrides.is_object(), "option config_overrides must be an object, not ", overrides.dump());
  return hf::Config(c.folder()).with(Json::parse(overrides.dump()));
}
/// The configuration of a forward run. Without the router's logits the reference adds no routing loss.
inline hf::Config forward_config(const Case& c) {
  json overrides = c.given("config_overrides") ? c.object("config_overrides") : json::object();
  if (c.given("output_router_logits")) overrides["output_router_logits"] = c.need<bool>("output_router_logits");
  if (!c.option("output_router_logits", true))
    overrides["router_z_loss_coef"] = overrides["router_aux_loss_coef"] = 0.0;
  if (c.given("forward_inputs")) {
    std::set<std::string> passed, have;
    for (const json& name : c.object("forward_inputs")) passed.insert(Case::to<std::string>(name, "forward_inputs"));
    for (const std::string& name : c.names("in/")) have.insert(name);
    require(passed == have, "option forward_inputs does not name the tensors in/...");
  }
  return case_config(c, overrides);
}

/// Token ids of a case with their mask; without one, all count.
struct Text {
  index_t rows, cols;
  std::vector<std::int32_t> ids, task;
  std::vector<std::uint8_t> valid;
  Text(const Case& c, const std::string& name, const std::string& mask) : Text(c, c.integers(name), name, mask) {}
  Text(const Case& c, std::vector<std::int32_t> values, const std::string& shaped, const std::string& mask)
      : rows(c.shape(shaped)[0]), cols(c.shape(shaped)[1]), ids(std::move(values)) {
    task.assign(static_cast<std::size_t>(rows), 0);
    valid.assign(ids.size(), 1);
    if (c.has(mask)) valid = c.as<std::uint8_t>(mask);
  }
  Tokens tokens() const { return {rows, cols, ids.data(), valid.data(), task.data(), 0, nullptr}; }
};

template <class T>
Values values_of(Matrix<const T> m) {
  return Values(m.data, m.data + m.size());
}

/// Every gradient, under the checkpoint's names.
template <class P, class Weights>
void compare_gradients(Run<P>& run, const Weights& weights, const hf::NameMap& names) {
  const auto results = run.c.results();
  if (std::none_of(results.begin(), results.end(), [](const std::string& r) { return r.rfind("grad/", 0) == 0; }))
    return;
  for (const hf::MappedTensor& m : hf::map_names(names, weights.list())) {
    const index_t size = m.rows * m.cols;
    const auto* from = weights.gradient() + weights.list()[m.leaf].offset + m.item * size;
    Values g(static_cast<std::size_t>(size));
    for (index_t i = 0; i < size; ++i) g[static_cast<std::size_t>(i)] = static_cast<double>(from[m.place(i)]);
    run.compare("grad/" + m.name, g);
  }
}

template <class P, class Stack>
void compare_hidden(Run<P>& run, const Stack& stack, const std::string& prefix) {
  for (index_t i = 0; i <= stack.config().layers; ++i)
    run.compare(join(prefix, "hidden_states.", i), values_of(stack.hidden_state(i)));
}

/// A labelled batch through the model. routing(model) compares what the routers did, while the caches live, and returns
/// the weighted routing losses.
template <class P, class Model, class Routing>
void run_model(Run<P>& run, Model& model, const hf::NameMap& names, const hf::Config& config, Routing&& routing) {
  using S = typename P::storage;
  const Case& c = run.c;
  hf::load(run.ctx, model.weights, names, hf::Tensors(c.folder()));
  std::fill_n(model.weights.gradient(), model.weights.total(), 0);
  const std::string mode = c.option("mode", "eval");
  require(mode == "train" || mode == "eval", "option mode must be train or eval, not ", mode);
  run.ctx.training = mode == "train";

  const auto special = hf::SpecialTokens::of(config);
  const std::vector<std::int32_t> labels = c.integers("in/labels");
  const index_t length = c.shape("in/labels")[1];
  std::vector<std::int32_t> shifted(labels.size());
  index_t count = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const bool first = static_cast<index_t>(i) % length == 0;
    shifted[i] = first ? special.begin : labels[i - 1] < 0 ? special.padding : labels[i - 1];
    count += labels[i] >= 0 ? 1 : 0;
  }
  run.compare("decoder_input_ids", shifted);
  const Text source(c, "in/input_ids", "in/attention_mask");
  const Text target(c, shifted, "in/labels", "in/decoder_attention_mask");

  Solo solo;
  double routing_loss = 0;
  Values logits;
  CrossEntropy<P, Cpu> loss;
  loss.config = model.loss_config();
  const double scale = 1 / static_cast<double>(count);
  const LossSums sums = model.loss(run.ctx, {source.tokens(), target.tokens(), labels.data()}, solo, scale, 1,
                                   [&](Matrix<S> z, index_t at) {
                                     if (at == 0) {
                                       compare_hidden(run, model.encoder(), "encoder/");
                                       compare_hidden(run, model.decoder(), "decoder/");
                                       routing_loss = routing(model);
                                     }
                                     const Values block = values_of(z.as_const());
                                     logits.insert(logits.end(), block.begin(), block.end());
                                     return loss(run.ctx, z, labels.data() + at, scale);
                                   });
  run.compare("logits", logits);
  const double entropy = sums.loss * scale;
  run.compare("loss/cross_entropy", Values{entropy});
  run.compare("loss/total", Values{entropy + routing_loss});
  compare_gradients(run, model.weights, names);
}

/// Sequences, the scores of beams, and the greedy logits of every step.
template <class P, class Model>
void compare_generation(Run<P>& run, Model& model, const hf::SpecialTokens& special, const SearchOptions& options,
                        const std::string& name) {
  using S = typename P::storage;
  const Case& c = run.c;
  const Text source(c, "in/input_ids", "in/attention_mask");
  Solo solo;
  const SearchResult found = search(run.ctx, model, solo, source.tokens(), options);

  const index_t cols = c.shape(name + "/sequences")[1];
  std::vector<std::int32_t> sequences;
  std::vector<double> scores;
  for (const auto& outputs : found)
    for (const Hypothesis& h : outputs) {
      std::vector<std::int32_t> row{options.begin};
      row.insert(row.end(), h.tokens.begin(), h.tokens.end());
      if (h.ended) row.push_back(h.end);
      row.resize(static_cast<std::size_t>(cols), special.padding);
      sequences.insert(sequences.end(), row.begin(), row.end());
      scores.push_back(h.score);
    }
  run.compare(name + "/sequences", sequences);
  run.compare(name + "/sequences_scores", scores);
  c.not_offered(name + "/beam_indices");  // which beam a beam came from is not kept
  if (!c.expects(name + "/step_scores")) return;

  // The logits of every step, fed with what was found; finished rows go on with padding.
  typename Arena<typename Cpu::Memory>::Scope scope(run.ctx.arena);
  const index_t steps = c.shape(c.expected_name(name + "/step_scores"))[0], v = model.config().vocabulary;
  model.begin(run.ctx, model.encode(run.ctx, source.tokens(), solo), source.rows, steps, 1);
  std::vector<S> logits(static_cast<std::size_t>(source.rows * v));
  Values all;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.rows)), previous(ids.size(), special.padding);
  const std::vector<std::uint8_t> valid(ids.size(), 1);
  for (index_t s = 0; s < steps; ++s) {
    for (index_t r = 0; r < source.rows; ++r)
      ids[static_cast<std::size_t>(r)] = sequences[static_cast<std::size_t>(r * cols + s)];
    model.step(run.ctx, {source.rows, 1, ids.data(), valid.data(), source.task.data(), s, previous.data()}, solo,
               {logits.data(), source.rows, v});
    all.insert(all.end(), logits.begin(), logits.end());
    previous = ids;
  }
  run.compare(name + "/step_scores", all);
}

/// The arguments of a run of generate(); every one must be read.
class Arguments {
 public:
  explicit Arguments(const json& kwargs) : kwargs_(kwargs) {
    require(kwargs.is_object(), "kwargs must be an object, not ", kwargs.dump());
  }
  bool given(const std::string& name) {
    read_.insert(name);
    return kwargs_.contains(name) && !kwargs_.at(name).is_null();
  }
  template <class T>
  T get(const std::string& name, T otherwise) {
    return given(name) ? Case::to<T>(kwargs_.at(name), name) : otherwise;
  }
  const json& object(const std::string& name) { return kwargs_.at(name); }
  /// An id, or a list of them.
  std::vector<std::int32_t> ids(const std::string& name) {
    std::vector<std::int32_t> all;
    if (!given(name)) return all;
    const json& value = object(name);
    for (const json& id : value.is_array() ? value : json::array({value}))
      all.push_back(Case::to<std::int32_t>(id, name));
    return all;
  }
  /// For readers of generation_config.json, whose keys these are.
  hf::Config config() const { return {Json::parse(kwargs_.dump()), std::filesystem::path("kwargs")}; }
  void check() const {
    for (const auto& [name, value] : kwargs_.items())
      require(read_.count(name) > 0, "argument ", name, " of generate() is not known");
  }

 private:
  const json& kwargs_;
  std::set<std::string> read_;
};
/// What the arguments of generate() ask for, and their special tokens. `prompt` tokens come before those it generates,
/// and count in max_length.
inline SearchOptions generate_options(hf::SpecialTokens& special, Arguments& from, index_t prompt, index_t vocabulary) {
  SearchOptions options;
  special.begin = from.get("decoder_start_token_id", special.begin);
  special.padding = from.get("pad_token_id", special.padding);
  options.begin = std::max(special.begin, 0), options.end = special.end;
  options.beam_rules = BeamRules::transformers_4_38;  // which made these cases
  require(!from.get("do_sample", false), "argument do_sample: sampling is not offered");
  options.max_length = from.get("max_new_tokens", from.get("max_length", index_t(20)) - prompt);
  options.min_length = from.get("min_new_tokens", std::max<index_t>(0, from.get("min_length", prompt) - prompt));
  options.no_repeat_ngram = from.get("no_repeat_ngram_size", index_t(0));
  options.beams = from.get("num_beams", index_t(1));
  options.nbest = from.get("num_return_sequences", index_t(1));
  options.length_penalty = from.get("length_penalty", 1.0);
  options.first = from.get("forced_bos_token_id", std::int32_t(-1));
  if (from.given("eos_token_id")) {
    options.other_ends = from.ids("eos_token_id");
    options.end = options.other_ends.empty() ? -1 : options.other_ends[0];
  }
  ScoreRules& rules = options.rules;
  rules.repetition_penalty = from.get("repetition_penalty", 1.0);
  rules.source_penalty = from.get("encoder_repetition_penalty", 1.0);
  rules.source_ngram = from.get("encoder_no_repeat_ngram_size", index_t(0));
  rules.suppressed = from.ids("suppress_tokens");
  rules.suppressed_first = from.ids("begin_suppress_tokens");
  rules.forced_last = from.ids("forced_eos_token_id");
  rules.remove_invalid = from.get("remove_invalid_values", false);
  rules.renormalise = from.get("renormalize_logits", false);
  hf::GenerationConfig::read_biases(from.config(), vocabulary, options.ends(), rules.biases);
  hf::GenerationConfig::read_decay(from.config(), rules);
  for (const char* name : {"bad_words_ids", "sequence_bias", "exponential_decay_length_penalty"})
    (void)from.given(name);
  if (from.given("early_stopping")) {
    const json& stop = from.object("early_stopping");
    require(stop.is_boolean() || stop == "never", "argument early_stopping must be true, false or \"never\"");
    if (stop == "never")
      options.stopping = Stopping::none_can;
    else if (stop == true)
      options.stopping = Stopping::first_found;
  }
  return options;
}
/// f(name, configuration, kwargs) for each run of generate().
template <class F>
void for_each_run(const Case& c, F&& f) {
  const json& runs = c.object("runs");
  require(runs.is_object(), "option runs must be an object, not ", runs.dump());
  static const json nothing = json::object();
  for (const auto& [name, how] : runs.items()) {
    for (const auto& [key, value] : how.items())
      require(key == "kwargs" || key == "config_overrides", "option runs.", name, ".", key, " is not known");
    f(name, case_config(c, how.contains("config_overrides") ? how.at("config_overrides") : nothing),
      how.contains("kwargs") ? how.at("kwargs") : nothing);
  }
}

/// One run of generate().
template <class P, class Model>
void run_generate(Run<P>& run, Model& model, const hf::NameMap& names, const hf::Config& config,
                  const std::string& name, const json& kwargs) {
  hf::load(run.ctx, model.weights, names, hf::Tensors(run.c.folder()));
  run.ctx.training = false;
  auto special = hf::SpecialTokens::of(config);
  Arguments arguments(kwargs);
  const SearchOptions options = generate_options(special, arguments, 1, model.config().vocabulary);
  const bool cached = arguments.get("use_cache", true);
  arguments.check();
  if (cached) return compare_generation(run, model, special, options, name);
  WithoutCache<Model> slow(model);
  compare_generation(run, slow, special, options, name);
}

}  // namespace conformance

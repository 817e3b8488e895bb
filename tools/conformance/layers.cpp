// SPDX-License-Identifier: Apache-2.0
// tools/conformance/layers.cpp -- norms, feed-forward blocks, activations, cross entropy, buckets and positions.
#include "activation.hpp"
#include "kinds.hpp"
#include "sparsemoe/nn/embedding.hpp"
#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/nn/loss.hpp"
#include "sparsemoe/nn/norm.hpp"
#include "sparsemoe/nn/relative_position.hpp"
#include "views.hpp"

namespace conformance {

/// A norm without a weight has ones, one without a bias zeros.
template <class P, class Layer>
void norm_layer(Run<P>& run, const Layer& layer, bool bias) {
  using S = typename P::storage;
  const Case& c = run.c;
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y");
  if (c.shape("in/x").size() == 3) c.check_shape("in/x", {"B", "S", "D"});
  std::vector<Link> links;
  for (const char* name : {"weight", "bias"})
    if (c.has(std::string("in/w/") + name) && (bias || *name == 'w'))
      links.push_back({name, -1, std::string("w/") + name, false});
  const bool weighted = c.has("in/w/weight");
  Bound<P, Layer> bound(run, layer, std::move(links));
  if (!weighted) bound.set("weight", std::vector<S>(static_cast<std::size_t>(layer.width), S(1)));
  std::vector<S> y(x.size()), dx(x.size());
  typename Layer::Cache cache;
  layer.forward(run.ctx, bound.w, constant(x, layer.width), writable(y, layer.width), cache);
  layer.backward(run.ctx, bound.w, bound.dw, constant(x, layer.width), constant(dy, layer.width),
                 writable(dx, layer.width), cache);
  run.compare("out/y", y);
  run.compare("grad/x", dx);
  bound.compare();
}
template <class P>
index_t width_of(const Run<P>& run) {
  const auto shape = run.c.shape("in/x");
  require(!shape.empty(), "in/x is a scalar");
  if (run.c.given("D")) require(run.c.size("D") == shape.back(), "option D is not the width of in/x");
  return shape.back();
}
template <class P>
void rms_norm_case(Run<P>& run) {
  norm_layer<P>(run, RmsNorm<P, Cpu>{width_of(run), run.c.option("eps", 1e-6)}, false);
}
template <class P>
void layer_norm_case(Run<P>& run) {
  norm_layer<P>(run, LayerNorm<P, Cpu>{width_of(run), run.c.option("eps", 1e-5)}, true);
}

// -------------------------------------------------------------------------------------------- feed-forward blocks
/// What a block's tensors are: which matrix is the activated input, which the other input, which the output.
struct BlockNames {
  std::string activated, gate, output;  // without ".weight"; gate may be empty
};
/// From names where they are known, as T5's wi_0 and wi_1 or Mixtral's w1 and w3; else from shapes, [d_ff, d_model] for
/// an input, of two the first by name is activated.
inline BlockNames block_names(const Case& c, index_t d, index_t f) {
  BlockNames names;
  std::vector<std::string> unknown;
  const std::string suffix = ".weight";
  for (const std::string& full : c.names("in/w/")) {
    if (full.size() <= suffix.size() || full.compare(full.size() - suffix.size(), suffix.size(), suffix) != 0) continue;
    const std::string name = full.substr(0, full.size() - suffix.size());
    const auto is = [&](std::initializer_list<const char*> all) {
      return std::any_of(all.begin(), all.end(), [&](const char* one) { return name == one; });
    };
    if (is({"wi", "wi_0", "fc1", "w1", "gate_proj"}) && names.activated.empty())
      names.activated = name;
    else if (is({"wi_1", "w3", "up_proj"}) && names.gate.empty())
      names.gate = name;
    else if (is({"wo", "fc2", "w2", "down_proj"}) && names.output.empty())
      names.output = name;
    else
      unknown.push_back(name);
  }
  for (const std::string& name : unknown) {
    const auto shape = c.shape("in/w/" + name + suffix);
    require(d != f, "the role of in/w/", name, suffix, " is told neither by its name nor by its shape");
    std::string& role = shape == std::vector<index_t>{d, f} ? names.output
                        : names.activated.empty()           ? names.activated
                                                            : names.gate;
    require(role.empty(), "in/w/", name, suffix, " is one matrix too many for a feed-forward block");
    role = name;
  }
  require(!names.activated.empty() && !names.output.empty(), "a feed-forward block has an input and an output matrix");
  return names;
}

template <class P, class Act>
void feed_forward_of(Run<P>& run, const BlockNames& names, index_t d, index_t f) {
  using S = typename P::storage;
  using Layer = FeedForward<P, Cpu, Act>;
  const Case& c = run.c;
  const auto has_bias = [&](const std::string& name) { return c.has("in/w/" + name + ".bias"); };
  const bool bias = has_bias(names.activated) || has_bias(names.output);
  std::vector<Link> links = {{"wi", 0, "w/" + names.activated + ".weight", true},
                             {"wo", 0, "w/" + names.output + ".weight", true}};
  if (Act::gated) links.push_back({"wg", 0, "w/" + names.gate + ".weight", true});
  if (has_bias(names.activated)) links.push_back({"bi", 0, "w/" + names.activated + ".bias", false});
  if (has_bias(names.output)) links.push_back({"bo", 0, "w/" + names.output + ".bias", false});
  const Layer layer = Layer::make(d, f, bias);
  Bound<P, Layer> bound(run, layer, std::move(links));
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y");
  std::vector<S> y(x.size()), dx(x.size());
  typename Layer::Cache cache;
  layer.forward(run.ctx, bound.w, constant(x, d), writable(y, d), cache);
  layer.backward(run.ctx, bound.w, bound.dw, constant(x, d), constant(dy, d), writable(dx, d), cache);
  run.compare("out/y", y);
  run.compare("grad/x", dx);
  bound.compare();
}
template <class P>
void feed_forward_case(Run<P>& run) {
  const Case& c = run.c;
  const index_t d = c.size("d_model"), f = c.size("d_ff");
  const BlockNames names = block_names(c, d, f);
  const Function function = function_of(c, c.reference());
  if (c.given("gated"))
    require(c.need<bool>("gated") == !names.gate.empty(), "option gated is not what the tensors say");
  AnyActivation<false>::function = AnyActivation<true>::function = function;
  if (names.gate.empty()) return feed_forward_of<P, AnyActivation<false>>(run, names, d, f);
  feed_forward_of<P, AnyActivation<true>>(run, names, d, f);
}

template <class P>
void activation_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  const std::string summary = c.summary();  // "gelu_new: value and derivative on a grid"
  const Function function = function_of(c, summary.substr(0, summary.find(':')));
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y");
  std::vector<S> y(x.size()), dx(x.size());
  visit(function, [&]<class Act>(Act) {
    const auto n = static_cast<index_t>(x.size());
    Cpu::for_each_index(run.ctx, n, Activate<Act, S, typename P::compute>{x.data(), y.data()});
    Cpu::for_each_index(run.ctx, n, ActivateBackward<Act, S, typename P::compute>{x.data(), dy.data(), dx.data()});
  });
  run.compare("out/y", y);
  run.compare("grad/x", dx);
}

// -------------------------------------------------------------------------------------------------- cross entropy
/// Conventions of one formula: what the target and every class get of the target distribution, mean or sum.
template <class P>
void cross_entropy_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  const std::string reference = c.reference();
  const auto says = [&](const char* word) { return reference.find(word) != std::string::npos; };
  auto shape = c.shape("in/logits");
  require(shape.size() == 2 || shape.size() == 3, "in/logits has ", shape.size(), " dimensions, expected 2 or 3");
  if (shape.size() == 3) {
    c.check_shape("in/logits", {"B", "T", "V"});
  } else {  // one text
    c.check_shape("in/logits", {c.given("N") ? "N" : c.given("B") ? "B" : "T", "V"});
    shape.insert(shape.begin(), 1);
  }
  const index_t rows = shape[0] * shape[1], columns = shape[1], v = shape[2];
  const bool torch = says("torch"), smoother = says("LabelSmoother");
  require(torch || smoother || says("formula"), "cross entropy by \"", reference, "\" is not known");
  const double eps = c.option("label_smoothing", c.option("epsilon", 0.0)), classes = static_cast<double>(v);
  const bool t5x = c.given("z_loss");
  const std::string reduction = c.option("reduction", torch || smoother ? "mean" : "sum");
  require(reduction == "mean" || reduction == "sum", "option reduction must be mean or sum, not ", reduction);
  const bool mean = reduction == "mean";

  CrossEntropyConfig config = CrossEntropyConfig::smoothed(eps, v);
  if (!torch && !smoother)  // eps over the wrong classes
    config.everywhere = eps / (classes - 1), config.on_target = 1 - eps - config.everywhere;
  config.z = c.option("z_loss", 0.0);
  const CrossEntropy<P, Cpu> layer{config};
  const CrossEntropyConfig z_alone{0, 0, config.z};

  const index_t ignored = c.option("ignore_index", index_t(-100));
  std::vector<std::int32_t> target = c.integers("in/labels");
  for (std::int32_t& t : target) {
    require(t == ignored || (t >= 0 && t < v), "in/labels has ", t, ", neither a class below ", v, " nor ignore_index");
    if (t == ignored) t = -1;
  }
  if (c.option("shift_labels", false))  // row t predicts the label of t + 1
    for (index_t t = 0; t < rows; ++t)
      target[static_cast<std::size_t>(t)] = (t + 1) % columns == 0 ? -1 : target[static_cast<std::size_t>(t + 1)];
  const double counted =
      static_cast<double>(std::count_if(target.begin(), target.end(), [](std::int32_t t) { return t >= 0; }));
  const double scale = c.number("cotangent/loss") / (mean ? counted : 1);
  std::vector<S> logits = run.in("logits"), again = logits;
  const LossSums sums = layer(run.ctx, writable(logits, v), target.data(), scale);
  const LossSums z_sums = CrossEntropy<P, Cpu>{z_alone}(run.ctx, writable(again, v), target.data(), 0);
  // T5X subtracts the entropy of the target distribution: a constant.
  const double target_entropy =
      !t5x || eps == 0
          ? 0
          : -((1 - eps) * std::log(1 - eps) + (classes - 1) * config.everywhere * std::log(config.everywhere + 1e-20));
  run.compare("out/loss", Values{(sums.loss - target_entropy * sums.tokens) / (mean ? counted : 1)});
  run.compare("grad/logits", logits);
  if (c.expects("out/nll")) run.compare("out/nll", Values{sums.nll});
  if (c.expects("out/z_loss")) run.compare("out/z_loss", Values{z_sums.loss});
  if (c.expects("out/weight_sum")) run.compare("out/weight_sum", Values{sums.tokens});
}

// ------------------------------------------------------------------------------------------------------ positions
template <class P>
void buckets_case(Run<P>& run) {
  const Case& c = run.c;
  Values mine;
  for (const double offset : c.values("relative_position"))
    mine.push_back(static_cast<double>(relative_bucket(static_cast<index_t>(offset), c.option("bidirectional", true),
                                                       c.option("num_buckets", index_t(32)),
                                                       c.option("max_distance", index_t(128)))));
  run.compare("bucket", mine);
}

/// Row p of the reference's table is position p; its padding row is 0 by decree and left out here.
template <class P>
void sinusoid_case(Run<P>& run) {
  using S = typename P::storage;
  const Case& c = run.c;
  const index_t rows = c.size("num_positions"), d = c.size("embedding_dim"), pad = c.option("padding_idx", index_t(-1));
  const Embedding<P, Cpu> layer{1, d, 1, true, 1};
  auto w = layer.template params<const S>();
  const std::vector<S> table(static_cast<std::size_t>(d), S(0));
  bind_params(w, table.data());
  const std::vector<std::int32_t> zeros(static_cast<std::size_t>(rows), 0);
  const std::vector<std::uint8_t> valid(zeros.size(), 1);
  std::vector<S> y(static_cast<std::size_t>(rows * d));
  layer.forward(run.ctx, w, {1, rows, zeros.data(), valid.data(), nullptr, 0, nullptr}, writable(y, d));
  if (pad >= 0 && pad < rows) std::fill_n(y.begin() + pad * d, d, S(0));
  run.compare("out/table", y);
  if (!c.has("in/input_ids")) return;

  // Of every token, after the padding and `past` tokens: the places that our embedding counts.
  const auto ids = c.integers("in/input_ids");
  const auto shape = c.shape("in/input_ids");
  require(shape.size() == 2, "in/input_ids has ", shape.size(), " dimensions, expected 2");
  std::vector<std::int32_t> place(ids.size());
  const std::vector<std::uint8_t> all(ids.size(), 1);
  const Tokens tokens{shape[0], shape[1], ids.data(), all.data(), nullptr, 0, nullptr};
  Cpu::for_each_index(run.ctx, shape[0], CountedPlaces{tokens, static_cast<std::int32_t>(pad), place.data()});
  const std::string stem = "out/position_ids";
  for (const std::string& name : c.results()) {
    if (name.rfind(stem, 0) != 0) continue;
    const std::string end = name.substr(stem.size());  // "_past5"
    index_t past = 0;
    if (!end.empty()) {
      const bool known = end.rfind("_past", 0) == 0 && end.size() > 5 && end.size() < 12 &&
                         end.find_first_not_of("0123456789", 5) == std::string::npos;
      require(known, "result ", name, " is not known to ", c.kind());
      past = std::stoll(end.substr(5));
    }
    Values mine;
    for (const std::int32_t p : place) mine.push_back(static_cast<double>(p < 0 ? pad : pad + 1 + past + p));
    run.compare(name, mine);
  }
}

void add_layers(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("layer/rms_norm", rms_norm_case),
      SPARSEMOE_KIND("layer/layer_norm", layer_norm_case),
      SPARSEMOE_KIND("layer/ffn", feed_forward_case),
      SPARSEMOE_KIND("layer/activation", activation_case),
      SPARSEMOE_KIND("layer/cross_entropy", cross_entropy_case),
      SPARSEMOE_KIND("layer/t5_relative_buckets", buckets_case),
      SPARSEMOE_KIND("layer/sinusoidal_positions", sinusoid_case),
  });
}

}  // namespace conformance

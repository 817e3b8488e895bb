// tools/conformance/layers.hpp -- norms, feed-forward blocks, activations, cross entropy, attention and positions.
#pragma once

#include "case.hpp"
#include "sparsemoe/nn/attention.hpp"
#include "sparsemoe/nn/embedding.hpp"
#include "sparsemoe/nn/ffn.hpp"
#include "sparsemoe/nn/loss.hpp"
#include "sparsemoe/nn/norm.hpp"
#include "sparsemoe/nn/relative_position.hpp"

namespace conformance {

template <class T>
Matrix<const T> constant(const std::vector<T>& v, index_t cols) {
  return {v.data(), static_cast<index_t>(v.size()) / cols, cols};
}
template <class T>
Matrix<T> writable(std::vector<T>& v, index_t cols) {
  return {v.data(), static_cast<index_t>(v.size()) / cols, cols};
}

template <class P, class Layer>
void norm_layer(Run<P>& run, const Layer& layer, std::vector<Link> links) {
  using S = typename P::storage;
  Bound<P, Layer> bound(run, layer, std::move(links));
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y");
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
void rms_norm_case(Run<P>& run) {
  norm_layer<P>(run, RmsNorm<P, Cpu>{run.c.size("D"), run.c.params().at("eps")}, {{"weight", -1, "w/weight", false}});
}
template <class P>
void layer_norm_case(Run<P>& run) {
  norm_layer<P>(run, LayerNorm<P, Cpu>{run.c.size("D"), run.c.params().at("eps")},
                {{"weight", -1, "w/weight", false}, {"bias", -1, "w/bias", false}});
}

template <class P, class Act>
void feed_forward_of(Run<P>& run) {
  using S = typename P::storage;
  using Layer = FeedForward<P, Cpu, Act>;
  const Case& c = run.c;
  const index_t d = c.size("d_model");
  const bool bias = c.has("in/w/fc1.bias");
  std::vector<Link> links;
  // T5 wi, wo, or wi_0 (activated), wi_1, wo; NLLB fc1, fc2; Mixtral w1 (activated), w3, w2.
  const char* const names[][2] = {{"wi", "wi"}, {"wi", "wi_0"}, {"wi", "fc1"}, {"wi", "w1"}, {"wg", "wi_1"},
                                  {"wg", "w3"}, {"wo", "wo"},   {"wo", "fc2"}, {"wo", "w2"}};
  for (const auto& [ours, theirs] : names)
    if (c.has(join("in/w/", theirs, ".weight"))) links.push_back({ours, 0, join("w/", theirs, ".weight"), true});
  if (bias) links.insert(links.end(), {{"bi", 0, "w/fc1.bias", false}, {"bo", 0, "w/fc2.bias", false}});
  const Layer layer = Layer::make(d, c.size("d_ff"), bias);
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
  const std::string name = run.c.entry().at("summary");
  if (name == "t5_relu" || name == "nllb_relu") return feed_forward_of<P, Relu>(run);
  if (name == "t5_gelu") return feed_forward_of<P, Gelu>(run);
  if (name == "t5_gated_gelu_new") return feed_forward_of<P, Gated<GeluTanh>>(run);
  if (name == "t5_gated_silu" || name == "mixtral_silu") return feed_forward_of<P, Gated<Silu>>(run);
  throw Skip{"no such feed-forward block: " + name};
}

template <class P, class Act>
void activation_of(Run<P>& run) {
  using S = typename P::storage;
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y");
  std::vector<S> y(x.size()), dx(x.size());
  const auto n = static_cast<index_t>(x.size());
  Cpu::for_each_index(run.ctx, n, Activate<Act, S, typename P::compute>{x.data(), y.data()});
  Cpu::for_each_index(run.ctx, n, ActivateBackward<Act, S, typename P::compute>{x.data(), dy.data(), dx.data()});
  run.compare("out/y", y);
  run.compare("grad/x", dx);
}
template <class P>
void activation_case(Run<P>& run) {
  const std::string id = run.c.entry().at("id"), name = id.substr(id.rfind('/') + 1);
  if (name == "relu") return activation_of<P, Relu>(run);
  if (name == "gelu") return activation_of<P, Gelu>(run);
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return activation_of<P, GeluTanh>(run);
  if (name == "silu") return activation_of<P, Silu>(run);
  if (name == "quick_gelu") return activation_of<P, QuickGelu>(run);
  if (name == "sigmoid") return activation_of<P, Sigmoid>(run);
  if (name == "tanh") return activation_of<P, Tanh>(run);
  if (name == "softplus") return activation_of<P, Softplus>(run);
  throw Skip{"no such activation: " + name};
}

/// Four conventions of one formula: what the target and every class get of the target distribution, mean or sum.
template <class P>
void cross_entropy_case(Run<P>& run) {
  using S = typename P::storage;
  const json& p = run.c.params();
  const std::string reference = run.c.entry().at("reference");
  const index_t v = run.c.size("V"), rows = run.c.size("B") * run.c.size("T"), columns = run.c.size("T");
  const double eps = p.value("label_smoothing", p.value("epsilon", 0.0)), classes = static_cast<double>(v);
  const bool over_all = reference.rfind("torch", 0) == 0 || reference == "LabelSmoother";  // eps over all classes
  const bool t5x = p.contains("z_loss"),
             mean = p.value("reduction", reference == "LabelSmoother" ? "mean" : "sum") == "mean";

  CrossEntropyConfig config = CrossEntropyConfig::smoothed(eps, v);
  if (!over_all) config.everywhere = eps / (classes - 1), config.on_target = 1 - eps - config.everywhere;
  config.z = p.value("z_loss", 0.0);
  const CrossEntropy<P, Cpu> layer{config};
  const CrossEntropyConfig z_alone{0, 0, config.z};

  std::vector<std::int32_t> target = run.c.integers("in/labels");
  if (p.value("shift_labels", false))  // row t predicts the label of t + 1
    for (index_t t = 0; t < rows; ++t)
      target[static_cast<std::size_t>(t)] = (t + 1) % columns == 0 ? -100 : target[static_cast<std::size_t>(t + 1)];
  const double counted =
      static_cast<double>(std::count_if(target.begin(), target.end(), [](std::int32_t t) { return t >= 0; }));
  const double scale = static_cast<double>(run.cotangent("loss")[0]) / (mean ? counted : 1);
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
  if (run.c.has("f64/out/nll")) run.compare("out/nll", Values{sums.nll});
  if (run.c.has("f64/out/z_loss")) run.compare("out/z_loss", Values{z_sums.loss});
  if (run.c.has("f64/out/weight_sum")) run.compare("out/weight_sum", Values{sums.tokens});
}

template <class P>
void buckets_case(Run<P>& run) {
  const json& p = run.c.params();
  Values mine;
  for (const double offset : run.c.values("relative_position"))
    mine.push_back(static_cast<double>(relative_bucket(static_cast<index_t>(offset), p.at("bidirectional"),
                                                       run.c.size("num_buckets"), run.c.size("max_distance"))));
  run.compare("bucket", mine);
}

/// Row p of the reference's table is position p; its padding row is 0 by decree and left out here.
template <class P>
void sinusoid_case(Run<P>& run) {
  using S = typename P::storage;
  const index_t rows = run.c.size("num_positions"), d = run.c.size("embedding_dim"), pad = run.c.size("padding_idx");
  const Embedding<P, Cpu> layer{1, d, 1, true, 1};
  auto w = layer.template params<const S>();
  const std::vector<S> table(static_cast<std::size_t>(d), S(0));
  bind_params(w, table.data());
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(rows), 0);
  const std::vector<std::uint8_t> valid(ids.size(), 1);
  std::vector<S> y(static_cast<std::size_t>(rows * d));
  layer.forward(run.ctx, w, {1, rows, ids.data(), valid.data(), nullptr, 0, nullptr}, writable(y, d));
  std::fill_n(y.begin() + pad * d, d, S(0));
  run.compare("out/table", y);
}

/// T5 and NLLB attention: projections, names and scale differ.
template <class P>
struct AttentionCase {
  using S = typename P::storage;
  using A = typename P::accumulate;
  using C = typename P::compute;
  using Layer = Attention<P, Cpu>;
  Run<P>& run;
  const Case& c = run.c;
  bool t5 = c.has("in/w/q.weight");
  index_t heads = c.size("H"), width = c.size("D"), head_width = t5 ? c.size("dkv") : width / heads,
          inner = heads * head_width;
  Layer layer{width, heads, head_width, !t5, t5 ? 1.0 : 1 / std::sqrt(static_cast<double>(head_width)), 1};
  std::string kind = c.entry().at("id").template get<std::string>();
  bool cross = kind.find("cross") != std::string::npos, causal = kind.find("causal") != std::string::npos;
  bool biased = c.has("in/w/relative_attention_bias.weight");
  RelativePosition<P, Cpu> position{heads, biased ? c.size("buckets") : 1, biased ? c.size("maxd") : 1,
                                    kind.find("encoder") != std::string::npos};

  std::vector<Link> links() const {
    std::vector<Link> all;
    for (const char* name : {"q", "k", "v", "o"}) {
      const std::string theirs = t5 ? name : *name == 'o' ? "out_proj" : std::string(name) + "_proj";
      all.push_back({std::string(name) + ".weight", 0, "w/" + theirs + ".weight", true});
      if (!t5) all.push_back({std::string(name) + ".bias", 0, "w/" + theirs + ".bias", false});
    }
    return all;
  }
  std::vector<Link> position_links() const {
    return biased ? std::vector<Link>{{"weight", -1, "w/relative_attention_bias.weight", false}} : std::vector<Link>{};
  }

  void whole() {
    const index_t n = c.size("B");
    const std::vector<S> x = run.in("x"), kv = cross ? run.in("kv") : x, dy = run.cotangent("y"),
                         dattention = run.cotangent("attention");
    const index_t queries = static_cast<index_t>(x.size()) / (n * width),
                  keys = static_cast<index_t>(kv.size()) / (n * width);
    std::vector<std::uint8_t> valid;
    for (const char* name : {"in/key_mask", "in/kv_mask"})
      if (c.has(name)) valid = c.as<std::uint8_t>(name);
    Bound<P, Layer> bound(run, layer, links());
    Bound<P, RelativePosition<P, Cpu>> table(run, position, position_links());
    std::vector<C> bias(static_cast<std::size_t>(biased ? heads * queries * keys : 0)), dbias(bias.size());
    AttentionInfo<C> info{n, queries, keys, valid.empty() ? nullptr : valid.data(), causal, 0, {}, 0};
    if (biased) {
      position.forward(run.ctx, table.w, queries, 0, writable(bias, keys));
      info.bias = constant(bias, keys);
      if (c.has("cotangent/position_bias")) dbias = c.as<C>("cotangent/position_bias");
    }
    std::vector<S> y(x.size()), dx(x.size()), dkv(kv.size());
    typename Layer::Cache cache;
    const Matrix<S> dmemory = cross ? writable(dkv, width) : writable(dx, width);
    layer.forward(run.ctx, bound.w, constant(x, width), constant(kv, width), info, writable(y, width), cache);
    layer.backward(run.ctx, bound.w, bound.dw, constant(x, width), constant(kv, width), info, constant(dy, width),
                   writable(dx, width), dmemory, cache, biased ? writable(dbias, keys) : Matrix<C>{},
                   constant(dattention, keys));
    if (biased) position.backward(run.ctx, table.dw, queries, constant(dbias, keys));
    run.compare("out/y", y);
    run.compare("out/attention", std::vector<S>(cache.probs.data, cache.probs.data + cache.probs.size()));
    if (biased) run.compare("out/position_bias", bias);
    run.compare("grad/x", dx);
    if (cross) run.compare("grad/kv", dkv);
    bound.compare();
    table.compare();
  }

  /// One query against kept keys and values. Our layers do not differentiate a decoding step.
  void step() {
    const index_t n = c.size("B"), past = c.shape("in/past_key")[2], room = past + 1;
    Bound<P, Layer> bound(run, layer, links());
    Bound<P, RelativePosition<P, Cpu>> table(run, position, position_links());
    const std::vector<S> x = run.in("x");
    const auto rows = [&](const std::string& name) {  // (B, H, past, d) -> (B room, H d)
      const std::vector<S> from = run.in(name);
      std::vector<S> to(static_cast<std::size_t>(n * room * inner));
      for (index_t b = 0; b < n; ++b)
        for (index_t h = 0; h < heads; ++h)
          for (index_t t = 0; t < past; ++t)
            for (index_t j = 0; j < head_width; ++j)
              to[static_cast<std::size_t>((b * room + t) * inner + h * head_width + j)] =
                  from[static_cast<std::size_t>(((b * heads + h) * past + t) * head_width + j)];
      return to;
    };
    std::vector<S> keys = rows("past_key"), values = rows("past_value"), y(x.size());
    std::vector<C> bias(static_cast<std::size_t>(heads * room)), all(static_cast<std::size_t>(heads * room * room));
    position.forward(run.ctx, table.w, 1, past, writable(bias, room));
    position.forward(run.ctx, table.w, room, 0, writable(all, room));
    layer.step(run.ctx, bound.w, constant(x, width), {n, 1, room, nullptr, false, past, constant(bias, room), 0},
               writable(keys, inner), writable(values, inner), room, true, writable(y, width));
    run.compare("out/y", y);
    run.compare("out/position_bias", all);
  }
};
template <class P>
void attention_case(Run<P>& run) {
  if (run.c.has("in/past_key")) return AttentionCase<P>{run}.step();
  AttentionCase<P>{run}.whole();
}

/// Mixtral's: rotary positions, query heads that share keys, a window.
template <class P>
void rotary_attention_case(Run<P>& run) {
  using S = typename P::storage;
  using C = typename P::compute;
  using Layer = Attention<P, Cpu>;
  const Case& c = run.c;
  const index_t n = c.size("B"), length = c.size("S"), width = c.size("D"), heads = c.size("H"), d = width / heads;
  const double theta = c.params().at("theta");
  const json& window = c.params().at("sliding_window");
  const Layer layer{width, heads, d, false, 1 / std::sqrt(static_cast<double>(d)), 1, c.size("KV")};
  std::vector<Link> links;
  for (const std::string name : {"q", "k", "v", "o"})
    links.push_back({name + ".weight", 0, "w/" + name + "_proj.weight", true});
  Bound<P, Layer> bound(run, layer, links);

  const index_t rows = c.shape("f64/out/rope_cos")[0];
  const Matrix<const C> table = rotation_table<C, Cpu>(run.ctx, Tokens{1, rows}, theta, d);
  for (const bool sine : {false, true}) {  // theirs repeats the half
    Values all;
    for (index_t r = 0; r < rows; ++r)
      for (index_t j = 0; j < d; ++j) all.push_back(table(r, (sine ? d / 2 : 0) + j % (d / 2)));
    run.compare(sine ? "out/rope_sin" : "out/rope_cos", all);
  }
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y"), dattention = run.cotangent("attention");
  std::vector<S> y(x.size()), dx(x.size());
  AttentionInfo<C> info{n, length, length, nullptr, true, 0, {}, window.is_null() ? 0 : window.get<index_t>()};
  std::vector<C> angles;  // of each token's own position
  for (const std::int32_t place : c.integers("in/position_ids"))
    angles.insert(angles.end(), table.row(place).data, table.row(place).data + d);
  info.rotation = constant(angles, d);
  typename Layer::Cache cache;
  layer.forward(run.ctx, bound.w, constant(x, width), constant(x, width), info, writable(y, width), cache);
  layer.backward(run.ctx, bound.w, bound.dw, constant(x, width), constant(x, width), info, constant(dy, width),
                 writable(dx, width), writable(dx, width), cache, {}, constant(dattention, length));
  run.compare("out/y", y);
  run.compare("out/attention", std::vector<S>(cache.probs.data, cache.probs.data + cache.probs.size()));
  run.compare("grad/x", dx);
  bound.compare();
}

}  // namespace conformance

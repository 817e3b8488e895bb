// SPDX-License-Identifier: Apache-2.0
// tools/conformance/attention.cpp -- attention of T5, NLLB and Mixtral.
#include "sparsemoe/nn/attention.hpp"

#include "kinds.hpp"
#include "sparsemoe/nn/relative_position.hpp"
#include "sparsemoe/nn/rotation.hpp"
#include "views.hpp"

namespace conformance {

/// A mask of keys under one of its names, or nothing.
inline std::vector<std::uint8_t> key_mask(const Case& c) {
  for (const char* name : {"in/key_mask", "in/kv_mask", "in/attention_mask"})
    if (c.has(name)) return c.as<std::uint8_t>(name);
  return {};
}
/// True if no query attends to a later key: an option says so, or else the probabilities of the reference, all of which
/// are 0 there. (B, H, queries, keys)
inline bool is_causal(const Case& c, bool cross) {
  if (c.given("causal")) return c.need<bool>("causal");
  if (cross || !c.expects("out/attention")) return false;
  const auto shape = c.shape(c.expected_name("out/attention"));
  require(shape.size() == 4, "out/attention has ", shape.size(), " dimensions, expected 4");
  const Values p = c.expected("out/attention");
  for (std::size_t i = 0; i < p.size(); ++i) {
    const auto key = static_cast<index_t>(i) % shape[3], query = static_cast<index_t>(i) / shape[3] % shape[2];
    if (key > query && p[i] != 0) return false;
  }
  return shape[2] > 1;
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
  index_t heads = c.size("H"), width = c.shape("in/x").back(), head_width = t5 ? c.size("dkv") : width / heads,
          inner = heads * head_width;
  std::string kind = c.option("kind", "");
  bool cross = c.has("in/kv"), causal = is_causal(c, cross);
  bool with_bias = std::any_of(names().begin(), names().end(),
                               [&](const std::string& n) { return c.has("in/w/" + theirs(n) + ".bias"); });
  Layer layer{width, heads, head_width, with_bias, t5 ? 1.0 : 1 / std::sqrt(static_cast<double>(head_width)), 1};
  bool biased = c.has("in/w/relative_attention_bias.weight");
  RelativePosition<P, Cpu> position{heads, biased ? c.size("buckets") : 1, biased ? c.size("maxd") : 1, both_ways()};

  /// Buckets for both directions: of an encoder.
  bool both_ways() const {
    if (!biased) return true;
    if (c.given("bidirectional")) return c.need<bool>("bidirectional");
    if (c.given("is_decoder")) return !c.need<bool>("is_decoder");
    return kind.find("encoder") != std::string::npos;
  }
  static const std::vector<std::string>& names() {
    static const std::vector<std::string> all = {"q", "k", "v", "o"};
    return all;
  }
  std::string theirs(const std::string& name) const { return t5 ? name : name == "o" ? "out_proj" : name + "_proj"; }
  std::vector<Link> links() const {
    std::vector<Link> all;
    for (const std::string& name : names()) {
      all.push_back({name + ".weight", 0, "w/" + theirs(name) + ".weight", true});
      if (c.has("in/w/" + theirs(name) + ".bias"))
        all.push_back({name + ".bias", 0, "w/" + theirs(name) + ".bias", false});
    }
    return all;
  }
  std::vector<Link> position_links() const {
    return biased ? std::vector<Link>{{"weight", -1, "w/relative_attention_bias.weight", false}} : std::vector<Link>{};
  }
  /// Lengths are those of the tensors; the options must be among them.
  void check_sizes(index_t queries, index_t keys) const {
    c.check_shape("in/x", {"B", "", "D"});
    require(t5 || width % heads == 0, "option H is ", heads, ", which does not divide the width ", width);
    for (const char* name : {"T", "S"})
      if (c.given(name)) (void)c.size(name);
    if (c.given("T") && c.given("S"))
      for (const index_t n : {queries, keys})
        require(n == c.size("T") || n == c.size("S"), "a length of ", n, " is neither option T nor S");
    c.no_effect({"buckets", "maxd"});
  }

  void whole() {
    const index_t n = c.shape("in/x")[0];
    const std::vector<S> x = run.in("x"), kv = cross ? run.in("kv") : x, dy = run.cotangent("y");
    const index_t queries = static_cast<index_t>(x.size()) / (n * width),
                  keys = static_cast<index_t>(kv.size()) / (n * width);
    check_sizes(queries, keys);
    const std::vector<std::uint8_t> valid = key_mask(c);
    require(valid.empty() || static_cast<index_t>(valid.size()) == n * keys, "the mask has ", valid.size(),
            " values, expected ", n * keys);
    Bound<P, Layer> bound(run, layer, links());
    Bound<P, RelativePosition<P, Cpu>> table(run, position, position_links());
    std::vector<S> dattention(static_cast<std::size_t>(n * heads * queries * keys), S(0));
    if (c.has("cotangent/attention")) dattention = run.cotangent("attention");
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
    if (c.expects("out/attention"))
      run.compare("out/attention", std::vector<S>(cache.probs.data, cache.probs.data + cache.probs.size()));
    if (biased && c.expects("out/position_bias")) run.compare("out/position_bias", bias);
    run.compare("grad/x", dx);
    if (cross) run.compare("grad/kv", dkv);
    bound.compare();
    table.compare();
  }

  /// One query against kept keys and values. Our layers do not differentiate a decoding step.
  void step() {
    const index_t n = c.shape("in/x")[0], past = c.shape("in/past_key")[2], room = past + 1;
    check_sizes(past, past);
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
    if (biased) {
      position.forward(run.ctx, table.w, 1, past, writable(bias, room));
      position.forward(run.ctx, table.w, room, 0, writable(all, room));
    }
    layer.step(run.ctx, bound.w, constant(x, width),
               {n, 1, room, nullptr, false, past, biased ? constant(bias, room) : Matrix<const C>{}, 0},
               writable(keys, inner), writable(values, inner), room, true, writable(y, width));
    run.compare("out/y", y);
    if (biased && c.expects("out/position_bias")) run.compare("out/position_bias", all);
    for (const std::string& name : c.results())
      if (name.rfind("grad/", 0) == 0 || name == "out/attention") c.not_offered(name);
    for (const std::string& name : c.names("cotangent/")) c.not_needed("cotangent/" + name);
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
  c.check_shape("in/x", {"B", "S", "D"});
  const index_t n = c.shape("in/x")[0], length = c.shape("in/x")[1], width = c.shape("in/x")[2];
  const index_t heads = c.size("H"), d = c.option("head_dim", width / heads);
  const double theta = c.option("theta", c.option("rope_theta", 10000.0));
  const index_t window = c.option("sliding_window", index_t(0));
  std::vector<Link> links;
  bool bias = false;
  for (const std::string name : {"q", "k", "v", "o"}) {
    links.push_back({name + ".weight", 0, "w/" + name + "_proj.weight", true});
    if (!c.has("in/w/" + name + "_proj.bias")) continue;
    bias = true;
    links.push_back({name + ".bias", 0, "w/" + name + "_proj.bias", false});
  }
  const Layer layer{width, heads, d, bias, 1 / std::sqrt(static_cast<double>(d)), 1, c.option("KV", heads)};
  Bound<P, Layer> bound(run, layer, links);

  const auto positions = c.integers("in/position_ids");
  const index_t last = positions.empty() ? 0 : *std::max_element(positions.begin(), positions.end());
  const bool shown = c.expects("out/rope_cos");
  const index_t rows = shown ? c.shape(c.expected_name("out/rope_cos"))[0] : last + 1;
  require(last < rows && *std::min_element(positions.begin(), positions.end()) >= 0,
          "in/position_ids has a position outside of the ", rows, " of the table");
  const Matrix<const C> table = rotation_table<C, Cpu>(run.ctx, Tokens{1, rows}, theta, d);
  for (const bool sine : {false, true}) {  // theirs repeats the half
    if (!shown) break;
    Values all;
    for (index_t r = 0; r < rows; ++r)
      for (index_t j = 0; j < d; ++j) all.push_back(table(r, (sine ? d / 2 : 0) + j % (d / 2)));
    run.compare(sine ? "out/rope_sin" : "out/rope_cos", all);
  }
  const std::vector<S> x = run.in("x"), dy = run.cotangent("y");
  std::vector<S> y(x.size()), dx(x.size()), dattention(static_cast<std::size_t>(n * heads * length * length), S(0));
  if (c.has("cotangent/attention")) dattention = run.cotangent("attention");
  const std::vector<std::uint8_t> valid = key_mask(c);
  AttentionInfo<C> info{n, length, length, valid.empty() ? nullptr : valid.data(), true, 0, {}, window};
  std::vector<C> angles;  // of each token's own position
  for (const std::int32_t place : positions)
    angles.insert(angles.end(), table.row(place).data, table.row(place).data + d);
  info.rotation = constant(angles, d);
  typename Layer::Cache cache;
  layer.forward(run.ctx, bound.w, constant(x, width), constant(x, width), info, writable(y, width), cache);
  layer.backward(run.ctx, bound.w, bound.dw, constant(x, width), constant(x, width), info, constant(dy, width),
                 writable(dx, width), writable(dx, width), cache, {}, constant(dattention, length));
  run.compare("out/y", y);
  if (c.expects("out/attention"))
    run.compare("out/attention", std::vector<S>(cache.probs.data, cache.probs.data + cache.probs.size()));
  run.compare("grad/x", dx);
  bound.compare();
}

void add_attention(Kinds& kinds) {
  kinds.insert({
      SPARSEMOE_KIND("layer/t5_attention", attention_case),
      SPARSEMOE_KIND("layer/nllb_attention", attention_case),
      SPARSEMOE_KIND("layer/rope_gqa_attention", rotary_attention_case),
  });
}

}  // namespace conformance

// hf/t5.hpp -- T5 checkpoints (Raffel et al. 2020; transformers' "t5"): the configuration, the names, and the model
// they are. T5 1.0 (ReLU, tied head) and 1.1 (gated, untied) alike; the Switch Transformer builds on it. Read next:
// hf/switch_transformer.hpp.
#pragma once

#include <string>
#include <utility>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// One stack of a T5: RMS norms, no biases, a Switch router or Dense.
template <class PrecisionType, class BackendType, class Act, class RouterType = Dense>
struct T5Spec : SpecDefaults {
  using Router = RouterType;
  using Precision = PrecisionType;
  using Backend = BackendType;
  using Collective = Solo;
  using Activation = Act;
  template <class P, class B>
  using Norm = RmsNorm<P, B>;
};

/// The sizes that T5 and Switch Transformer checkpoints have in common. Throws FileError naming the key.
inline EncoderDecoderConfig t5_config(const Config& config) {
  EncoderDecoderConfig c;
  c.vocabulary = config.size("vocab_size");
  c.label_smoothing = 0;
  c.sinusoidal = false;
  c.embedding_scale = 1;
  c.tie_embeddings = config.flag("tie_word_embeddings", true);
  StackConfig& s = c.encoder;
  s.layers = config.size("num_layers");
  s.width = config.size("d_model");
  s.heads = config.size("num_heads");
  s.head_width = config.size("d_kv");
  s.hidden = config.size("d_ff");
  s.sparse_every = 0;
  s.dropout = config.real("dropout_rate", 0.1);
  s.bias = false;
  s.relative_positions = true;
  s.buckets = config.get<index_t>("relative_attention_num_buckets", 32);
  s.max_distance = config.get<index_t>("relative_attention_max_distance", 128);
  s.attention_scale = 1;
  s.norm_epsilon = config.real("layer_norm_epsilon", 1e-6);
  if (c.tie_embeddings) c.output_scale = 1 / std::sqrt(static_cast<double>(s.width));
  c.decoder = s;
  c.decoder.layers = config.get<index_t>("num_decoder_layers", s.layers);
  return c;
}

/// Where T5 and Switch Transformer checkpoints keep the weights of the two stacks; `ffn` is the name of a feed-forward
/// half ("DenseReluDense", "mlp").
inline NameMap t5_names(const std::string& family, const std::string& ffn, bool gated, bool tied) {
  NameMap map{family, {{"shared.weight", "shared.weight", Layout::same}}, {}, {}};
  map.aliases = {{"encoder.embed_tokens.weight", "shared.weight"}, {"decoder.embed_tokens.weight", "shared.weight"}};
  if (tied)
    map.aliases.push_back({"lm_head.weight", "shared.weight"});
  else
    map.rules.push_back({"lm_head.weight", "lm_head.weight", Layout::same});
  // transformers before 4.0 made one that nothing used
  map.unused = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"};
  for (const std::string stack : {"encoder.", "decoder."}) {
    const auto rule = [&](const std::string& ours, const std::string& theirs, Layout layout = Layout::transposed) {
      map.rules.push_back({stack + ours, stack + theirs, layout});
    };
    const std::string ours = "layers.{l}.", theirs = "block.{l}.layer.", last = stack == "encoder." ? "1." : "2.";
    rule("relative_position.weight", "block.0.layer.0.SelfAttention.relative_attention_bias.weight", Layout::same);
    rule("final_norm.weight", "final_layer_norm.weight", Layout::vector);
    rule(ours + "self_attention_norm.weight", theirs + "0.layer_norm.weight", Layout::vector);
    rule(ours + "cross_attention_norm.weight", theirs + "1.layer_norm.weight", Layout::vector);
    rule(ours + "feed_forward_norm.weight", theirs + last + "layer_norm.weight", Layout::vector);
    for (const std::string part : {"q", "k", "v", "o"}) {
      rule(ours + "self_attention." + part + ".weight", theirs + "0.SelfAttention." + part + ".weight");
      rule(ours + "cross_attention." + part + ".weight", theirs + "1.EncDecAttention." + part + ".weight");
    }
    const std::string half = theirs + last + ffn + ".", expert = half + "experts.expert_{e}.";
    for (const auto& [prefix, at] : {std::pair{ours + "ffn.", half}, std::pair{ours + "moe.experts.", expert}}) {
      rule(prefix + "wi", at + (gated ? "wi_0.weight" : "wi.weight"));
      if (gated) rule(prefix + "wg", at + "wi_1.weight");
      rule(prefix + "wo", at + "wo.weight");
    }
    rule(ours + "moe.router.weight", half + "router.classifier.weight");
    rule(ours + "moe.router.bias", half + "router.classifier.bias", Layout::vector);
  }
  return map;
}

/// Calls f(Act{}) with the activation that config.json names.
template <class F>
decltype(auto) with_t5_activation(const Config& config, F&& f) {
  // feed_forward_proj says it; "gated-gelu" means the tanh form, as transformers keeps for the published T5 1.1.
  const std::string name = config.text("feed_forward_proj", "relu");
  switch (config.one_of("feed_forward_proj", name, {"relu", "gated-gelu", "gated-silu"})) {
    case 0: return f(Relu{});
    case 1: return f(Gated<GeluTanh>{});
    default: return f(Gated<Silu>{});
  }
}

/// Calls f(model, names) with a model of config.json's sizes, whose weights have no values yet (load() gives them).
/// Throws FileError for what the file asks and the model does not have.
template <class P, class B, class F>
decltype(auto) with_t5(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  return with_t5_activation(config, [&]<class Act>(Act) -> decltype(auto) {
    using Spec = T5Spec<P, B, Act>;
    const EncoderDecoderConfig c = t5_config(config);
    EncoderDecoder<Spec, Spec> model(ctx, c, for_training);
    return f(model, t5_names("T5", "DenseReluDense", Act::gated, c.tie_embeddings));
  });
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// hf/t5.hpp -- T5 checkpoints (Raffel et al. 2020; transformers' "t5", "mt5" and "umt5", ByT5 among them): the
// configuration, the names, and the model they are. T5 1.0 (ReLU, tied head) and 1.1 (gated, untied) alike; the Switch
// Transformer builds on it. Read next: hf/activation.hpp; hf/switch_transformer.hpp, hf/nllb.hpp and hf/mixtral.hpp for
// the other families, hf/any_model.hpp for whichever a file names.
#pragma once

#include <string>
#include <utility>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/activation.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/hf/keys.hpp"
#include "sparsemoe/hf/sizes.hpp"
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

/// The sizes that T5 and Switch Transformer checkpoints have in common, as if their head were tied; dropout only for
/// training. Throws FileError naming the key.
inline EncoderDecoderConfig t5_config(const Config& config, bool for_training = false) {
  EncoderDecoderConfig c;
  c.vocabulary = config.count("vocab_size", 2, Limits::vocabulary);
  c.label_smoothing = 0;
  c.sinusoidal = false;
  c.embedding_scale = 1;
  StackConfig& s = c.encoder;
  s.layers = config.count_either("num_layers", "num_hidden_layers", Limits::layers);
  s.width = config.count_either("d_model", "hidden_size", Limits::width);
  s.heads = config.count_either("num_heads", "num_attention_heads", Limits::heads);
  s.head_width = config.count_either("d_kv", "head_dim", Limits::heads);
  s.hidden = config.count("d_ff", 1, Limits::hidden);
  s.sparse_every = 0;
  s.dropout = for_training ? config.number("dropout_rate", 0.1, 0, 1) : 0;
  s.bias = false;
  s.relative_positions = true;
  s.relative_every_layer = config.text("model_type", "t5") == "umt5";
  s.buckets = config.count("relative_attention_num_buckets", 4, Limits::buckets, 32);
  // The decoder's first half of the buckets is for a distance each, the others for the logarithm of what is beyond.
  s.max_distance = config.count("relative_attention_max_distance", s.buckets / 2 + 1, Limits::positions, 128);
  if (s.max_distance <= s.buckets / 2)
    config.refuse("relative_attention_num_buckets",
                  join("at most ", 2 * s.max_distance - 1, " for a largest distance of ", s.max_distance));
  s.attention_scale = 1;
  s.norm_epsilon = config.number("layer_norm_epsilon", 1e-6, 0, 1);
  c.decoder = s;
  c.decoder.layers = config.count("num_decoder_layers", 1, Limits::layers, s.layers);
  return c;
}

/// Whether config.json says that the output head is the embedding. What the files hold counts before it (own_head()).
inline bool t5_said_tied(const Config& config) {
  return config.flag("tie_word_embeddings", config.text("model_type", "t5") != "mt5");
}
/// The scale of the hidden state before the head. transformers 5 says scale_decoder_outputs, or means that the head was
/// once tied; mT5 it never scales. transformers 4 scales where the head is tied, in mT5 too.
inline double t5_output_scale(const Config& config) {
  const bool tied = t5_said_tied(config), mt5 = config.text("model_type", "t5") == "mt5";
  const bool old = config.text("transformers_version", "4").starts_with("4");
  const bool scaled = mt5 ? tied && old : config.flag("scale_decoder_outputs", tied);
  return scaled ? 1 / std::sqrt(static_cast<double>(config.count_either("d_model", "hidden_size", Limits::width))) : 1;
}
inline HeadNames t5_head() {
  return {"lm_head.weight", {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}};
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
  map.unused = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "*.position_ids",
                "*.masked_bias"};
  for (const std::string stack : {"encoder.", "decoder."}) {
    const auto rule = [&](const std::string& ours, const std::string& theirs, Layout layout = Layout::transposed) {
      map.rules.push_back({stack + ours, stack + theirs, layout});
    };
    const std::string ours = "layers.{l}.", theirs = "block.{l}.layer.", last = stack == "encoder." ? "1." : "2.";
    rule(ours + "relative_position.weight", theirs + "0.SelfAttention.relative_attention_bias.weight", Layout::same);
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

/// The activation of a T5, and whether it is gated. dense_act_fn and is_gated_act say it before feed_forward_proj,
/// whose "gated-gelu" means the tanh form, as transformers keeps for the published T5 1.1. Throws FileError for
/// another.
struct T5Activation {
  Function function = Function::relu;
  bool gated = false;
};
inline T5Activation t5_activation(const Config& config) {
  const bool plain = config.text("model_type", "t5") == "t5";
  const std::string projection = config.text("feed_forward_proj", plain ? "relu" : "gated-gelu");
  const bool gated = projection.starts_with("gated-");
  std::string name = gated ? projection.substr(6) : projection;
  if (gated && name == "gelu") name = "gelu_new";
  const char* const key = config.has("dense_act_fn") ? "dense_act_fn" : "feed_forward_proj";
  return {function_of(config, key, config.text("dense_act_fn", name)), config.flag("is_gated_act", gated)};
}

/// The whole configuration of a T5; the weights beside the file tell what it leaves open. Throws FileError for what the
/// file asks and no model has, or the tensors have not.
inline EncoderDecoderConfig t5_model_config(const Config& config, const Tensors& tensors, bool for_training = false) {
  EncoderDecoderConfig c = t5_config(config, for_training);
  c.tie_embeddings = !own_head(tensors, t5_head(), t5_said_tied(config));
  c.output_scale = t5_output_scale(config);
  const bool gated = t5_activation(config).gated;
  check_size(config, tensors,
             matrix_parameters(c.encoder, gated, false) + matrix_parameters(c.decoder, gated, true) +
                 static_cast<double>(c.vocabulary * c.encoder.width));
  return c;
}

/// Calls f(model, names) with a model of config.json's sizes, whose weights have no values yet (load() gives them).
/// Throws FileError for what the file asks and the model does not have, before anything of its sizes is allocated.
template <class P, class B, class F>
decltype(auto) with_t5(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  check_keys(config);
  const T5Activation activation = t5_activation(config);
  const Tensors tensors(config.path().parent_path(), Names::either);
  const EncoderDecoderConfig c = t5_model_config(config, tensors, for_training);
  const auto make = [&]<bool Gated>(std::bool_constant<Gated>) -> decltype(auto) {
    using Spec = T5Spec<P, B, AnyActivation<Gated>>;
    EncoderDecoder<Spec, Spec> model(ctx, c, for_training);
    model.encoder().set_activation({activation.function});
    model.decoder().set_activation({activation.function});
    return f(model, t5_names("T5", "DenseReluDense", Gated, c.tie_embeddings));
  };
  if (activation.gated) return make(std::true_type{});
  return make(std::false_type{});
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

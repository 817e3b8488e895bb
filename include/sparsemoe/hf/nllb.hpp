// hf/nllb.hpp -- NLLB-MoE checkpoints (NLLB Team 2022; transformers' "nllb-moe"): a pre-norm transformer with
// sinusoidal positions, biases, and top-2 sparse layers. Read next: hf/nllb_router.hpp.
#pragma once

#include <string>
#include <utility>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

template <class PrecisionType, class BackendType, class Act>
struct NllbSpec : SpecDefaults {
  using Router = NllbRouter;
  using Precision = PrecisionType;
  using Backend = BackendType;
  using Collective = Solo;
  using Activation = Act;
};

/// Throws FileError naming the key.
inline EncoderDecoderConfig nllb_config(const Config& config) {
  EncoderDecoderConfig c;
  c.vocabulary = config.size("vocab_size");
  c.label_smoothing = 0;
  c.sinusoidal = true;
  c.embedding_scale = config.flag("scale_embedding", true) ? 0 : 1;
  c.tie_embeddings = config.flag("tie_word_embeddings", true);
  c.padding = config.get<std::int32_t>("pad_token_id", 1);
  c.first_position = c.padding + 1;
  const auto stack = [&](StackConfig& s, const std::string& which) {
    s.layers = config.size(which + "_layers");
    s.width = config.size("d_model");
    s.heads = config.size(which + "_attention_heads");
    if (s.heads < 1 || s.width % s.heads != 0)
      config.refuse(which + "_attention_heads", join("a divisor of d_model, ", s.width));
    s.head_width = s.width / s.heads;
    s.hidden = config.size(which + "_ffn_dim");
    s.sparse_every = config.get<index_t>(which + "_sparse_step", 4);
    s.dropout = config.real("dropout", 0.1);
    s.norm_epsilon = 1e-5;
    s.moe.experts = config.size("num_experts");
    s.moe.gate_bias = config.flag("router_bias", false);
    s.moe.route_padding = config.flag("router_ignore_padding_tokens", false);  // there true means that it is routed
    s.moe.output_masking = config.real("moe_token_dropout", 0.2);
    s.moe.balance_coefficient = config.real("router_aux_loss_coef", 0.001);
    s.moe.z_coefficient = 0;  // router_z_loss_coef is read by nothing there
    s.moe.scores_ahead = true;
    if (config.flag("batch_prioritized_routing", false)) s.moe.priority = Priority::batch;
  };
  stack(c.encoder, "encoder");
  stack(c.decoder, "decoder");
  return c;
}

inline NllbRouter nllb_router(const Config& config) {
  NllbRouter r;
  const std::string policy = config.text("second_expert_policy", "all");
  r.second = static_cast<SecondExpert>(config.one_of("second_expert_policy", policy, {"all", "random", "sampling"}));
  r.normalise_before = config.flag("normalize_router_prob_before_dropping", false);
  r.expert_capacity = expert_capacity(config);
  r.eval_share = config.real("moe_eval_capacity_token_fraction", 1);
  return r;
}

inline NameMap nllb_names(bool tied) {
  NameMap map{"NLLB-MoE", {{"shared.weight", "model.shared.weight", Layout::same}}, {}, {}};
  map.aliases = {{"model.encoder.embed_tokens.weight", "model.shared.weight"},
                 {"model.decoder.embed_tokens.weight", "model.shared.weight"}};
  if (tied)
    map.aliases.push_back({"lm_head.weight", "model.shared.weight"});
  else
    map.rules.push_back({"lm_head.weight", "lm_head.weight", Layout::same});
  map.unused = {"model.encoder.embed_positions.weights", "model.decoder.embed_positions.weights"};  // sinusoids
  for (const std::string stack : {"encoder.", "decoder."}) {
    const auto pair = [&](const std::string& ours, const std::string& theirs, bool norm) {
      map.rules.push_back({stack + ours + ".weight", "model." + stack + theirs + ".weight",
                           norm ? Layout::vector : Layout::transposed});
      map.rules.push_back({stack + ours + ".bias", "model." + stack + theirs + ".bias", Layout::vector});
    };
    const std::string layer = "layers.{l}.";
    pair("final_norm", "layer_norm", true);
    pair(layer + "self_attention_norm", layer + "self_attn_layer_norm", true);
    pair(layer + "cross_attention_norm", layer + "cross_attention_layer_norm", true);
    pair(layer + "feed_forward_norm", layer + "ff_layer_norm", true);
    for (const auto& [ours, theirs] : {std::pair{"q", "q_proj"}, {"k", "k_proj"}, {"v", "v_proj"}, {"o", "out_proj"}}) {
      pair(layer + "self_attention." + ours, layer + "self_attn." + theirs, false);
      pair(layer + "cross_attention." + ours, layer + "cross_attention." + theirs, false);
    }
    pair(layer + "moe.router", layer + "ffn.router.classifier", false);
    for (const auto& [ours, theirs] : {std::pair{"ffn.", "ffn."}, {"moe.experts.", "ffn.experts.expert_{e}."}}) {
      const std::string from = stack + layer + ours, to = "model." + stack + layer + theirs;
      map.rules.push_back({from + "wi", to + "fc1.weight", Layout::transposed});
      map.rules.push_back({from + "bi", to + "fc1.bias", Layout::vector});
      map.rules.push_back({from + "wo", to + "fc2.weight", Layout::transposed});
      map.rules.push_back({from + "bo", to + "fc2.bias", Layout::vector});
    }
  }
  return map;
}

/// As with_t5().
template <class P, class B, class F>
decltype(auto) with_nllb(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  const auto make = [&]<class Act>(Act) -> decltype(auto) {
    using Spec = NllbSpec<P, B, Act>;
    const EncoderDecoderConfig c = nllb_config(config);
    EncoderDecoder<Spec, Spec> model(ctx, c, for_training);
    model.encoder().set_router(nllb_router(config));
    model.decoder().set_router(nllb_router(config));
    return f(model, nllb_names(c.tie_embeddings));
  };
  const std::string name = config.text("activation_function", "relu");
  switch (config.one_of("activation_function", name, {"relu", "gelu"})) {
    case 0: return make(Relu{});
    default: return make(Gelu{});
  }
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

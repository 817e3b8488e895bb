// SPDX-License-Identifier: Apache-2.0
// hf/nllb.hpp -- NLLB and M2M-100 checkpoints (NLLB Team 2022; transformers' "nllb-moe" and "m2m_100"): a pre-norm
// transformer with sinusoidal positions and biases, and, in the first, top-2 sparse layers. Read next:
// hf/nllb_router.hpp.
#pragma once

#include <string>
#include <utility>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/activation.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/hf/keys.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/hf/sizes.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

template <class PrecisionType, class BackendType>
struct NllbSpec : SpecDefaults {
  using Router = NllbRouter;
  using Precision = PrecisionType;
  using Backend = BackendType;
  using Collective = Solo;
  using Activation = AnyActivation<false>;
};

/// True for NLLB-MoE, false for the dense NLLB and M2M-100.
inline bool nllb_is_sparse(const Config& config) { return family_of(config) == Family::nllb; }

/// The sparse layers of a stack, "encoder" or "decoder".
inline void nllb_sparse_layers(const Config& config, const std::string& which, bool for_training, StackConfig& s) {
  config.only<std::string>("router_dtype", "float32");
  s.sparse_every = std::max<index_t>(config.get<index_t>(which + "_sparse_step", 4), 0);  // below 1: no layer is sparse
  s.moe.experts = config.count("num_experts", 2, Limits::experts);
  s.moe.gate_bias = config.flag("router_bias", false);
  s.moe.route_padding = config.flag("router_ignore_padding_tokens", false);  // there true means that it is routed
  s.moe.output_masking = config.number("moe_token_dropout", 0.2, 0, 1);      // in evaluation outputs are times 1 - p
  s.moe.balance_coefficient = for_training ? config.real("router_aux_loss_coef", 0.001) : 0;
  s.moe.z_coefficient = 0;  // router_z_loss_coef is read by nothing there
  s.moe.scores_ahead = true;
  if (config.flag("batch_prioritized_routing", false)) s.moe.priority = Priority::batch;
}

/// As if the head were tied. Throws FileError naming the key.
inline EncoderDecoderConfig nllb_config(const Config& config, bool for_training = false) {
  EncoderDecoderConfig c;
  c.vocabulary = config.count("vocab_size", 2, Limits::vocabulary);
  c.label_smoothing = 0;
  c.sinusoidal = true;
  c.embedding_scale = config.flag("scale_embedding", true) ? 0 : 1;
  c.padding = static_cast<std::int32_t>(config.count("pad_token_id", 0, c.vocabulary - 1, 1));
  c.first_position = c.padding + 1;
  const auto stack = [&](StackConfig& s, const std::string& which) {
    s.layers = config.count(which + "_layers", 1, Limits::layers);
    s.width = config.count_either("d_model", "hidden_size", Limits::width);
    s.heads = config.count(which + "_attention_heads", 1, Limits::heads);
    if (s.width % s.heads != 0) config.refuse(which + "_attention_heads", join("a divisor of d_model, ", s.width));
    s.head_width = s.width / s.heads;
    s.hidden = config.count(which + "_ffn_dim", 1, Limits::hidden);
    s.dropout = for_training ? config.number("dropout", 0.1, 0, 1) : 0;
    s.norm_epsilon = 1e-5;
    s.sparse_every = 0;
    if (nllb_is_sparse(config)) nllb_sparse_layers(config, which, for_training, s);
  };
  stack(c.encoder, "encoder");
  stack(c.decoder, "decoder");
  if (config.has("num_attention_heads") && config.size("num_attention_heads") != c.encoder.heads)
    config.refuse("num_attention_heads", join(c.encoder.heads, ", as \"encoder_attention_heads\" says"));
  return c;
}

inline NllbRouter nllb_router(const Config& config, bool for_training = false) {
  NllbRouter r;
  const std::string policy = config.text("second_expert_policy", "all");
  r.second = static_cast<SecondExpert>(config.one_of("second_expert_policy", policy, {"all", "random", "sampling"}));
  r.normalise_before = config.flag("normalize_router_prob_before_dropping", false);
  r.eval_share = config.number("moe_eval_capacity_token_fraction", 1, -1e6, 1e6);
  if (for_training || r.eval_share <= 0) r.expert_capacity = expert_capacity(config);
  return r;
}
/// True where what is computed of a sentence depends on those beside it: slots of an expert are counted over the whole
/// batch and can be too few, or the second expert is drawn. Alone, a sentence gives what transformers gives for it.
inline bool nllb_mixes_sentences(const Config& config) {
  if (!nllb_is_sparse(config)) return false;
  const NllbRouter router = nllb_router(config);
  return router.eval_share < 1 || router.second != SecondExpert::all;
}

inline NameMap nllb_names(bool sparse, bool tied) {
  NameMap map{sparse ? "NLLB-MoE" : "NLLB", {{"shared.weight", "model.shared.weight", Layout::same}}};
  map.aliases = {{"model.encoder.embed_tokens.weight", "model.shared.weight"},
                 {"model.decoder.embed_tokens.weight", "model.shared.weight"}};
  if (tied)
    map.aliases.push_back({"lm_head.weight", "model.shared.weight"});
  else
    map.rules.push_back({"lm_head.weight", "lm_head.weight", Layout::same});
  map.unused = {"*.embed_positions.weights",
                "*.embed_positions._float_tensor",
                "*.position_ids",
                "*.masked_bias",
                "model.encoder.version",
                "model.decoder.version"};
  // The dense family keeps the feed-forward in the layer itself, and has its own names for two things.
  const std::string ffn = sparse ? "ffn." : "", ffn_norm = sparse ? "ff_layer_norm" : "final_layer_norm",
                    cross = sparse ? "cross_attention" : "encoder_attn";
  for (const std::string stack : {"encoder.", "decoder."}) {
    const auto pair = [&](const std::string& ours, const std::string& theirs, bool norm) {
      map.rules.push_back({stack + ours + ".weight", "model." + stack + theirs + ".weight",
                           norm ? Layout::vector : Layout::transposed});
      map.rules.push_back({stack + ours + ".bias", "model." + stack + theirs + ".bias", Layout::vector});
    };
    const std::string layer = "layers.{l}.";
    pair("final_norm", "layer_norm", true);
    pair(layer + "self_attention_norm", layer + "self_attn_layer_norm", true);
    pair(layer + "cross_attention_norm", layer + cross + "_layer_norm", true);
    pair(layer + "feed_forward_norm", layer + ffn_norm, true);
    for (const auto& [ours, theirs] : {std::pair{"q", "q_proj"}, {"k", "k_proj"}, {"v", "v_proj"}, {"o", "out_proj"}}) {
      pair(layer + "self_attention." + ours, layer + "self_attn." + theirs, false);
      pair(layer + "cross_attention." + ours, layer + cross + "." + theirs, false);
    }
    pair(layer + "moe.router", layer + "ffn.router.classifier", false);
    for (const auto& [ours, theirs] :
         {std::pair<std::string, std::string>{"ffn.", ffn}, {"moe.experts.", "ffn.experts.expert_{e}."}}) {
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
  check_keys(config);
  EncoderDecoderConfig c = nllb_config(config, for_training);
  const AnyActivation<false> activation{
      function_of(config, "activation_function", config.text("activation_function", "relu"))};
  const Tensors tensors(config.path().parent_path(), Names::either);
  const bool said_tied = config.flag("tie_word_embeddings", true), sparse = nllb_is_sparse(config);
  const HeadNames head{"lm_head.weight",
                       {"model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
                        "shared.weight"}};
  c.tie_embeddings = said_tied && !own_head(tensors, head, said_tied);
  check_size(config, tensors,
             matrix_parameters(c.encoder, false, false) + matrix_parameters(c.decoder, false, true) +
                 static_cast<double>(c.vocabulary * c.encoder.width));
  EncoderDecoder<NllbSpec<P, B>, NllbSpec<P, B>> model(ctx, c, for_training);
  if (sparse) {
    model.encoder().set_router(nllb_router(config, for_training));
    model.decoder().set_router(nllb_router(config, for_training));
  }
  model.encoder().set_activation(activation);
  model.decoder().set_activation(activation);
  return f(model, nllb_names(sparse, c.tie_embeddings));
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

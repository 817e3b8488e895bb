// SPDX-License-Identifier: Apache-2.0
// hf/mixtral.hpp -- Mixtral checkpoints (Jiang et al. 2024; transformers' "mixtral"): a decoder-only model with rotary
// positions, shared key heads, a window if asked for, and top-k experts with SwiGLU in every layer. Read next:
// hf/rope.hpp, model/language_model.hpp.
#pragma once

#include <string>
#include <utility>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/activation.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/hf/keys.hpp"
#include "sparsemoe/hf/losses.hpp"
#include "sparsemoe/hf/rope.hpp"
#include "sparsemoe/hf/sizes.hpp"
#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// The `chosen` best of at most K, weights over their sum; the balance loss is that of all layers' tokens together.
template <int K>
struct MixtralRouter : TopK<K> {
  using StackLoss = JointBalance<false, false>;
  static constexpr bool up_to_top_k = true;
  int chosen = K;
  template <class T>
  SPARSEMOE_HD Choice<K> choose(Row<const T> p, const TokenInfo&) const {
    Choice<K> c = best<K>(p);
    for (int k = chosen; k < K; ++k) c.expert[k] = Choice<K>::none;
    return c;
  }
};

template <class PrecisionType, class BackendType, int K>
struct MixtralSpec : SpecDefaults {
  using Router = MixtralRouter<K>;
  using Precision = PrecisionType;
  using Backend = BackendType;
  using Collective = Solo;
  using Activation = AnyActivation<true>;
  template <class P, class B>
  using Norm = RmsNorm<P, B>;
};

/// As if the head were not tied. Throws FileError naming the key.
inline LanguageModelConfig mixtral_config(const Config& config, bool for_training = false) {
  LanguageModelConfig c;
  c.vocabulary = config.count("vocab_size", 2, Limits::vocabulary);
  c.sinusoidal = false;
  c.embedding_scale = 1;
  c.tie_embeddings = false;
  c.padding = static_cast<std::int32_t>(config.count("pad_token_id", 0, c.vocabulary - 1, -1));
  StackConfig& s = c.decoder;
  s.layers = config.count("num_hidden_layers", 1, Limits::layers);
  s.width = config.count("hidden_size", 1, Limits::width);
  s.heads = config.count("num_attention_heads", 1, Limits::heads);
  const bool said = config.json().contains("num_key_value_heads");  // null: as many as heads
  s.kv_heads = config.count("num_key_value_heads", 1, Limits::heads, said ? s.heads : 8);
  if (s.heads % s.kv_heads != 0)
    config.refuse("num_key_value_heads", join("a divisor of num_attention_heads, ", s.heads));
  if (!config.has("head_dim") && s.width % s.heads != 0)
    config.refuse("num_attention_heads", join("a divisor of hidden_size, ", s.width));
  s.head_width = config.count("head_dim", 1, Limits::heads, s.width / s.heads);
  if (s.head_width % 2 != 0)
    config.refuse(config.has("head_dim") ? "head_dim" : "hidden_size", "an even width of a head, for rotary positions");
  s.hidden = config.count("intermediate_size", 1, Limits::hidden);
  s.sparse_every = 1;
  s.bias = false;
  const Rope rope = rope_of(config, s.head_width, 1e6, 131072);
  s.rotary_theta = rope.theta;
  s.rotary = rope.scaling;
  s.window = config.count("sliding_window", 1, Limits::positions, 0);
  s.norm_epsilon = config.number("rms_norm_eps", 1e-5, 0, 1);
  s.moe.experts = config.count_either("num_local_experts", "num_experts", Limits::experts);
  s.moe.jitter_experts = true;
  if (!for_training) return c;
  config.only("attention_dropout", 0.0);
  s.moe.jitter = config.number("router_jitter_noise", 0, 0, 1);
  // transformers has the loss only where the router's logits are asked for.
  s.moe.balance_coefficient =
      config.flag("output_router_logits", false) ? config.real("router_aux_loss_coef", 0.001) : 0;
  return c;
}

inline NameMap mixtral_names(bool tied) {
  NameMap map{"Mixtral", {{"shared.weight", "model.embed_tokens.weight", Layout::same}}};
  map.unused = {"*.rotary_emb.inv_freq", "*.position_ids", "*.masked_bias"};
  if (tied)
    map.aliases.push_back({"lm_head.weight", "model.embed_tokens.weight"});
  else
    map.rules.push_back({"lm_head.weight", "lm_head.weight", Layout::same});
  const std::string ours = "decoder.layers.{l}.", theirs = "model.layers.{l}.";
  map.rules.push_back({"decoder.final_norm.weight", "model.norm.weight", Layout::vector});
  map.rules.push_back({ours + "self_attention_norm.weight", theirs + "input_layernorm.weight", Layout::vector});
  map.rules.push_back({ours + "feed_forward_norm.weight", theirs + "post_attention_layernorm.weight", Layout::vector});
  for (const std::string part : {"q", "k", "v", "o"})
    map.rules.push_back({ours + "self_attention." + part + ".weight", theirs + "self_attn." + part + "_proj.weight"});
  map.rules.push_back({ours + "moe.router.weight", theirs + "block_sparse_moe.gate.weight"});
  for (const auto& [name, weight] : {std::pair{"wi", "w1"}, {"wg", "w3"}, {"wo", "w2"}})
    map.rules.push_back({ours + "moe.experts." + name, theirs + "block_sparse_moe.experts.{e}." + weight + ".weight"});
  // transformers 5 keeps all experts in a tensor; its files have that only where it was asked to write its own names.
  const std::string experts = theirs + "mlp.experts.";
  map.others = {{ours + "moe.router.weight", theirs + "mlp.gate.weight"},
                {ours + "moe.experts.wi", experts + "gate_up_proj", 0, 2},
                {ours + "moe.experts.wg", experts + "gate_up_proj", 1, 2},
                {ours + "moe.experts.wo", experts + "down_proj", 0, 1}};
  for (const auto& [name, weight] : {std::pair{"wi", "w1"}, {"wg", "w3"}, {"wo", "w2"}})
    map.others.push_back({ours + "moe.experts." + name, experts + "{e}." + weight + ".weight"});
  return map;
}

/// As with_t5(), with a language model. Four to eight experts a token are the same code.
template <class P, class B, class F>
decltype(auto) with_mixtral(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  check_keys(config);
  LanguageModelConfig c = mixtral_config(config, for_training);
  const AnyActivation<true> activation{function_of(config, "hidden_act", config.text("hidden_act", "silu"))};
  const index_t chosen = config.count("num_experts_per_tok", 1, 8, 2);
  if (chosen > c.decoder.moe.experts)
    config.refuse("num_experts_per_tok", join("at most the ", c.decoder.moe.experts, " experts"));
  const Tensors tensors(config.path().parent_path(), Names::either);
  const bool said_tied = config.flag("tie_word_embeddings", false);
  c.tie_embeddings =
      said_tied && !own_head(tensors, {"lm_head.weight", {"model.embed_tokens.weight", "shared.weight"}}, said_tied);
  check_size(config, tensors,
             matrix_parameters(c.decoder, true, false) + static_cast<double>(c.vocabulary * c.decoder.width));
  const auto make = [&]<int K>(std::integral_constant<int, K>) -> decltype(auto) {
    LanguageModel<MixtralSpec<P, B, K>> model(ctx, c, for_training);
    MixtralRouter<K> router;
    router.chosen = static_cast<int>(chosen);
    model.set_router(router);
    model.decoder().set_activation(activation);
    return f(model, mixtral_names(c.tie_embeddings));
  };
  switch (chosen) {
    case 1: return make(std::integral_constant<int, 1>{});
    case 2: return make(std::integral_constant<int, 2>{});
    case 3: return make(std::integral_constant<int, 3>{});
    default: return make(std::integral_constant<int, 8>{});
  }
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// hf/mixtral.hpp -- Mixtral checkpoints (Jiang et al. 2024; transformers' "mixtral"): a decoder-only model with rotary
// positions, shared key heads, a window if asked for, and top-k experts with SwiGLU in every layer. Read next:
// model/language_model.hpp.
#pragma once

#include <string>
#include <utility>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/hf/losses.hpp"
#include "sparsemoe/model/language_model.hpp"
#include "sparsemoe/routers/top_k.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// The k best, weights over their sum; the balance loss is that of all layers' tokens together.
template <int K>
struct MixtralRouter : TopK<K> {
  using StackLoss = JointBalance<false, false>;
};

template <class PrecisionType, class BackendType, int K>
struct MixtralSpec : SpecDefaults {
  using Router = MixtralRouter<K>;
  using Precision = PrecisionType;
  using Backend = BackendType;
  using Collective = Solo;
  using Activation = Gated<Silu>;
  template <class P, class B>
  using Norm = RmsNorm<P, B>;
};

/// Throws FileError naming the key.
inline LanguageModelConfig mixtral_config(const Config& config) {
  config.only<std::string>("hidden_act", "silu");
  LanguageModelConfig c;
  c.vocabulary = config.size("vocab_size");
  c.sinusoidal = false;
  c.embedding_scale = 1;
  c.tie_embeddings = config.flag("tie_word_embeddings", false);
  c.padding = config.get<std::int32_t>("pad_token_id", -1);
  StackConfig& s = c.decoder;
  s.layers = config.size("num_hidden_layers");
  s.width = config.size("hidden_size");
  s.heads = config.size("num_attention_heads");
  s.kv_heads = config.get<index_t>("num_key_value_heads", s.heads);
  if (s.heads < 1 || s.kv_heads < 1 || s.heads % s.kv_heads != 0)
    config.refuse("num_key_value_heads", join("a divisor of num_attention_heads, ", s.heads));
  if (!config.has("head_dim") && s.width % s.heads != 0)
    config.refuse("num_attention_heads", join("a divisor of hidden_size, ", s.width));
  s.head_width = config.get<index_t>("head_dim", s.width / s.heads);
  s.hidden = config.size("intermediate_size");
  s.sparse_every = 1;
  s.dropout = 0;
  config.only("attention_dropout", 0.0);
  s.bias = false;
  s.rotary_theta = config.real("rope_theta", 1e6);
  s.window = config.get<index_t>("sliding_window", 0);
  s.norm_epsilon = config.real("rms_norm_eps", 1e-5);
  s.moe.experts = config.size("num_local_experts");
  s.moe.jitter = config.real("router_jitter_noise", 0);
  s.moe.jitter_experts = true;
  // transformers has the loss only where the router's logits are asked for.
  s.moe.balance_coefficient =
      config.flag("output_router_logits", false) ? config.real("router_aux_loss_coef", 0.001) : 0;
  return c;
}

inline NameMap mixtral_names(bool tied) {
  NameMap map{"Mixtral", {{"shared.weight", "model.embed_tokens.weight", Layout::same}}, {}, {}};
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
  return map;
}

/// As with_t5(), with a language model.
template <class P, class B, class F>
decltype(auto) with_mixtral(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  const auto make = [&]<int K>(std::integral_constant<int, K>) -> decltype(auto) {
    const LanguageModelConfig c = mixtral_config(config);
    LanguageModel<MixtralSpec<P, B, K>> model(ctx, c, for_training);
    return f(model, mixtral_names(c.tie_embeddings));
  };
  switch (config.get<int>("num_experts_per_tok", 2)) {
    case 1: return make(std::integral_constant<int, 1>{});
    case 2: return make(std::integral_constant<int, 2>{});
    case 3: return make(std::integral_constant<int, 3>{});
    default: config.refuse("num_experts_per_tok", "1, 2 or 3");
  }
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

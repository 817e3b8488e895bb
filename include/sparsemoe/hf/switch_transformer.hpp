// hf/switch_transformer.hpp -- Switch Transformer checkpoints (Fedus et al. 2021; transformers' "switch_transformers"):
// a T5 whose every n-th feed-forward is sparse. Read next: hf/switch_router.hpp for how its routing differs from the
// paper's.
#pragma once

#include <string>

#include "sparsemoe/hf/switch_router.hpp"
#include "sparsemoe/hf/t5.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// Throws FileError naming the key.
inline EncoderDecoderConfig switch_transformer_config(const Config& config) {
  EncoderDecoderConfig c = t5_config(config);
  config.only("router_ignore_padding_tokens", false);
  config.only("add_router_probs", false);
  const auto sparse = [&](StackConfig& s, const char* key) {
    const index_t count = config.size(key), experts = config.size("num_experts");
    if (count < 0 || count > s.layers) config.refuse(key, join("0 to ", s.layers, " sparse layers"));
    // Layer i is sparse iff i % step == 1 or step == 1.
    const index_t step = count > 0 ? s.layers / count : 0;
    index_t n = 0;
    for (index_t l = 0; l < s.layers; ++l) {
      const bool here = step == 1 || (step > 1 && l % step == 1);
      s.experts_of_layer.push_back(here ? experts : 0);
      n += here ? 1 : 0;
    }
    s.moe.experts = experts;
    s.moe.gate_bias = config.flag("router_bias", false);
    s.moe.route_padding = true;
    s.moe.jitter = config.real("router_jitter_noise", 0.01);
    s.moe.jitter_experts = true;
    s.moe.balance_scope = LossScope::sequence;
    // transformers computes no losses where every layer is sparse; its z-loss is a mean over layers, ours a sum.
    s.moe.balance_coefficient = step == 1 ? 0 : config.real("router_aux_loss_coef", 0.001);
    s.moe.z_coefficient = step == 1 || n == 0 ? 0 : config.real("router_z_loss_coef", 0.001) / static_cast<double>(n);
    s.moe.expert_dropout = 0;
  };
  sparse(c.encoder, "num_sparse_encoder_layers");
  sparse(c.decoder, "num_sparse_decoder_layers");
  return c;
}

/// As with_t5().
template <class P, class B, class F>
decltype(auto) with_switch_transformer(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  const auto make = [&]<class Act>(Act) -> decltype(auto) {
    using Spec = T5Spec<P, B, Act, SwitchRouter>;
    const EncoderDecoderConfig c = switch_transformer_config(config);
    EncoderDecoder<Spec, Spec> model(ctx, c, for_training);
    const SwitchRouter router{{}, expert_capacity(config)};
    model.encoder().set_router(router);
    model.decoder().set_router(router);
    return f(model, t5_names("Switch Transformer", "mlp", Act::gated, c.tie_embeddings));
  };
  const std::string name = config.text("dense_act_fn", "relu");
  switch (config.one_of("dense_act_fn", name, {"relu", "gelu_new"})) {
    case 0: return make(Relu{});
    default: return make(GeluTanh{});
  }
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
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
inline EncoderDecoderConfig switch_transformer_config(const Config& config, bool for_training = false) {
  EncoderDecoderConfig c = t5_config(config, for_training);
  config.only<std::string>("router_dtype", "float32");
  const auto sparse = [&](StackConfig& s, const std::string& stack) {
    const index_t experts = config.count("num_experts", 1, Limits::experts);
    const index_t layers = config.count("num_sparse_" + stack + "_layers", 0, Limits::layers, 3);
    // Layer i is sparse iff i % step == 1 or step == 1. Where no layer shall be, transformers takes the number of
    // layers for the step, which makes layer 1 sparse. The step itself is written too, and read before the layers.
    const index_t step = config.get<index_t>(stack + "_sparse_step", layers > 0 ? s.layers / layers : s.layers);
    index_t n = 0;
    for (index_t l = 0; l < s.layers; ++l) {
      const bool here = step == 1 || (step > 1 && l % step == 1);
      s.experts_of_layer.push_back(here ? experts : 0);
      n += here ? 1 : 0;
    }
    s.moe.experts = experts;
    s.moe.gate_bias = config.flag("router_bias", false);
    s.moe.route_padding = true;
    s.moe.jitter_experts = true;
    s.moe.balance_scope = LossScope::sequence;
    s.moe.expert_dropout = 0;
    if (!for_training) return;
    s.moe.jitter = config.number("router_jitter_noise", 0.01, 0, 1);
    // transformers computes no losses where every layer is sparse; its z-loss is a mean over layers, ours a sum.
    s.moe.balance_coefficient = step == 1 ? 0 : config.real("router_aux_loss_coef", 0.001);
    s.moe.z_coefficient = step == 1 || n == 0 ? 0 : config.real("router_z_loss_coef", 0.001) / static_cast<double>(n);
  };
  sparse(c.encoder, "encoder");
  sparse(c.decoder, "decoder");
  return c;
}

/// As with_t5(). Router is SwitchRouter or, for what transformers 4.38 computed of dropped tokens, SwitchRouter438.
template <class P, class B, class Router = SwitchRouter, class F>
decltype(auto) with_switch_transformer(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  check_keys(config);
  EncoderDecoderConfig c = switch_transformer_config(config, for_training);
  const AnyActivation<false> activation{function_of(config, "dense_act_fn", config.text("dense_act_fn", "relu"))};
  const Tensors tensors(config.path().parent_path(), Names::either);
  const bool said_tied = config.flag("tie_word_embeddings", true);
  c.tie_embeddings = said_tied && !own_head(tensors, t5_head(), said_tied);
  c.output_scale = said_tied ? 1 / std::sqrt(static_cast<double>(c.encoder.width)) : 1;
  check_size(config, tensors,
             matrix_parameters(c.encoder, false, false) + matrix_parameters(c.decoder, false, true) +
                 static_cast<double>(c.vocabulary * c.encoder.width));
  using Spec = T5Spec<P, B, AnyActivation<false>, Router>;
  EncoderDecoder<Spec, Spec> model(ctx, c, for_training);
  Router router;
  router.expert_capacity = expert_capacity(config);
  model.encoder().set_router(router);
  model.decoder().set_router(router);
  model.encoder().set_activation(activation);
  model.decoder().set_activation(activation);
  return f(model, t5_names("Switch Transformer", "mlp", false, c.tie_embeddings));
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

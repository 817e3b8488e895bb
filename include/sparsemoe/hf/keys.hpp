// SPDX-License-Identifier: Apache-2.0
// hf/keys.hpp -- every key of config.json that transformers 4.38 to 5.24 write for our families: read, or known to have
// no effect here and why. Any other is refused by name, so that nothing a file asks for is passed over in silence.
// Read next: hf/config.hpp, docs/huggingface.md.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/hf/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// Types with the same keys: UMT5 is a T5 whose every layer has its own positions.
enum class Family { t5, switch_transformer, m2m, nllb, mixtral };

/// Of config.json's model_type. Throws FileError for one that no model here has.
inline Family family_of(const Config& config) {
  const auto type = config.get<std::string>("model_type");
  switch (config.one_of("model_type", type,
                        {"t5", "mt5", "umt5", "switch_transformers", "m2m_100", "nllb-moe", "mixtral"})) {
    case 3: return Family::switch_transformer;
    case 4: return Family::m2m;
    case 5: return Family::nllb;
    case 6: return Family::mixtral;
    default: return Family::t5;
  }
}

/// Keys with one reason why they change nothing; "" where they are read, which is obeyed or refused by their value.
struct KeyGroup {
  const char* why;
  std::vector<std::string_view> keys;
};

/// What transformers writes for a model of any family.
inline std::vector<KeyGroup> common_keys() {
  return {
      {"",
       {"model_type", "vocab_size", "tie_word_embeddings", "pad_token_id", "eos_token_id", "bos_token_id",
        "decoder_start_token_id", "forced_bos_token_id", "is_encoder_decoder", "tie_encoder_decoder", "pruned_heads",
        "quantization_config", "transformers_version", "torch_dtype", "dtype"}},
      {"names, no numbers",
       {"_name_or_path", "_commit_hash", "architectures", "tokenizer_class", "prefix", "finetuning_task",
        "problem_type", "task_specific_params", "id2label", "label2id", "num_labels", "sep_token_id",
        "_attn_implementation", "_attn_implementation_autoset", "_experts_implementation"}},
      {"what a forward pass hands out beside its result, and how it computes the same",
       {"return_dict", "output_attentions", "output_hidden_states", "output_past", "output_scores",
        "return_dict_in_generate", "use_cache", "torchscript", "use_bfloat16", "tf_legacy_loss",
        "chunk_size_feed_forward", "is_decoder", "add_cross_attention", "cross_attention_hidden_size"}},
      {"how weights start, or read in training alone", {"gradient_checkpointing", "classifier_dropout"}},
      {"a default of generation, for where there is no generation_config.json",
       {"max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens"}},
  };
}

/// What it writes for one of a family, beside common_keys().
inline std::vector<KeyGroup> family_keys(Family family) {
  switch (family) {
    case Family::t5:
      return {
          {"",
           {"d_model", "hidden_size", "d_kv", "head_dim", "d_ff", "num_layers", "num_hidden_layers",
            "num_decoder_layers", "num_heads", "num_attention_heads", "relative_attention_num_buckets",
            "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj", "dense_act_fn",
            "is_gated_act", "scale_decoder_outputs", "dropout_rate"}},
          {"how weights start", {"initializer_factor"}},
          {"read by no release: positions are relative, of any number", {"n_positions", "scalable_attention"}},
      };
    case Family::switch_transformer:
      return {
          {"",
           {"d_model",
            "hidden_size",
            "d_kv",
            "d_ff",
            "num_layers",
            "num_hidden_layers",
            "num_decoder_layers",
            "num_heads",
            "num_attention_heads",
            "relative_attention_num_buckets",
            "relative_attention_max_distance",
            "layer_norm_epsilon",
            "dense_act_fn",
            "num_experts",
            "expert_capacity",
            "num_sparse_encoder_layers",
            "num_sparse_decoder_layers",
            "encoder_sparse_step",
            "decoder_sparse_step",
            "router_bias",
            "router_dtype",
            "dropout_rate",
            "router_jitter_noise",
            "router_aux_loss_coef",
            "router_z_loss_coef"}},
          {"how weights start", {"initializer_factor"}},
          {"stored, and read by no forward pass",
           {"router_ignore_padding_tokens", "add_router_probs", "output_router_logits", "router_type",
            "batch_prioritized_routing", "num_selected_experts", "feed_forward_proj", "is_gated_act", "n_positions"}},
      };
    case Family::m2m:
      return {
          {"",
           {"d_model", "hidden_size", "encoder_layers", "decoder_layers", "encoder_attention_heads",
            "decoder_attention_heads", "num_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
            "activation_function", "scale_embedding", "dropout"}},
          {"how weights start, or read in training alone",
           {"init_std", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop",
            "classif_dropout"}},
          {"positions are sinusoids, computed for texts of any length", {"max_position_embeddings"}},
          {"encoder_layers and decoder_layers say it", {"num_hidden_layers"}},
          {"read by no release",
           {"normalize_before", "add_final_layer_norm", "normalize_embedding", "static_position_embeddings",
            "extra_pos_embeddings", "force_bos_token_to_be_generated", "add_bias_logits"}},
      };
    case Family::nllb: {
      std::vector<KeyGroup> groups = family_keys(Family::m2m);
      groups.push_back({"",
                        {"encoder_sparse_step", "decoder_sparse_step", "num_experts", "expert_capacity", "router_bias",
                         "router_dtype", "router_ignore_padding_tokens", "second_expert_policy",
                         "normalize_router_prob_before_dropping", "batch_prioritized_routing",
                         "moe_eval_capacity_token_fraction", "moe_token_dropout", "router_aux_loss_coef"}});
      groups.push_back({"read in training alone", {"output_router_logits", "add_router_probs"}});
      groups.push_back({"read by no release", {"router_z_loss_coef", "router_type"}});
      return groups;
    }
    case Family::mixtral:
      return {
          {"",
           {"hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "hidden_act",
            "rms_norm_eps",
            "rope_theta",
            "rope_parameters",
            "rope_scaling",
            "partial_rotary_factor",
            "max_position_embeddings",
            "original_max_position_embeddings",
            "sliding_window",
            "num_local_experts",
            "num_experts",
            "num_experts_per_tok",
            "attention_dropout",
            "router_jitter_noise",
            "output_router_logits",
            "router_aux_loss_coef"}},
          {"how weights start", {"initializer_range"}},
          {"read by no release", {"router_z_loss_coef"}},
      };
  }
  return {};
}

namespace parts {

inline std::string nearest_key(const std::string& key, const std::vector<KeyGroup>& groups) {
  std::vector<std::string> known;
  for (const KeyGroup& group : groups) known.insert(known.end(), group.keys.begin(), group.keys.end());
  return closest_name(key, known);
}

}  // namespace parts

/// Throws FileError naming the first key of config.json that the family's list does not have (null is as good as
/// absent), and for what no model here is: quantised, pruned, with an encoder that is the decoder.
inline void check_keys(const Config& config) {
  const Family family = family_of(config);
  std::vector<KeyGroup> groups = common_keys();
  for (KeyGroup& group : family_keys(family)) groups.push_back(std::move(group));
  for (const auto& [key, value] : config.json().items()) {
    if (value.is_null()) continue;
    bool known = false;
    for (const KeyGroup& group : groups)
      for (const std::string_view name : group.keys) known = known || name == key;
    if (known) continue;
    const std::string near = parts::nearest_key(key, groups);
    fail_file(config.path(), "unknown key ", detail::shown(key), " for a model of type ",
              detail::shown(config.get<std::string>("model_type")), "; what it asks for is not known here",
              near.empty() ? "" : ". Did you mean \"" + near + "\"?");
  }
  config.only("is_encoder_decoder", family != Family::mixtral);
  config.only("tie_encoder_decoder", false);
  if (config.has("pruned_heads") && !config.json().at("pruned_heads").empty())
    config.refuse("pruned_heads", "{}: every head is there");
  if (config.has("quantization_config"))
    config.refuse("quantization_config", "null: weights are read as F64, F32, F16 or BF16");
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

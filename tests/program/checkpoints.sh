#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/checkpoints.sh PROGRAM MODELS -- sparsemoe-generate gives what transformers 5.24 gives for checkpoints
# that it wrote (tests/data/hf: a folder each with inputs and outputs), for each type of rotary positions, and for one
# model however its files say it; and it refuses what a config.json asks and no model here has.
models=$(realpath "$2") data=$(realpath "$2/../../hf") generated=$(realpath "$2/../../generate")
. "$(dirname "$0")/lib.sh"
generate() { "$program" --ids --threads 1 "$@"; }
copy() { rm -rf model && cp -r "$models/$1" model; }
edit() { sed -i "$@" model/config.json; }

for folder in "$data"/*/; do
  name=$(basename "$folder")
  for batch in 16 1; do
    ok "$name: greedy" generate --model "$folder" --max-new-tokens 8 --batch $batch <"$folder/in"
    same "$name, batches of $batch" out "$folder/greedy"
    ok "$name: three beams" generate --model "$folder" --max-new-tokens 8 --beam 3 --batch $batch <"$folder/in"
    same "$name, three beams, batches of $batch" out "$folder/beam3"
  done
done
[ $checks -gt 0 ] || bad "no checkpoint in $data"

while IFS='|' read -r name rope ids; do
  copy mixtral_a
  edit -e "s|\"rope_theta\": [0-9.]*|\"rope_parameters\": $rope|" -e 's|"max_position_embeddings": 64|"max_position_embeddings": 12|'
  ok "rope $name" generate --model model --max-new-tokens 10 <"$generated/mixtral_a.in"
  tr ';' '\n' <<<"$ids" >expected
  same "rope $name" out expected
  edit 's|"rope_parameters"|"rope_scaling"|'
  ok "rope_scaling $name" generate --model model --max-new-tokens 10 --batch 1 <"$generated/mixtral_a.in"
  same "rope_scaling $name" out expected
done <"$data/rope.txt"
copy mixtral_a
edit 's|"rope_theta": 10000.0|"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}|'
ok "rope_parameters" generate --model model --max-new-tokens 10 <"$generated/mixtral_a.in"
same "rope_parameters of the same base" out "$generated/mixtral_a.greedy"
for rope in '{"type": "su", "factor": 2.0}' '{"rope_type": "linear"}' '{"rope_type": "default", "partial_rotary_factor": 0.5}' '{"turns": 3}'; do
  copy mixtral_a
  edit "s|\"rope_theta\": [0-9.]*|\"rope_scaling\": $rope|"
  refuse "rope $rope" 'in "rope_scaling": ' generate --model model
done

printf '3 4 5\n9 20 31 7 8\n' >ids
ok "T5 1.1" generate --model "$models/t5_gated_b" --max-new-tokens 8 <ids
cp out expected
copy t5_gated_b
edit 's|"tie_word_embeddings": false|"tie_word_embeddings": true, "scale_decoder_outputs": false|'
grep -q scale_decoder_outputs model/config.json || bad "t5_gated_b does not say tie_word_embeddings false"
ok "T5 1.1 as transformers 5 saves it" generate --model model --max-new-tokens 8 <ids
same "T5 1.1 as transformers 5 saves it" out expected

copy nllb_b
edit 's|"moe_eval_capacity_token_fraction": 1.0|"moe_eval_capacity_token_fraction": 0.25|'
ok "NLLB-MoE with few slots" generate --model model --beam 2 --max-new-tokens 6 --json <"$generated/nllb_b.in"
cp out expected
ok "NLLB-MoE with few slots, alone" generate --model model --beam 2 --max-new-tokens 6 --json --batch 1 <"$generated/nllb_b.in"
same "NLLB-MoE with few slots: the same in any company" out expected

refuses() {  # refuses MODEL KEY VALUE REGEX
  copy "$1"
  edit -e "/^  \"$2\": /d" -e "s|^{|{\n  \"$2\": $3,|"
  refuse "$1: $2 $3" "config.json: .*$4" generate --model model
}
for size in 1000000000 9223372036854775807 0 -1; do
  refuses t5_relu_a num_layers $size '"num_layers" is .*, expected a whole number from 1 to'
  refuses t5_relu_a d_kv $size '"d_kv" is .*, expected a whole number'
  refuses t5_relu_a relative_attention_num_buckets $size '"relative_attention_num_buckets" is'
  refuses switch_a num_experts $size '"num_experts" is'
  refuses nllb_a decoder_ffn_dim $size '"decoder_ffn_dim" is'
  refuses mixtral_a head_dim $size '"head_dim" is'
done
refuses t5_relu_a d_ff 4000000 'a model of at least .* parameters, the tensors beside it hold'
refuses t5_relu_a layer_norm_epsilon -1e-6 '"layer_norm_epsilon" is -1e-06, expected a number from 0'
refuses t5_relu_a relative_attention_max_distance 16 '"relative_attention_max_distance" is 16, expected a whole number from 17'
refuses t5_relu_a dense_act_fn '"elu"' '"dense_act_fn" is "elu", expected one of relu'
refuses t5_relu_a no_such_key 1 'unknown key "no_such_key" for a model of type "t5"'
refuses t5_relu_a hidden_size 17 '"hidden_size" is 17, expected 16, as "d_model" says'
refuses mixtral_a quantization_config '{"bits": 4}' '"quantization_config" is'
refuses mixtral_a num_experts_per_tok 9 '"num_experts_per_tok" is 9'
refuses mixtral_a sliding_window 0 '"sliding_window" is 0'
refuses nllb_a router_dtype '"bfloat16"' '"router_dtype" is "bfloat16", expected "float32"'
refuses nllb_a pad_token_id 64 '"pad_token_id" is 64'
finish

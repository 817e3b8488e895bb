#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/generate.sh PROGRAM MODELS -- sparsemoe-generate gives what transformers' generate() gave, whatever the
# batch, keeps the order of lines, and refuses bad input with one sentence. tests/data/generate has inputs and outputs.
models=$(realpath "$2") data=$(realpath "$2/../../generate")
. "$(dirname "$0")/lib.sh"
generate() { "$program" --ids --threads 1 "$@"; }
generate_line() { echo "3 4 1" | generate "$@"; }
for input in "$data"/*.in; do
  name=$(basename "$input" .in)
  tokens=12
  case $name in nllb_b | mixtral_a) tokens=10 ;; esac
  for batch in 16 1; do
    ok "$name: greedy" generate --model "$models/$name" --max-new-tokens $tokens --batch $batch <"$input"
    same "$name, batches of $batch" out "$data/$name.greedy"
    ok "$name: four beams" generate --model "$models/$name" --max-new-tokens $tokens --beam 4 --nbest 4 --batch $batch <"$input"
    cut -f3 out >beams
    same "$name, four beams, batches of $batch" beams "$data/$name.beam4"
  done
done
[ $checks -gt 0 ] || bad "no input in $data"

model=$models/t5_relu_a
{ echo; head -1 "$data/t5_relu_a.in"; echo; } >lines
ok "empty lines" generate --model "$model" --max-new-tokens 12 <lines
{ echo; head -1 "$data/t5_relu_a.greedy"; echo; } >expected
same "empty lines stay" out expected
ok "nothing" generate --model "$model" </dev/null
equal "of nothing" "$(cat out)" ""
ok "json" generate --model "$model" --json --beam 2 --nbest 2 <lines
check "JSON lines" are_json_lines out


# what generation_config.json asks: outputs of transformers 5.24 (tests/oracles/generation.py --data)
copy() {  # copy MODEL: its files in model
  rm -rf model
  mkdir model
  cp "$models/$1"/{config,generation_config}.json "$models/$1"/model*.safetensors model/
}
for asked in "$data"/*.asked; do
  case=$(basename "$asked" .asked)
  copy "${case%%.*}"
  cp "$asked" model/generation_config.json
  for batch in 16 1; do
    ok "$case" generate --model model --batch $batch <"$data/${case%%.*}.in"
    if grep -q num_return_sequences "$asked"; then cut -f3 out >answers; else cp out answers; fi
    same "$case, batches of $batch" answers "$data/$case.answers"
  done
done
copy t5_relu_a
echo '{"decoder_start_token_id": 0, "eos_token_id": 1, "num_beams": 4, "max_new_tokens": 3}' >model/generation_config.json
ok "options come first" generate --model model --beam 1 --max-new-tokens 12 <"$data/t5_relu_a.in"
same "options over the file" out "$data/t5_relu_a.greedy"
asks() { echo "{\"decoder_start_token_id\": 0, \"eos_token_id\": 1, $1}" >model/generation_config.json; }
asks '"do_sample": true'
refuse "sampling" 'generation_config.json: key "do_sample" is true' generate --model model
ok "a search in its place" generate --model model --no-sampling --max-new-tokens 12 <"$data/t5_relu_a.in"
same "no sampling" out "$data/t5_relu_a.greedy"
asks '"num_beam_groups": 2'
refuse "beam groups" 'key "num_beam_groups" is 2, which asks for diverse' generate --model model
asks '"num_beem": 2'
refuse "an unknown key" 'key "num_beem" is none' generate --model model
asks '"num_return_sequences": 2'
refuse "more outputs than beams of the file" 'key "num_return_sequences" is 2' generate --model model
asks '"max_length": 1'
echo "3 4" | generate --model model >out 2>err
refused "no room" 'standard input:1: .*"max_length"' $?

# requests and answers
copy t5_relu_a
printf '{"text": "62 22\\n36 1"}\n\n{"ids": [62, 22, 36, 1], "mine": 3}\n' >rows
ok "JSON lines" generate --model model --jsonl --max-new-tokens 4 <rows
check "rows of JSON" are_json_lines out
equal "a row for each" "$(grep -c '^{"line":[123],"source":' out)" 3
equal "ids and their text" "$(sed -n 1p out | sed 's/.*outputs//')" "$(sed -n 3p out | sed 's/.*outputs//')"
printf '{"text": "5"}\n{"txt": 3}\n' | generate --model model --jsonl >out 2>err
refused "a row without text" 'standard input:2: must have one of' $?
equal "rows before it" "$(wc -l <out)" 1
printf '\xe2\x80\x8b \t\n\xc2\xa0\xe3\x80\x80\n\xef\xbb\xbf\n' | generate --model model >out 2>err
equal "lines of white space" "$(cat out)" "$(printf '\n\n')"
equal "their places" "$(wc -l <out)" 3

# long inputs
head -1 "$data/t5_relu_a.in" | cut -d' ' -f1-4 >short
ok "cut by hand" generate --model model --max-new-tokens 6 <short
mv out expected
head -1 "$data/t5_relu_a.in" | generate --model model --max-new-tokens 6 --max-source 4 >out 2>err
same "--max-source" out expected
check "a warning" grep -q 'warning: standard input:1: 12 tokens, cut to --max-source 4' err
{ echo 1 2 3; printf '1 %.0s' {1..300000}; } | generate --model model --max-new-tokens 2 >out 2>err
refused "a line that needs too much memory" 'standard input:2: .*memory' $?
equal "the line before it" "$(wc -l <out)" 1
refuse "endless outputs" 'standard input:1: .*memory' generate_line --model model --max-new-tokens 1099511627776

# a model that computes NaN
header=$(od -An -t u8 -N 8 model/model.safetensors | tr -d ' ')
range=$(head -c $((8 + header)) model/model.safetensors | tail -c "$header" |
  grep -oP '"decoder.final_layer_norm.weight":\s*\{[^}]*"data_offsets":\s*\[\K\d+,\s*\d+')
first=${range%%,*} last=${range##*,}
for ((i = first; i < last; i += 4)); do printf '\x00\x00\xc0\x7f'; done |
  dd of=model/model.safetensors bs=1 seek=$((8 + header + first)) conv=notrunc status=none
for beam in 1 3; do
  { echo; cat "$data/t5_relu_a.in"; } | generate --model model --beam $beam >out 2>err
  refused "NaN, $beam beams" 'standard input:2: .*not finite|tensor .decoder.final_layer_norm.weight' $?
done

refuse "no such directory" 'nowhere/config.json' generate --model nowhere
refuse "no tokenizer" 'has no tokenizer.json, spiece.model' "$program" --model "$model"
refuse "languages" 'not together with --ids' generate --model "$model" --from a --to b
refuse "more outputs than beams" 'needs --beam 3' generate --model "$model" --nbest 3
status=0
printf '3 4\n3 64\n' | generate --model "$model" --max-new-tokens 2 >out 2>err || status=$?
refused "an id outside" "standard input:2: '64' is not an id below 64" $status
equal "lines before it" "$(wc -l <out)" 1
status=0
printf '3 4x\n' | generate --model "$model" >out 2>err || status=$?
refused "no id" "standard input:1: '4x' is not an id" $status
finish

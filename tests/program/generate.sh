#!/usr/bin/env bash
# tests/program/generate.sh PROGRAM MODELS -- sparsemoe-generate gives what transformers' generate() gave, whatever the
# batch, keeps the order of lines, and refuses bad input with one sentence. tests/data/generate has inputs and outputs.
models=$(realpath "$2") data=$(realpath "$2/../../generate")
. "$(dirname "$0")/lib.sh"
generate() { "$program" --ids --threads 1 "$@"; }
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

refuse "no such directory" 'nowhere/config.json' generate --model nowhere
refuse "no tokenizer" 'has no spiece.model' "$program" --model "$model"
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

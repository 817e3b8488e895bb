#!/usr/bin/env bash
# tests/program/convert.sh PROGRAM MODELS -- sparsemoe-convert: to our names and back gives the same files, shards are
# read as one file is, and bad input gets one sentence and leaves nothing behind. MODELS: directories of checkpoints.
models=$(realpath "$2")
. "$(dirname "$0")/lib.sh"
for model in "$models"/*/; do
  name=$(basename "$model")
  [ -e "$model/config.json" ] || continue
  ok "$name: to our names" "$program" "$model" ours --layout sparsemoe
  ok "$name: back" "$program" ours back --dtype F32
  ok "$name: rewritten" "$program" "$model" again --dtype F32
  for file in again/*; do same "$name" "$file" "back/$(basename "$file")"; done
  ok "$name: shards of bf16" "$program" "$model" small --dtype BF16 --shard-bytes 9000
  equal "$name: more than one shard" "$(($(ls small/*.safetensors | wc -l) > 1))" 1
  ok "$name: and from them" "$program" small whole
  ok "$name: rounded once" "$program" "$model" rounded --dtype BF16
  same "$name, shards of bf16" whole/model.safetensors rounded/model.safetensors
  rm -rf ours back again small whole rounded
done
[ $checks -gt 0 ] || bad "no checkpoint in $models"

first=$(ls -d "$models"/t5*/ | head -1)
mkdir taken
refuse "a directory that exists" 'taken: already exists' "$program" "$first" taken
refuse "no such directory" 'nowhere/config.json' "$program" nowhere target
refuse "no such type" 'F64' "$program" "$first" target --dtype F64
cp -r "$first" bad && chmod -R u+w bad
sed -i 's/"model_type": "t5"/"model_type": "gpt5"/' bad/config.json
refuse "another family" 'key "model_type" is "gpt5", expected one of' "$program" bad target
cp "$first/config.json" bad/config.json
truncate -s -10 bad/model.safetensors
refuse "a file cut short" 'bad/model.safetensors' "$program" bad target
equal "what is left" "$(ls -d target* 2>/dev/null)" ''
finish

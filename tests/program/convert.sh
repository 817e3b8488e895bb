#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
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

# Types, bits and the files beside the weights stay, by either layout.
types() { grep -oE '"(dtype|torch_dtype)": "[a-z0-9]*"' "$1/config.json" | tr '\n' ' '; }
for type in BF16 F16; do
  ok "$type" "$program" "$first" typed --dtype $type
  sed -i 's/"torch_dtype"/"dtype"/' typed/config.json
  said=$(types typed)
  for file in generation_config.json tokenizer.json tokenizer_config.json spiece.model added_tokens.json \
    special_tokens_map.json chat_template.jinja vocab.json merges.txt; do
    echo "{\"$file\": \"$type\"}" >typed/$file
  done
  ln -s spiece.model typed/linked.model
  mkdir typed/additional_chat_templates && echo tools >typed/additional_chat_templates/tools.jinja
  ok "$type: to our names" "$program" typed ours --layout sparsemoe
  ok "$type: back" "$program" ours back
  ok "$type: rewritten" "$program" typed again
  for to in back again; do
    for file in typed/* typed/*/*; do
      [ "$(basename "$file")" = config.json ] || [ -d "$file" ] || same "$type" "$file" "$to/${file#typed/}"
    done
    equal "$type: one key of the type" "$(types $to)" "$said"
  done
  equal "$type: a link becomes a file" "$(find back -type l)" ''
  rm -rf typed ours back again
done
cp -r "$(ls -d "$models"/t5_relu*/ | head -1)" whole && chmod -R u+w whole
sed -i '/torch_dtype/d; s/"dtype": "[a-z0-9]*",//' whole/config.json
ok "without a type: rewritten" "$program" whole again
ok "with the same one" "$program" whole asked --dtype F32
same "without a type" asked/model.safetensors again/model.safetensors
rm -rf again asked

# What does not fit is named and nothing is written: the last number of the file as 70000, a NaN, an infinity.
patch() { printf "$1" | dd of=whole/model.safetensors bs=1 seek=$(($(stat -c %s whole/model.safetensors) - 4)) conv=notrunc 2>/dev/null; }
patch '\x00\xb8\x88\x47'
refuse "too large for F16" "tensor '.*' does not fit into F16: its largest value is 70000" "$program" whole target --dtype F16
ok "large enough for BF16" "$program" whole again --dtype BF16
rm -rf again
patch '\x00\x00\xc0\x7f'
refuse "a NaN" 'tensor "shared.weight" has a value that is not finite.*nan' "$program" whole target
patch '\x00\x00\x80\x7f'
refuse "an infinity, to our names" 'tensor "shared.weight" has a value that is not finite.*inf' "$program" whole target --layout sparsemoe
patch '\x00\x00\x80\x3f'
mkfifo whole/tokenizer.json
refuse "a pipe in place of a file" 'tokenizer.json: not a regular file' "$program" whole target
rm whole/tokenizer.json
ln -s /dev/zero whole/endless.model
refuse "a link to a device" 'endless.model: not a regular file' "$program" whole target --layout sparsemoe
refuse "a type for our names" '--dtype: not with --layout sparsemoe' "$program" whole target --layout sparsemoe --dtype F16
rm -rf whole
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

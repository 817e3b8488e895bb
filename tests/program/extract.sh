#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/extract.sh PROGRAM -- the sub-network of a task translates as the model does, byte for byte, as experts and
# folded into dense layers; what cannot be extracted is refused and leaves nothing behind.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
text 60 3 | cut -f1 | tail -n +2 >lines.en
text 60 3 | cut -f2 | tail -n +2 >lines.da
absent() { if [ -e "$2" ] || [ -n "$(find . -maxdepth 1 -name "$2.*")" ]; then bad "$1: left $2 behind"; rm -rf "$2" "$2".*; else pass; fi; }
translate() {  # translate MODEL FROM TO [OPTION...]: the lines of FROM
  "$program" translate --model "$1" --from "$2" --to "$3" --threads 1 --max-length 12 "${@:4}" <"lines.$2"
}

# equals NAME MODEL TASK FROM TO [OPTION...]: extracted, MODEL translates FROM into TO as before.
equals() {
  local name=$1 model=$2 task=$3 from=$4 to=$5
  shift 5
  ok "$name: extract" "$program" extract --model "$model" --task "$task" --out sub --threads 1 "$@"
  translate "$model" "$from" "$to" >whole
  ok "$name: translate" translate sub "$from" "$to"
  same "$name" whole out
  translate "$model" "$from" "$to" --beam 3 >whole
  ok "$name: translate with beams" translate sub "$from" "$to" --beam 3
  same "$name, with beams" whole out
  rm -rf sub
}

# --- every task, every pairing with a stack routed by task
pairings="token:task task:token task:task static:static sentence:task dense:task hash:static static:switch"
for pairing in $pairings; do
  for precision in fp32 bf16; do
    ok "$pairing $precision: train" train --out run --steps 30 --validate-every 30 --precision $precision --experts 6 \
      --encoder-router ${pairing%:*} --decoder-router ${pairing#*:}
    for to in da fi en; do
      from=en
      [ $to = en ] && from=da
      equals "$pairing $precision $to" run $to $from $to
      # In bf16 folded weights are rounded once more, so that only fp32 promises the same text.
      [ $precision = bf16 ] || equals "$pairing $precision $to, dense" run $to $from $to --dense
    done
    equals "$pairing $precision: two tasks" run fi,da en da
    equals "$pairing $precision: all tasks in another order" run fi,en,da da en
    rm -rf run
  done
done
ok "pairs: train" train --out run --steps 30 --validate-every 30 --precision fp32 --task pair --sparse-every 1 --relative-positions
equals "pairs of languages" run en-da en da
equals "pairs of languages, dense" run da-en da en --dense
rm -rf run

# --- the directory is a checkpoint
ok "train" train --out run --steps 10 --validate-every 10 --precision fp32
ok "a task by another code of its language" "$program" extract --model run --task dan_Latn --out by_code --dense
ok "extract" "$program" extract --model run --task da --out below/sub --dense
same "the same sub-network" by_code/model.safetensors below/sub/model.safetensors
for row in embedding encoder decoder total '  its experts'; do
  check "table: a row $row" grep -qE "^$row +[0-9]+ +[0-9]+ +[0-9.]+ % +[0-9]+ +[0-9]+ +[0-9.]+ %\$" out
done
check "table: what became of the stacks" grep -qE '^decoder: task routing, folded into dense layers$' out
check "table: the encoder stays" grep -qE '^encoder: token routing, left as it is$' out
equal "a checkpoint's files" "$(cd below/sub && echo *)" "config.json extraction.json manifest.json model.safetensors spm.model"
check "config.json: dense, of one task" grep -qz '"decoder_router": "dense".*"tasks": \[\s*"da"\s*\]' below/sub/config.json
for file in config extraction manifest; do check "$file.json is JSON" is_json below/sub/$file.json; done
ok "evaluate" "$program" evaluate --model below/sub --corpus corpus --threads 1 --languages da --directions en2xx --rows 5
ok "samples" "$program" samples --model below/sub --to da --threads 1 < <(head -n 2 lines.en)
refuse "another task" "the model has no task 'fi'; it knows da" translate below/sub en fi
ok "extract --json" "$program" extract --model run --task da,en --out sub --json
check "extract --json: is JSON" is_json out
mkdir empty
ok "extract into an empty directory" "$program" extract --model sub --task en --out empty
translate run da en >whole
ok "extracted twice" translate empty da en
same "extracted twice" whole out
ok "extracted twice, folded" "$program" extract --model sub --task en --out folded --dense
ok "extracted twice, folded" translate folded da en
same "extracted twice, folded" whole out
rm -rf sub empty folded

# --- pruning by use
prune() { "$program" extract --model run --task da --out sub --corpus corpus --rows 20 --threads 1 "$@"; }
ok "prune to a number" prune --prune-by-usage 2
check "prune: a layer's experts and moved choices" grep -qE '^encoder layer 1: 2 experts left, [0-9.]+ % of the choices go to another expert$' out
check "prune: loss, BLEU and chrF before and after" grep -qE '^dev, [0-9]+ rows: loss [0-9.]+ before, [0-9.]+ after; BLEU [0-9.]+, [0-9.]+; chrF [0-9.]+, [0-9.]+$' out
check "prune: config.json" grep -qz '"encoder_experts": \[\s*0,\s*2\s*\]' sub/config.json
ok "a pruned model translates" translate sub en da
rm -rf sub
ok "prune nothing" prune --prune-by-usage 1.0
check "prune nothing: the loss stays" awk '/^dev/ { exit !($5 == $7) }' out
translate run en da >whole
ok "prune nothing: translate" translate sub en da
same "prune nothing" whole out
rm -rf sub
for rule in 0 -1 x 1.5 0.0 2x ''; do
  [ -z "$rule" ] || refuse "prune by '$rule'" "expected a number of experts .* not '$rule'" prune --prune-by-usage=$rule
done
refuse "prune without a corpus" 'give --corpus' "$program" extract --model run --task da --out sub --prune-by-usage 2
refuse "prune: no such split" "no split 'none'" prune --prune-by-usage 2 --split none
absent "prune" sub

# --- what is refused
extract() { "$program" extract --model run --task da --out sub "$@"; }
refuse "unknown task" "the model has no task 'xx'; it knows en, da, fi" "$program" extract --model run --task xx --out sub
refuse "a task twice" "'da' is named twice" "$program" extract --model run --task da,da --out sub
refuse "dense of two tasks" 'folds the experts of one task; got 2' "$program" extract --model run --task da,en --out sub --dense
refuse "no such model" 'none: no such directory' "$program" extract --model none --task da --out sub
refuse "not a model" 'corpus: neither a checkpoint' "$program" extract --model corpus --task da --out sub
refuse "out exists" 'run: is not empty; choose another --out' "$program" extract --model run --task da --out run
refuse "out is a file" 'lines.en: is not a directory' "$program" extract --model run --task da --out lines.en
refuse "out below a file" 'lines.en/sub: ' "$program" extract --model run --task da --out lines.en/sub
refuse "no --task" '--task is required' "$program" extract --model run --out sub
refuse "an option that is not there" 'did you mean --dense' extract --dens
cp -r run broken
truncate -s -100 "$(newest broken)/model.safetensors"
refuse "a damaged model" 'truncated' "$program" extract --model broken --task da --out sub
rm "$(newest broken)/manifest.json"
refuse "a damaged model without a manifest" 'model.safetensors: |no usable checkpoint' "$program" extract --model "$(newest broken)" --task da --out sub
cp -r run wrong
sed -i 's/"experts": 4/"experts": 5/' "$(newest wrong)/config.json"
rm "$(newest wrong)/manifest.json"
refuse "a config of another model" 'model.safetensors|experts' "$program" extract --model "$(newest wrong)" --task da --out sub
(trap '' XFSZ && ulimit -f 8 && extract) >out 2>err </dev/null
check "full disk: refused" test $? != 0
absent "refused" sub
rm -rf run
ok "token, sentence: train" train --out run --steps 6 --validate-every 6 --encoder-router token --decoder-router sentence
refuse "no stack routed by task" 'no sparse layer is routed by task.*the model has token in the encoder and sentence in the decoder' extract
refuse "no stack routed by task, dense" 'chosen by task|routed by task' extract --dense
ok "no stack routed by task, pruned" prune --prune-by-usage 3
rm -rf run sub
ok "no sparse layer: train" train --out run --steps 6 --validate-every 6 --sparse-every 0
refuse "no sparse layer" 'has no sparse layer' extract
finish

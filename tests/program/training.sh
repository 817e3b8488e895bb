#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/training.sh PROGRAM -- what training says and leaves behind when something is amiss: nothing to validate on,
# pairs left out, options changed on the way, a run that diverges, a directory that goes away, signals, damaged files.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
text 400 7 >text.tsv
record() { grep "\"kind\":\"$2\"" "$1/log.jsonl"; }  # record RUN KIND
field() { grep -oE "\"$1\":(\"[^\"]*\"|[^,}]*)" | head -n 1 | cut -d: -f2-; }
said() { check "$1: says '$2'" grep -qE -- "$2" err; }

# --- what is trained on, and what is not
ok "train" train --out run --steps 6 --checkpoint-every 3 --validate-every 3 --max-length 8
said "pairs left out" '[0-9]+ of [0-9,]+ training pairs; [0-9,]+ longer than 8 tokens are left out$'
said "dev pairs left out" '^validation on [0-9]+ of [0-9]+ dev pairs; [0-9]+ longer than 8 tokens (is|are) left out$'
for name in time host compiler version threads cores pairs left_out dev_pairs dev_left_out settings; do
  check "the start record has $name" bash -c "grep '\"kind\":\"start\"' run/log.jsonl | grep -q '\"$name\":'"
done
left=$(record run start | field left_out)
check "the log has the number that was said" grep -q "; $left longer than 8 tokens" err
check "evaluate says that it cuts" bash -c "'$program' evaluate --model run --corpus corpus --max-length 4 --rows 2 --threads 1 2>&1 | grep -q 'warning: [0-9]* sources are longer than 4 tokens and are cut'"

no_validation() {  # no_validation WHAT CORPUS REGEX ARGUMENT...
  local what=$1 corpus=$2 regex=$3
  shift 3
  rm -rf none
  ok "$what" "$program" train --corpus "$corpus" --config small.json --out none --steps 4 --validate-every 2 "$@"
  said "$what" "^no validation: $regex"
  equal "$what: validation is null" "$(record none validation | grep -c '"loss":null,.*"bleu":null,"chrf":null')" 2
  check "$what: no number is shown" bash -c "! grep -qE 'validation loss [-0-9]|BLEU [0-9]' err"
  ok "$what: a report" "$program" report --run none --out none.html
}
cp -r corpus nodev
rm -r nodev/dev
no_validation "no dev split" nodev 'nodev has no dev pair'
cp -r corpus longdev
sed -i -E 's/\t(.*)/\t\1 \1 \1 \1 \1 \1 \1 \1 \1 \1/' longdev/dev/{en,da,fi}.tsv
no_validation "dev pairs too long" longdev 'all [0-9]+ dev pairs are longer than 20 tokens' --max-length 20

# --- going on
ok "resume" train --out run --resume --max-length 8 --steps 9 --learning-rate 0.02 --validate-every 100
said "resume" 'learning_rate is 0.02 now; it was 0.01'
said "resume" 'steps is 9 now; it was 6'
check "resume: the corpus is not encoded again" bash -c '! grep -q ^encoding err'
equal "resume: logged" "$(record run resume | grep -oE '"changed":.*' | grep -c '"learning_rate":{"before":0.01,"now":0.02}')" 1
equal "resume: the log goes on" "$(record run resume | field step)" 6
cp -r run kept
for damage in flipped missing; do
  rm -rf run && cp -r kept run && rm -rf again
  ok "resume again" train --out run --resume --max-length 8 --steps 12 --learning-rate 0.02 --validate-every 100
  cp -r run again && rm -rf run && cp -r kept run
  size=$(stat -c %s run/encoded.safetensors)
  if [ $damage = missing ]; then rm run/encoded.safetensors; else printf '\x7' | dd of=run/encoded.safetensors bs=1 seek=$((size - 400)) conv=notrunc status=none; fi
  ok "kept encoding $damage" train --out run --resume --max-length 8 --steps 12 --learning-rate 0.02 --validate-every 100
  said "kept encoding $damage" '^encoding corpus'
  same "kept encoding $damage: the same bits" run/step-12/model.safetensors again/step-12/model.safetensors
done

# --- divergence: the last good checkpoint stays, and goes on
rm -rf good
ok "a good run" train --out good --steps 10 --checkpoint-every 5 --validate-every 100
diverges() {  # diverges WHAT ARGUMENT...
  local what=$1 status=0
  shift
  rm -rf bad && cp -r good bad
  train --out bad --resume --steps ${steps:-100} --validate-every 7 "$@" >out 2>err || status=$?
  equal "$what: exit status" $status 76
  equal "$what: one sentence" "$(grep -c '^sparsemoe-nmt: training has diverged: .*the state of step 10 is saved; go on from it with --resume and a smaller --learning-rate$' err)" 1
  check "$what: warns first" grep -qE '^warning: step [0-9]+ is (skipped|not saved): ' err
  equal "$what: nothing was saved or pruned since" "$(cd bad && echo step-*)" "step-10 step-5"
  equal "$what: nothing half written" "$(find bad -name '*.tmp-*')" ""
}
diverges "a rate of 1e30" --learning-rate 1e30 --clip 0 --checkpoint-every 5
diverges "a checkpoint a step" --learning-rate 1e30 --clip 0 --checkpoint-every 1
diverges "keep 1" --learning-rate 1e30 --checkpoint-every 1 --keep 1
check "going on from there" train --out bad --resume --steps 12 --learning-rate 0.01 --keep 2
equal "which ends well" "$(cd bad && echo step-*)" "step-11 step-12"
diverges "weight decay" --weight-decay 1e30 --learning-rate 1 --checkpoint-every 1
steps=11 diverges "in the last step" --learning-rate 1e30
steps=15 diverges "in the last of several" --learning-rate 1e30
fresh_divergence() {
  local what=$1 status=0
  shift
  rm -rf fresh
  train --out fresh --steps 100 --checkpoint-every 1 "$@" >out 2>err || status=$?
  equal "$what: exit status" $status 76
  equal "$what: no checkpoint" "$(ls -d fresh/step-* 2>/dev/null)" ""
  said "$what" 'diverged.*there is no checkpoint yet: begin again with a smaller --learning-rate'
}
fresh_divergence "init_scale" --init-scale 1e300
ok "a report of a diverged run" "$program" report --run fresh --out fresh.html
check "it says so" bash -c "grep -q 'diverged' fresh.html && grep -q 'warning: step' fresh.html"
check "the steps that were made are in the log" bash -c "grep '\"kind\":\"train\"' fresh/log.jsonl | tail -n 1 | grep -q '\"skipped\":20,'"

# --- a run shorter than --log-every still has its numbers; what stands in the place of a log
equal "the last step is in the log" "$(record good train | tail -n 1 | field step)" 10
mkdir piped && mkfifo piped/log.jsonl
refuse "a pipe for a log" 'piped/log.jsonl: not a regular file' timeout 60 "$program" train --corpus corpus --config small.json --out piped --steps 2
cp -r good empty && rm -rf empty/step-*
ok "no checkpoint is left" train --out empty --resume --steps 4
said "no checkpoint is left" '^empty: there is no checkpoint; the run begins again from its first step$'
rm empty/settings.json
refuse "no settings are left" 'empty: there is no run to resume' "$program" train --out empty --resume
fresh_divergence "balance_loss" --balance-loss 1e300
for optimiser in adamw adafactor factored_adam; do
  for precision in fp32 bf16; do
    fresh_divergence "$optimiser, $precision" --optimiser $optimiser --precision $precision --learning-rate 1e30 --warmup 0
  done
done

# --- a directory that goes away
"$program" train --corpus corpus --config small.json --out gone --steps 100000 --checkpoint-every 5 --validate-every 100000 >out 2>err &
child=$!
until [ -e gone/step-5 ] || ! kill -0 $child 2>/dev/null; do sleep 0.02; done
mv gone away
mkdir gone
wait $child
refused "a directory that was replaced" 'gone: this directory was removed or replaced' $?
equal "nothing is written into the new one" "$(ls gone)" ""

# --- a terminal that closes
"$program" train --corpus corpus --config small.json --out hung --steps 100000 --log-every 1 --checkpoint-every 100000 --validate-every 100000 >out 2>err &
child=$!
until [ "0$(grep -cs '"kind":"train"' hung/log.jsonl)" -ge 3 ] || ! kill -0 $child 2>/dev/null; do sleep 0.02; done
kill -HUP $child
wait $child
equal "SIGHUP: exit status" $? 129
check "SIGHUP: the state is saved" bash -c 'ls -d hung/step-*'

# --- a model that is no model
cp -r good/step-10 model
rm model/manifest.json
length=$(od -An -tu8 -N 8 model/model.safetensors | tr -d ' ')
offset=$(head -c $((8 + length)) model/model.safetensors | tail -c +9 | grep -oE '"decoder.final_norm.weight":\{[^}]*' | grep -oE '"data_offsets":\[[0-9]+' | grep -oE '[0-9]+$')
printf '\x00\x00\xc0\x7f' | dd of=model/model.safetensors bs=1 seek=$((8 + length + offset)) conv=notrunc status=none
refuse "a weight that is not a number" "model.safetensors: tensor .decoder.final_norm.weight. has a value that is not finite" "$program" translate --model model --to da
refuse "which evaluate refuses too" "decoder.final_norm.weight" "$program" evaluate --model model --corpus corpus

# --- help
"$program" train --help >out
for heading in Data Model Routing Optimiser Run; do check "help: $heading" grep -q "^$heading:" out; done
equal "help: required options are marked" "$(grep -c '; required' out)" 2
finish

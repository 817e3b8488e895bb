#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/routers.sh PROGRAM -- every router in each stack trains and translates, with the other settings that
# change the model; and a translation does not depend on the lines beside it.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
text 45 3 | cut -f1 | tail -n +2 >lines

# try NAME ARGUMENT...: trains 30 steps; the losses are numbers, and batches of any size
# give the same text.
try() {
  local name=$1
  shift
  ok "$name: train" train --out run --steps 30 --log-every 1 --validate-every 30 "$@"
  equal "$name: finite losses" "$(grep -cE '"kind":"train".*"loss":[0-9.]+,"nll":[0-9.]+,.*"skipped":0' run/log.jsonl)" 30
  ok "$name: translate" "$program" translate --model run --to da --threads 1 --max-length 8 <lines
  mv out whole
  equal "$name: a line for a line" "$(wc -l <whole)" 45
  ok "$name: translate, batches of 7" "$program" translate --model run --to da --threads 1 --max-length 8 --batch 7 <lines
  same "$name: batches of 7" whole out
  ok "$name: translate one by one" "$program" translate --model run --to da --threads 1 --max-length 8 --batch 1 <lines
  same "$name: one by one" whole out
  rm -rf run
}
# The names are those of the sentence that refuses another: a new one is tried as soon as it is there.
names=$(train --out run --encoder-router '?' 2>&1 | sed -n "s/.*there is no router '?': choose //p" | sed 's/,//g; s/ or / /')
check "routers have names: $names" test "$(wc -w <<<"$names")" -ge 10
for router in $names; do
  stands=0
  for stack in encoder decoder; do
    # No step is refused too, but later than a router that the stack cannot have.
    refusal=$(train --out run --$stack-router "$router" --steps 0 2>&1)
    [[ $refusal == *"$router routing is for "* ]] && continue
    try "$stack $router" --$stack-router "$router"
    stands=$((stands + 1))
  done
  check "$router: one stack can have it" test $stands -ge 1
done
try "encoder soft, bf16, two experts" --encoder-router soft --precision bf16 --experts 2
for precision in fp32 bf16; do
  for task in target pair; do try "task $task, $precision" --task $task --precision $precision --encoder-router task --decoder-router static; done
done
try "capacity" --encoder-router token --decoder-router token --capacity-factor 1.25
try "capacity and groups, top 1" --encoder-router switch --decoder-router gshard --capacity-factor 1 --group 16
try "relative positions" --relative-positions --precision fp32
try "accumulate" --accumulate 2
try "accumulate more than there are streams of 16" --accumulate 20 --tokens 64
try "adafactor, sqrt decay" --optimiser adafactor --schedule sqrt_decay --learning-rate 0.5
try "every layer sparse" --sparse-every 1 --encoder-router hash --decoder-router hash --hash-table random
try "no layer sparse" --sparse-every 0
try "one expert" --experts 1 --encoder-router switch --decoder-router hash
try "one direction" --directions en2xx --encoder-router sentence --threads 2
finish

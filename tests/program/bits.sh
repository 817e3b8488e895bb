#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/bits.sh PROGRAM -- a run is a function of its settings: the same bytes on any number of threads, and after
# any number of stops (SIGTERM) and kills (SIGKILL) as without.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
steps=20

# What a run leaves, without clocks, numbers of threads and notes of when it went on: every file of the last checkpoint, and
# the log.
timeless() { sed -E '/"kind":"resume"/d; s/"(seconds|tokens_per_second|threads|time|out)": ?("[^"]*"|[^,}]*),?//g' "$1"; }
same_run() {  # same_run WHAT RUN RUN
  for file in model.safetensors trainer.safetensors config.json spm.model; do
    same "$1: $file" "$2/step-$steps/$file" "$3/step-$steps/$file"
  done
  check "$1: trainer.json" cmp <(timeless "$2/step-$steps/trainer.json") <(timeless "$3/step-$steps/trainer.json")
  check "$1: log.jsonl" cmp <(timeless "$2/log.jsonl") <(timeless "$3/log.jsonl")
}

# --- threads
for threads in 1 2 4; do
  ok "$threads threads" train --threads $threads --out threads.$threads --steps $steps --log-every 1 --validate-every 10 --tokens 1024
done
same_run "2 threads" threads.1 threads.2
same_run "4 threads" threads.1 threads.4
ok "other seed" train --out seed --steps $steps --seed 2 --log-every 1 --validate-every 10 --tokens 1024
check "another seed gives other bytes" bash -c "! cmp -s threads.1/step-$steps/model.safetensors seed/step-$steps/model.safetensors"

# --- stops
# until_step RUN N: waits until the log has N steps, or the process ends.
until_step() {
  while kill -0 "$child" 2>/dev/null && [ "$(grep -cs '"kind":"train"' "$1/log.jsonl" || true)0" -lt "${2}0" ]; do sleep 0.01; done
}
start() {  # start RUN ARGUMENT...: goes on with a run, or begins it
  local run=$1 resume=()
  shift
  [ -e "$run/settings.json" ] && resume=(--resume)
  "$program" train --corpus corpus --config small.json "$@" --out "$run" "${resume[@]}" >out 2>err &
  child=$!
}
RANDOM=5
for precision in fp32 bf16; do
  for optimiser in adamw adafactor factored_adam; do
    # Its moments are the newest; one precision shows that they are saved and read.
    [ $precision.$optimiser = bf16.factored_adam ] && continue
    name=$precision.$optimiser
    settings=(--precision $precision --optimiser $optimiser --dropout 0.2 --jitter 0.1 --expert-dropout 0.1 --accumulate 2
      --steps $steps --log-every 1 --validate-every 10 --checkpoint-every 4)
    ok "$name" train "${settings[@]}" --out "$name"

    # Stopped politely at three steps.
    for at in 3 8 13; do
      start "$name.term" "${settings[@]}"
      until_step "$name.term" $at
      kill -TERM $child 2>/dev/null
      wait $child
      status=$?
      equal "$name: exit status after SIGTERM near step $at" $status 143
      check "$name: SIGTERM says so" grep -q 'stopped by signal 15 after step [0-9]*; saved' err
      last=$(newest "$name.term")
      check "$name: SIGTERM near step $at leaves a checkpoint at or after it" test "${last##*-}" -ge $at
      ok "$name: the checkpoint of a stopped run translates" "$program" translate --model "$name.term" --to da --threads 1 < <(echo "the small file")
    done
    start "$name.term" "${settings[@]}"
    wait $child
    equal "$name: the resumed run ends" $? 0
    same_run "$name, stopped three times" "$name" "$name.term"

    # Killed at random instants: while loading, in a step, while a checkpoint is written or pruned.
    kills=0
    for attempt in $(seq 8); do
      start "$name.kill" "${settings[@]}"
      if [ $((attempt % 2)) = 0 ]; then until_step "$name.kill" $((attempt * 2)); fi
      sleep 0.0$((RANDOM % 10))$((RANDOM % 10))
      kill -KILL $child 2>/dev/null && kills=$((kills + 1))
      wait $child 2>/dev/null
    done
    start "$name.kill" "${settings[@]}"
    wait $child
    equal "$name: the run goes on after $kills kills" $? 0
    same_run "$name, killed" "$name" "$name.kill"
    equal "$name: kills leave nothing unfinished" "$(find "$name.kill" -name '*.tmp-*')" ""
  done
done

# --- one process a run
start locked --steps 100000
until_step locked 1
refuse "two processes in one run" 'locked: another process is training here' train --out locked --steps 100000 --resume
kill -KILL $child
wait $child 2>/dev/null
finish

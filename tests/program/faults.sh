#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/faults.sh NMT CONVERT MODEL -- every system call of a command about its files fails once, or is the last
# one before a kill. Then: one sentence and a status, or success; what was there is whole, old or new; the same command
# run again succeeds, clears away what was left, and writes the bits of a run that nothing happened to.
# FAULTS_FULL=1: every call; else FAULTS_POINTS (default 3) of them for each command and kind of fault.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
convert=$(realpath "${2:?usage: $0 NMT CONVERT MODEL}") model=$(realpath "${3:?usage: $0 NMT CONVERT MODEL}")
. "$here/lib.sh"
skip() {
  echo "skipped: $1"
  exit 77
}
command -v cc >/dev/null || skip "no C compiler for tests/faults/faults.c"
! ldd "$program" | grep -qE 'lib(a|t|ub|l)san' || skip "a sanitizer must be the first library"
cc -O1 -shared -fPIC -o faults.so "$here/../faults/faults.c" -ldl 2>cc.log || skip "$(head -n 1 cc.log)"
library=$PWD/faults.so top=$PWD
mkdir work

# A command begins with a copy of $top/begin in $top/work and runs in there.
fresh() { rm -rf "$top/work" && cp -r "$top/begin" "$top/work"; }
left() { find "$top/work" -name '*.tmp-*' -o -name '*.partial-*' | head -n 3; }
same_tree() { diff -r "$1" "$2" >/dev/null 2>&1; }
run() {  # run VARIABLE=VALUE... -- COMMAND...: in work; its status
  local variables=()
  while [ "$1" != -- ]; do
    variables+=("$1")
    shift
  done
  shift
  { (cd "$top/work" && exec timeout 60 env "${variables[@]}" "$@") >out 2>err </dev/null; } 2>/dev/null  # bash says "Killed"
}
faults=(FAULTS_UNDER="$top/work" LD_PRELOAD="$library")

# What sweep takes beside its arguments: the command that goes on after a failure (default: the same), how results are
# compared, and whether OUT may be an older one.
again=() equals=same_tree replaces=0

one() {  # one WHAT AT ERRNO HALF OUT COMMAND...: this fault in this command
  local what=$1 at=$2 code=$3 half=$4 result=$5 status=0
  shift 5
  fresh
  run "${faults[@]}" FAULTS_AT="$at" FAULTS_ERRNO="$code" FAULTS_HALF="$half" -- "$@" || status=$?
  if [ "$code" = 0 ]; then
    equal "$what: killed" $status 137
  elif [ $status = 0 ]; then
    if crashed err; then bad "$what" err; else pass; fi
  else
    refused "$what" . $status
    [ $equals = weights ] || equal "$what: nothing half-written is left" "$(left)" ""
  fi
  if [ $equals = same_tree ] && [ -e "work/$result" ] && ! same_tree "work/$result" new && ! { [ $replaces = 1 ] && same_tree "work/$result" "begin/$result"; }; then
    bad "$what: $result is neither the old nor the new one" err
  else
    pass
  fi
  # A new directory that is there already would be refused, rightly.
  if [ $equals = weights ] || [ $replaces = 1 ] || [ ! -d "work/$result" ]; then
    status=0
    run -- "${again[@]:-$@}" || status=$?
    equal "$what: run again ($(tail -n 1 err))" $status 0
    equal "$what: run again: nothing is left over" "$(left)" ""
    check "$what: run again: the bits are the same" $equals "work/$result" new
  fi
}

sweep() {  # sweep NAME OUT COMMAND...: OUT, in work, is what the command writes
  local name=$1 result=$2 total step kind code half at offset=0
  shift 2
  name_of_program=$(basename "$1")
  fresh
  rm -f log
  run "${faults[@]}" FAULTS_LOG="$top/log" -- "$@" || { bad "$name: does not run" err; return; }
  rm -rf new && cp -r "work/$result" new
  total=$(wc -l <log)
  step=$([ -n "${FAULTS_FULL:-}" ] && echo 1 || echo $((total / ${FAULTS_POINTS:-3} + 1)))
  cp log calls
  while read -r kind code half; do
    for ((at = 1 + offset % step; at <= total; at += step)); do
      one "$name: $kind at call $at, $(sed -n "${at}p" calls | cut -d' ' -f2- | sed "s|$top/work/||")" "$at" "$code" "$half" "$result" "$@"
    done
    offset=$((offset + step / 4 + 1))  # the kinds take turns at the points between
  done <<<$'EIO 5 0\nENOSPC 28 0\nhalf 28 1\nkill 0 0'
}

# --- convert: a new directory
mkdir begin && cp -r "$model" begin/model
sweep "convert" out "$convert" model out
rm -rf begin
[ -z "${FAULTS_ONLY_CONVERT:-}" ] || { finish; exit; }

# --- corpus: a new directory, and one that is replaced
mkdir begin && text 60 7 >begin/text.tsv
corpus=("$program" corpus --out out --tsv text.tsv --vocab 0)
sweep "corpus" out "${corpus[@]}"
(cd begin && "${corpus[@]}" >/dev/null 2>&1 && text 80 9 >text.tsv)
replaces=1
sweep "corpus --force" out "${corpus[@]}" --force
replaces=0
rm -rf begin

# --- train: from nothing, and resumed with old checkpoints to delete. A log and a directory of steps grow as it runs,
# so only the end is compared: weights, state, and that the log has every step.
weights() { cmp -s "$1/step-6/model.safetensors" "$2/step-6/model.safetensors" && cmp -s "$1/step-6/trainer.safetensors" "$2/step-6/trainer.safetensors"; }
mkdir begin && cp small.json begin && text 120 7 >begin/text.tsv
(cd begin && "$program" corpus --out corpus --tsv text.tsv --vocab 350 >/dev/null 2>&1) || bad "the corpus of train"
train=("$program" train --corpus corpus --config small.json --out out --checkpoint-every 2 --validate-every 100 --keep 1 --log-every 1)
equals=weights
cat >again.sh <<'SCRIPT'
#!/bin/sh
if [ -e out/settings.json ]; then exec "$@" --resume; else exec "$@"; fi
SCRIPT
chmod +x again.sh
again=("$top/again.sh" "${train[@]}" --steps 6)
sweep "train" out "${train[@]}" --steps 6
(cd begin && "${train[@]}" --steps 3 >/dev/null 2>&1) || bad "the run to resume"
sweep "train --resume" out "${train[@]}" --resume --steps 6
again=() equals=same_tree

# --- commands that read a run and write beside it
(cd begin && mv out run && "$program" train --corpus corpus --config small.json --out tasks --steps 2 --decoder-router task >/dev/null 2>&1) || bad "the run of tasks"
sweep "extract" out "$program" extract --model tasks --task da --out out
sweep "report" out.html "$program" report --run run --out out.html
sweep "evaluate --scores" out.json "$program" evaluate --model run --corpus corpus --rows 2 --max-length 8 --threads 1 --scores out.json
sweep "routing" out "$program" routing --model run --corpus corpus --rows 2 --max-length 8 --threads 1 --reference --out out
(cd begin && "$program" routing --model run --corpus corpus --rows 1 --max-length 8 --threads 1 --reference --out out >/dev/null 2>&1) || bad "the routing to replace"
replaces=1
sweep "routing, replaced" out "$program" routing --model run --corpus corpus --rows 2 --max-length 8 --threads 1 --reference --out out
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/hash-lm.sh NMT PROGRAM -- a language model with hash layers beside switch and dense ones: all learn, equal
# runs print the same, options that cannot work are refused.
. "$(dirname "$0")/lib.sh" "$1"
lm=$2
make_corpus corpus 800
small=(--corpus corpus --threads 1 --window 24 --rows 8 --validation 16 --layers 2 --width 32 --heads 2 --hidden 64
       --experts 4 --learning-rate 0.01)
ok "train" "$lm" "${small[@]}" --steps 60
cp out first
check "all models learn" awk '/^(dense|balanced hash|switch)/ { seen++; if (!($NF < 0.4 * $(NF - 1))) bad++ } END { exit bad || seen != 3 }' first
equal "a token meets as much in the hash model as in the dense one" \
  "$(awk '/^(dense|balanced hash)/ { print $(NF - 2) }' first | sort -u | wc -l)" 1
check "the loads of a balanced table are even" awk '/^  balanced hash layer 1:/ { n++; for (i = 5; i < NF; ++i) if ($i < 10 || $i > 45) bad++ } END { exit bad || n != 1 }' first
ok "again" "$lm" "${small[@]}" --steps 60
same "the same seed" out first
ok "a random table" "$lm" "${small[@]}" --steps 2 --table random
check "is named" grep -q '^random hash' out
says() {  # says WHAT REGEX COMMAND...
  local what=$1 regex=$2 status=0
  shift 2
  "$@" >out 2>err </dev/null || status=$?
  if [ $status != 0 ] && [ $status -lt 128 ] && [ "$(wc -l <err)" = 1 ] && grep -qE -- "$regex" err; then pass; else bad "$what" err; fi
}
says "no corpus" 'give --corpus DIR' "$lm"
says "an unknown table" 'balanced or random' "$lm" --corpus corpus --table odd
says "a directory that is none" 'nowhere' "$lm" --corpus nowhere
finish

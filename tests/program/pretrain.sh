#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/pretrain.sh NMT PROGRAM -- Switch pre-training beside a dense T5: both learn to fill in hidden spans, the
# fine-tuned models to translate; equal runs print the same; options that cannot work are refused.
. "$(dirname "$0")/lib.sh" "$1"
pretrain=$2
make_corpus corpus 800
small=(--corpus corpus --to da --threads 1 --window 24 --rows 8 --validation 16 --width 32 --heads 2 --hidden 64
       --experts 4 --learning-rate 0.01)
ok "pre-train and fine-tune" "$pretrain" "${small[@]}" --steps 60 --fine-steps 20
cp out first
# Columns from the right: after, before.
fell() { awk -v table="$1" -v part="$2" '/^perplexity/ { n++ } n == table && /^(dense|switch)/ { seen++; if (!($NF < part * $(NF - 1))) bad++ } END { exit bad || !seen }' first; }
check "both models learn hidden spans" fell 1 0.5
check "all fine-tuned models learn to translate" fell 2 0.95
equal "two models, then three" "$(grep -cE '^(dense|switch)' first)" 5
equal "what a token meets is that of the dense model and a router's 4 columns, two sparse layers" \
  "$(awk '/^(dense|switch)/ { print $(NF - 2) }' first | head -n 2 | tr '\n' ' ' | awk '{ print $2 - $1 }')" $((2 * 32 * 4))
check "loads of every sparse layer" grep -qE '^  decoder layer 1:( [0-9]+){4} %$' first
ok "again" "$pretrain" "${small[@]}" --steps 60 --fine-steps 20
same "the same seed" out first
says() {  # says WHAT REGEX COMMAND...
  local what=$1 regex=$2 status=0
  shift 2
  "$@" >out 2>err </dev/null || status=$?
  if [ $status != 0 ] && [ $status -lt 128 ] && [ "$(wc -l <err)" = 1 ] && grep -qE -- "$regex" err; then pass; else bad "$what" err; fi
}
says "no corpus" 'give --corpus DIR' "$pretrain"
says "a directory that is none" 'nowhere' "$pretrain" --corpus nowhere
says "a language that is not there" "no text in 'xx'" "$pretrain" "${small[@]}" --language xx
says "an unknown option" 'did you mean --experts' "$pretrain" --expert 3
says "heads that do not divide the width" "multiple of heads" "$pretrain" --corpus corpus --heads 5
finish

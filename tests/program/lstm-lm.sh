#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/lstm-lm.sh NMT PROGRAM -- LSTMs with a mixture of experts, flat and in two levels, beside a dense layer: all
# learn at equal compute, equal runs print the same, options that cannot work are refused.
. "$(dirname "$0")/lib.sh" "$1"
lm=$2
make_corpus corpus 800
small=(--corpus corpus --threads 1 --window 24 --rows 8 --validation 16 --width 32 --hidden 16 --experts 8
       --learning-rate 0.01)
ok "train" "$lm" "${small[@]}" --steps 80
cp out first
check "all models learn" awk '/^(dense|noisy top-4|two levels)/ { seen++; if (!($NF < 0.4 * $(NF - 1))) bad++ } END { exit bad || seen != 3 }' first
# Beyond the dense layer a token meets the gate (and the noise, a second one), and one output bias an expert.
check "a token meets about as much everywhere, of more parameters" awk '
  /^dense/ { n = $(NF - 2); all = $(NF - 3) }
  /^(noisy top-4|two levels)/ { seen++; if ($(NF - 2) < n || $(NF - 2) > 1.05 * n || $(NF - 3) <= all) bad++ }
  END { exit bad || seen != 2 }' first
check "every expert is used" awk '/^  (noisy top-4|two levels) layer 0:/ { n++; if (NF < 13) bad++; for (i = NF - 8; i < NF; ++i) if ($i < 2 || $i > 40) bad++ } END { exit bad || n != 2 }' first
ok "again" "$lm" "${small[@]}" --steps 80
same "the same seed" out first
ok "dropout, a sigmoid, projected cells" "$lm" "${small[@]}" --steps 2 --dropout 0.1 --sigmoid --cells 48
says() {  # says WHAT REGEX COMMAND...
  local what=$1 regex=$2 status=0
  shift 2
  "$@" >out 2>err </dev/null || status=$?
  if [ $status != 0 ] && [ $status -lt 128 ] && [ "$(wc -l <err)" = 1 ] && grep -qE -- "$regex" err; then pass; else bad "$what" err; fi
}
says "no corpus" 'give --corpus DIR' "$lm"
says "experts that make no branches" 'multiple of 4, at least 8, not 6' "$lm" --corpus corpus --experts 6
says "a directory that is none" 'nowhere' "$lm" --corpus nowhere
finish

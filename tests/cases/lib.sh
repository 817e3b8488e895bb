# SPDX-License-Identifier: Apache-2.0
# lib.sh -- sourced by tests/cases/*.sh, each the check of one case: NAME.sh FOLDER, with the programs in BIN and the
# project's root in SM. A line a check, PASS or FAIL; the exit status is the number of failures.
set -uo pipefail
folder=$(cd "${1:?usage: $0 FOLDER}" && pwd)
nmt=$BIN/sparsemoe-nmt generate=$BIN/sparsemoe-generate convert=$BIN/sparsemoe-convert
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 99
fails=0

pass() { echo "PASS $1"; }
fail() { echo "FAIL $1"; fails=$((fails + 1)); }
equal() { if [ "$2" = "$3" ]; then pass "$1"; else fail "$1: got '$(head -c 300 <<<"$2")', expected '$(head -c 300 <<<"$3")'"; fi; }
ok() {  # ok WHAT COMMAND...: status 0; its output is in out and err
  local what=$1 status=0
  shift
  "$@" >out 2>err || status=$?
  if [ $status = 0 ]; then pass "$what"; else fail "$what: status $status: $(tail -n 1 err)"; fi
}
refused() {  # refused WHAT PATTERN COMMAND...: one sentence with PATTERN, status 1 to 123
  local what=$1 pattern=$2 status=0
  shift 2
  "$@" >out 2>err || status=$?
  if [ $status -ge 1 ] && [ $status -le 123 ] && grep -qE -- "$pattern" err && ! grep -qE 'std::|_M_|terminate called' err; then pass "$what"
  else fail "$what: status $status: $(tail -n 1 err)"; fi
}
says() { if grep -qE -- "$2" "$3"; then pass "$1"; else fail "$1: no '$2' in: $(tail -n 3 "$3" | tr '\n' '|')"; fi; }
silent() { if grep -qE -- "$2" "$3"; then fail "$1: $(grep -E -- "$2" "$3" | head -n 1)"; else pass "$1"; fi; }
finish() { exit $fails; }

tiny=(--width 16 --heads 2 --hidden 32 --encoder-layers 1 --decoder-layers 1 --experts 2 --tokens 256 --precision fp32 --threads 1 --dropout 0)
# The corpus of text.tsv and a model that has learned its toy language.
train_toy() {
  "$nmt" corpus --out corpus --tsv "$folder/text.tsv" --vocab 300 >log 2>&1 || fail "corpus: $(tail -n 1 log)"
  "$nmt" train --corpus corpus --out run --steps 400 --width 64 --heads 4 --hidden 128 --encoder-layers 2 --decoder-layers 2 --experts 4 \
    --tokens 1024 --warmup 50 --learning-rate 3e-3 --dropout 0 --precision fp32 --validate-every 400 --threads 1 >log 2>&1 || fail "train: $(tail -n 1 log)"
}
translate() { "$nmt" translate --model run --to "${to:-xx}" --threads 1 "$@"; }

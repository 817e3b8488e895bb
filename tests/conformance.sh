#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/conformance.sh TOOL DIR -- the golden cases pass; and copies with one thing wrong are found out: a value, an
# integer, a lost tensor, a cut file. A kind nobody knows is skipped, not passed.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
usage 2 "$@"
tool=$1 goldens=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
wrong=0

expect() {  # expect STATUS REGEX WHAT: runs the tool on $scratch/copy
  local status=0
  "$tool" "$scratch/copy" >"$scratch/out" 2>&1 || status=$?
  if [ "$status" = "$1" ] && grep -qE "$2" "$scratch/out"; then
    echo "as expected: $3: $(grep -E "$2" "$scratch/out" | head -1)"
  else
    echo "NOT as expected: $3: exit status $status, expected $1 and a line like $2"
    tail -20 "$scratch/out"
    wrong=1
  fi
}
fresh() { rm -rf "$scratch/copy" && cp -r "$goldens" "$scratch/copy" && chmod -R u+w "$scratch/copy"; }
# The last value of a file is moved by its exponent's low bits.
corrupt() { printf '\x40' | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 2)) conv=notrunc status=none; }

fresh
expect 0 '^[0-9]+ passed, 0 failed, 0 skipped$' "all cases"
passed=$(tail -1 "$scratch/out" | cut -d' ' -f1)

for file in models/switch_a/tight layers/norm/t5_rms_0 layers/ffn/t5_gated_silu layers/t5_attention/cross_masked routing/gshard_top2_0 \
  routing/switch_paper_0 routing/noisy_top_k_0 routing/expert_choice_0 optim/adafactor_default optim/schedule_t5_rsqrt; do
  fresh
  corrupt "$scratch/copy/$file.safetensors"
  expect 1 "^FAILED +$file: " "a value of $file is off"
  grep -qx "$((passed - 1)) passed, 1 failed, 0 skipped" "$scratch/out" || { echo "NOT as expected: $(tail -1 "$scratch/out")"; wrong=1; }
done

fresh
sed -i 's|"out/expert_load"|"out/expert_lost"|' "$scratch/copy/routing/balanced_hash_0.safetensors"
expect 1 '^FAILED +routing/balanced_hash_0: ' "a tensor is missing"

fresh
truncate -s -8 "$scratch/copy/routing/hash_layer_0.safetensors"
expect 1 '^FAILED +routing/hash_layer_0: ' "a file is cut short"

# Nothing of a case is ignored: what is not known fails it, by name.
unknown() {  # unknown SED REGEX WHAT: the manifest edited makes one case fail with a line like REGEX
  fresh
  sed -i "$1" "$scratch/copy/manifest.json"
  expect 1 "$2" "$3"
  grep -qx "$((passed - 1)) passed, 1 failed, 0 skipped" "$scratch/out" || { echo "NOT as expected: $(tail -1 "$scratch/out")"; wrong=1; }
}
unknown 's|"kind": "routing/hash"|"kind": "routing/tomorrow"|' '^FAILED +routing/hash_layer_0: kind routing/tomorrow is not known$' "an unknown kind"
unknown 's|"noise_epsilon": 0.01|"noise_epsilom": 0.01|' '^FAILED .*option noise_epsilom is not known to routing/noisy_top_k$' "an unknown option"
unknown 's|"max_norm": 100.0|"max_norm": "many"|' '^FAILED .*option max_norm must be a number, not "many"$' "an option of another type"
unknown 's|out/expert_load|out/expert_lead|' '^FAILED .*' "a tensor that the file does not have"

rm -rf "$scratch/copy"
expect 1 'cannot open for reading' "a directory without a manifest"
exit $wrong

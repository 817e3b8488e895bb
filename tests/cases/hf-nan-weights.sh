# SPDX-License-Identifier: Apache-2.0
# NaN is never an answer.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
for beam in 1 4; do
  refused "beam $beam" 'not finite|NaN|nan' "$generate" --model "$folder/model" --ids --beam $beam --max-new-tokens 12 --threads 1 <"$folder/input.txt"
  if grep -q . out; then fail "an output"; else pass "no output"; fi
done
finish

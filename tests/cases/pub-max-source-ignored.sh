# SPDX-License-Identifier: Apache-2.0
# An option that is accepted is used.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
hf() { "$nmt" translate --model "$folder/model" --from eng_Latn --to fra_Latn --max-length 5 --threads 1 --json "$@" <"$folder/in.txt"; }
hf >whole 2>/dev/null || fail "translate"
if hf --max-source 8 >cut 2>err; then
  says "a warning" 'cut' err
  if cmp -s cut whole; then fail "nothing was cut"; else pass "cut"; fi
else
  says "refused by name" '--max-source' err
fi
finish

# SPDX-License-Identifier: Apache-2.0
# Outputs do not depend on their company, or it is said.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
for b in 1 16; do
  "$generate" --ids --model "$folder/model" --beam 2 --max-new-tokens 6 --batch $b --json --threads 1 <"$folder/in.txt" >out.$b 2>err.$b || fail "batch $b"
done
if cmp -s out.1 out.16; then pass "the same for batches of 1 and 16"; else says "said at loading" 'depend' err.16; fi
finish

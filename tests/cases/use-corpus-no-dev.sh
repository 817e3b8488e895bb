# SPDX-License-Identifier: Apache-2.0
# No validation rows: said, and null.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok corpus "$nmt" corpus --out c --tsv "$folder/part.tsv" --vocab 300
says "a corpus without dev rows says so" 'dev' err
ok train "$nmt" train --corpus c --out run --width 64 --hidden 128 --heads 4 --max-length 40 --tokens 512 --steps 10 --threads 1
if grep -q '"dev" 0\|dev 0' err || ! grep -q . c/dev/*.tsv 2>/dev/null; then
  silent "no loss of nothing" 'validation loss 0\.000' err
  silent "no zero in the log" '"kind":"validation".*"loss":0\.0[,}]' run/log.jsonl
  says "said" 'no validation|no dev|without dev' err
fi
finish

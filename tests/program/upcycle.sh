#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/upcycle.sh PROGRAM -- train --upcycle-from: at step 0 the sparse model translates as the dense one does,
# and what cannot be a start is refused and leaves nothing behind.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
text 60 3 | cut -f1 | tail -n +2 >lines
ok "a dense run" train --out dense --steps 60 --validate-every 60 --precision fp32 --encoder-router dense --decoder-router dense
translate() { "$program" translate --model "$1" --to da --threads 1 --max-length 12 <lines; }
translate dense >expected
for pair in token:task sentence:token static:hash; do
  # A step that moves nothing: what is saved is the start.
  ok "$pair: upcycled" train --out sparse --upcycle-from dense --steps 1 --validate-every 1 --learning-rate 1e-30 \
    --precision fp32 --encoder-router ${pair%:*} --decoder-router ${pair#*:}
  check "$pair: says where it starts" grep -q '^starts from the dense model of .*dense/step-60$' err
  ok "$pair: translate" translate sparse
  same "$pair: the dense model's translations" out expected
  rm -rf sparse
done
ok "goes on from there" train --out sparse --upcycle-from dense --steps 20 --validate-every 20 --precision fp32
ok "and resumes" train --out sparse --resume --steps 24
check "from its own checkpoint" grep -q '^resumed from sparse/step-20' err

refuse "a run that is not dense" "sparse/step-24: its routers are token and task; --upcycle-from takes a dense run" train --out bad --upcycle-from sparse
refuse "no such run" "nowhere" train --out bad --upcycle-from nowhere
refuse "other sizes" "of the dense model is" train --out bad --upcycle-from dense --hidden 48
equal "nothing is left" "$(ls -d bad* 2>/dev/null)" ""
finish

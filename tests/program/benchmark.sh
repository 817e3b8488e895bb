#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/benchmark.sh PROGRAM -- decoding speed side by side: what is measured is not tested, what is counted is.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
sizes="--width 32 --heads 2 --hidden 64 --encoder-layers 2 --decoder-layers 2 --threads 1 --rounds 1 --new-tokens 5"
bench() { "$program" benchmark --corpus corpus $sizes "$@"; }

ok "benchmark" bench --out speed --expert-counts 4,8 --batches 1,8 --precision fp32
for file in benchmark.json models/E4/token/config.json models/E8/folded/extraction.json; do
  check "benchmark: $file is JSON" is_json speed/$file
done
check "benchmark.html is a page" grep -qz '<!DOCTYPE html>.*</html>' speed/benchmark.html
equal "benchmark: five models, two sizes, two batches" "$(grep -c '"tokens_per_second"' speed/benchmark.json)" 20
# A sentence alone reads two experts a layer by token and by task, the dense model none; an expert is 2 x 32 x 64 x 4 bytes.
python=$(command -v python3 || true)
if [ -n "$python" ]; then
  "$python" - >numbers <<'END'
import json
for r in json.load(open("speed/benchmark.json"))["results"]:
    print(r["model"], r["experts"], r["batch"], "%g %g" % (r["experts_touched"], r["expert_bytes_a_step"]), r["share_of_limit"] > 0)
END
  equal "benchmark: one sentence by token" "$(grep '^token 8 1 ' numbers)" "token 8 1 2 32768 True"
  equal "benchmark: eight sentences by task" "$(grep '^task 8 8 ' numbers)" "task 8 8 2 32768 True"
  equal "benchmark: eight sentences, folded" "$(grep '^folded 4 8 ' numbers)" "folded 4 8 0 0 True"
  check "benchmark: eight sentences by token read more than two experts" awk '$1 == "token" && $3 == 8 && !($4 > 2) { bad = 1 } END { exit bad }' numbers
fi
before=$(sha256sum speed/models/E4/token/model.safetensors)
ok "benchmark again, with the models that are there" bench --out speed --expert-counts 4 --batches 2 --precision fp32
equal "benchmark: the models stay" "$(sha256sum speed/models/E4/token/model.safetensors)" "$before"

ok "train" train --out run --steps 2
ok "extract" "$program" extract --model run --task da --out small
ok "benchmark of trained models" bench --out trained --models run,small --batches 1,3
equal "benchmark: a row a batch" "$(grep -cE '^\| (1|3) \|' trained/benchmark.md)" 2
refuse "benchmark: unknown language" "does not know the language 'xx'" bench --out other --models run --to xx
refuse "benchmark: a batch of none" 'batches must be between 1 and' bench --out other --batches 0
refuse "benchmark: no such run" 'nowhere: no such directory' bench --out other --models nowhere
refuse "benchmark: no corpus" 'give --corpus DIR and --out DIR' "$program" benchmark --out other
refuse "benchmark: nothing sparse" 'sparse_every must leave a sparse layer' bench --out other --sparse-every 3
finish

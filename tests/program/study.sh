#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/study.sh PROGRAM -- routing strategies side by side, and who uses which expert.
. "$(dirname "$0")/lib.sh"
make_corpus corpus

# --- routing
ok "train" train --out run --steps 6
ok "routing" "$program" routing --model run --corpus corpus --out routing --rows 8 --threads 1
equal "routing: a line a sparse layer" "$(grep -cE '^(encoder|decoder) layer 1 \((token|task)\): [0-9]+ of 4 experts unused, mean entropy [0-9.]+ of 2\.00 bits$' out)" 2
check "routing.json is JSON" is_json routing/routing.json
check "routing.html is a page with a tree" grep -qz '<!DOCTYPE html>.*Likeness by expert use, decoder.*</html>' routing/routing.html
equal "routing.csv: 2 layers x 4 directions x 4 experts" "$(tail -n +2 routing/routing.csv | wc -l)" 32
# Task routing: every token of a direction goes to the same two experts.
equal "routing: two experts a direction under task routing" \
  "$(awk -F, '$1 == "decoder" && $6 > 0 { n[$4]++; c[$4 "," $6]++ } END { for (d in n) bad += n[d] != 2; for (k in c) bad += c[k] != 2; print bad + 0 }' routing/routing.csv)" 0
ok "routing of the references" "$program" routing --model run --corpus corpus --out routing2 --rows 8 --threads 1 --reference --languages da --directions en2xx
equal "routing: one direction" "$(cut -d, -f4 routing2/routing.csv | sort -u | tr '\n' ' ')" "en-da group "
ok "train dense" train --out flat --steps 2 --encoder-router dense --decoder-router dense
refuse "routing of a dense model" 'no sparse layer' "$program" routing --model flat --corpus corpus --out routing3 --rows 4 --threads 1

# --- study
sed 's/^{/{"rows": ["dense", "token\/target", "pair\/token"], "seeds": 2, "eval_rows": 4, "speed_rows": 4, "speed_rounds": 1, "steps": 4,/' small.json >study.json
study() { "$program" study --corpus corpus "$@"; }
ok "study" study --out table --config study.json
for file in study.json study-settings.json; do check "study: $file is JSON" is_json table/$file; done
equal "study: a line a row" "$(grep -cE '^\| (dense|token/target|pair/token) \| [0-9.]+ ± [0-9.]+ \|' out)" 3
check "study.html is a page" grep -qz '<!DOCTYPE html>.*</html>' table/study.html
check "study: the extracted model is smaller than the trained" awk -F'|' '/^\| token\/target / { exit !($(NF - 2) + 0 > $(NF - 1) + 0) }' table/study.md
check "study: times the extracted and the folded model" grep -q '^| token/target, folded | [0-9]' table/study.md
for f in dense/seed-1/scores.json dense/seed-2/scores.json token-target/seed-1/scores.json token-target/extracted/model.safetensors pair-token/dense/config.json; do
  check "study: $f" test -s table/$f
done
before=$(sha256sum table/*/seed-*/scores.json)
rm -r table/dense/seed-2
ok "study: goes on" study --out table --config study.json
check "study: what was finished is not done again, and a run again is the same run" test "$before" = "$(sha256sum table/*/seed-*/scores.json)"
refuse "study: other settings in the same directory" 'steps was 4 for the runs that are there, not 5' study --out table --config study.json --steps 5
refuse "study: unknown row" "there is no study row 'token/tasks'" study --out table2 --config study.json --rows token/tasks
finish

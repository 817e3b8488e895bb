#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/pipeline.sh PROGRAM -- the way of a user: import, train, translate, evaluate, report.
. "$(dirname "$0")/lib.sh"

# --- corpus
make_corpus corpus
for split in train dev test; do
  for name in sources en da fi; do check "corpus: $split/$name.tsv" test -s corpus/$split/$name.tsv; done
done
check "corpus: spm.model" test -s corpus/spm.model
check "corpus.json is JSON" is_json corpus/corpus.json
check "counts.json is JSON" is_json corpus/counts.json
check "corpus: the first language is the first column" grep -qzE '"languages": \[\s*"en",\s*"da",\s*"fi"' corpus/corpus.json
make_corpus again
check "corpus: the same text gives the same bytes" diff -r corpus again

tail -n +2 text.tsv | awk -F'\t' '$2 != "" { print $1 > "plain.en"; print $2 > "plain.da" }'
ok "corpus of two files" "$program" corpus --out two --pair plain.en plain.da --source en --target da --vocab 360
check "two files: a row a line, but for repeats" test "$(cat two/*/en.tsv | wc -l)" -gt 300
sed 's/$/\r/' plain.en >crlf.en
printf '\xEF\xBB\xBF' | cat - plain.da >bom.da
ok "corpus of two files with CR LF and a byte order mark" "$program" corpus --out two.crlf --pair crlf.en bom.da --source en --target da --vocab 360
check "CR LF and a byte order mark change nothing" diff -r --exclude corpus.json two two.crlf

# --- train
ok "train" train --out run --steps 30 --log-every 5 --validate-every 15 --checkpoint-every 10 --keep 2
check "train: settings.json is JSON" is_json run/settings.json
equal "train: keeps two checkpoints" "$(cd run && echo step-*)" "step-20 step-30"
equal "train: a checkpoint's files" "$(cd run/step-30 && echo *)" \
  "config.json manifest.json model.safetensors spm.model trainer.json trainer.safetensors"
for file in config manifest trainer; do check "checkpoint: $file.json is JSON" is_json run/step-30/$file.json; done
for file in config.json model.safetensors spm.model trainer.json trainer.safetensors; do
  check "manifest: SHA-256 of $file" grep -q "$(sha256sum run/step-30/$file | cut -d' ' -f1)" run/step-30/manifest.json
done
equal "train: nothing else in the run" "$(cd run && echo *)" "encoded.safetensors log.jsonl settings.json step-20 step-30"

# --- the log
check "log: every line is JSON" are_json_lines run/log.jsonl
number='-?[0-9.]+(e[-+]?[0-9]+)?'
equal "log: train records" "$(grep -cE '"kind":"train","step":(5|10|15|20|25|30),' run/log.jsonl)" 6
for field in seconds tokens tokens_per_second loss nll accuracy learning_rate grad_norm skipped; do
  equal "log: train records have a number $field" "$(grep '"kind":"train"' run/log.jsonl | grep -cE "\"$field\":$number[,}]")" 6
done
equal "log: train records have losses and layers" \
  "$(grep '"kind":"train"' run/log.jsonl | grep -cE "\"losses\":\{\"balance\":$number,\"z\":$number\}.*\"layers\":\[\{.*\"encoder\".*\"decoder\"")" 6
equal "log: validation records" \
  "$(grep -cE '"kind":"validation","step":(15|30),"loss":'"$number"',.*"en-da":.*"da-en":.*"bleu":.*"chrf":' run/log.jsonl)" 2
equal "log: usage records of two sparse layers" \
  "$(grep -cE '"kind":"usage","step":(15|30),"stack":"(encoder|decoder)","layer":1,"router":"(token|task)","tasks":\["en","da","fi"\],"counts":\[\[[0-9,]+\],\[[0-9,]+\],\[[0-9,]+\]\]' run/log.jsonl)" 4
# Loads are shares of all choices of the last batch. They were once read from memory that had been given back.
loads=$(grep '"kind":"train"' run/log.jsonl | grep -oE '"load":\[[^]]*\]' | tr -d '"load:[]' | awk -F, '{ s = 0; for (i = 1; i <= NF; ++i) { s += $i; if ($i < 0) s += 100 } if (s < 0.999 || s > 1.001) print s }')
equal "log: loads of a layer sum to 1" "$loads" ""
check "the loss falls" awk -v a="$(grep -oE '"step":5,.*"nll":[0-9.]+' run/log.jsonl | grep -oE '[0-9.]+$' | head -1)" \
  -v b="$(grep -oE '"step":30,.*"nll":[0-9.]+' run/log.jsonl | grep -oE '[0-9.]+$' | head -1)" 'BEGIN { exit !(a > b && b > 0) }'

# --- translate
translate() { "$program" translate --model run --to da --threads 1 --max-length 12 "$@"; }
awk -F'\t' 'NR > 1 { print $1; if (NR % 50 == 0) print "" }' text.tsv >lines
text 200 99 | cut -f1 | tail -n +2 >>lines
equal "translate: more lines than one batch and one read" "$(wc -l <lines)" 608
ok "translate" translate <lines
mv out whole
equal "translate: a line for a line" "$(wc -l <whole)" 608
# After 30 steps the model may answer with spaces alone, so the score tells what was translated.
equal "translate: empty lines stay empty" "$(paste lines whole | awk -F'\t' '$1 == "" && $2 != ""' | wc -l)" 0
ok "translate: scores" translate --json <lines
equal "translate: empty lines stay where they were, and others are translated" \
  "$(awk '{ print /"score":0\.0[,}]/ }' out | tr -d '\n')" "$(awk '{ print $0 == "" }' lines | tr -d '\n')"
ok "translate: no newline at the end" translate < <(printf %s "$(head -n 70 lines)")
check "translate: no newline at the end" cmp <(head -n 70 whole) out
ok "translate: CR LF" translate < <(head -n 70 lines | sed 's/$/\r/')
check "translate: CR LF as LF" cmp <(head -n 70 whole) out
ok "translate: nothing" translate </dev/null
equal "translate: nothing from nothing" "$(wc -c <out)" 0
ok "translate: any text" translate < <(printf 'ok\n日本語 \xf0\x9f\x8e\xb5 ŷ\n\t\n   \n%s\n\x01\x02\nend\n' "$(head -c 9000 /dev/zero | tr '\0' 'x')")
equal "translate: any text, a line for a line" "$(wc -l <out)" 7
check "translate: a long line is cut, with a warning that names it" grep -q '^warning: standard input:5: .*--max-source' err
ok "translate into a language from another than the pivot" translate --from fi < <(echo "pieni peli")
ok "samples" "$program" samples --model run --to da,fi --threads 1 --out run/samples.json < <(head -n 3 lines)
check "samples.json is JSON" is_json run/samples.json

# --- evaluate
ok "evaluate" "$program" evaluate --model run --corpus corpus --threads 1 --high 333 --scores run/scores.json
for row in en-da da-en en-fi fi-en; do
  check "evaluate: a row $row of five numbers" grep -qE "^$row +[0-9]+( +[0-9]+\.[0-9]){4}\$" out
done
for row in all xx2en en2xx high low; do check "evaluate: an average $row" grep -qE "^$row +[0-9]+( +[0-9]+\.[0-9]){4}" out; done
check "evaluate: scores.json is JSON" is_json run/scores.json
ok "evaluate --json" "$program" evaluate --model run --corpus corpus --threads 1 --split test --json
check "evaluate --json: is JSON" is_json out
for key in bleu chrf copy_bleu copy_chrf segments signature xx2en en2xx all; do
  check "evaluate --json: $key" grep -q "\"$key\"" out
done
mv out plain.json
ok "evaluate --mapped-experts" "$program" evaluate --model run --corpus corpus --threads 1 --split test --json --mapped-experts
same "evaluate --mapped-experts: the scores of experts in memory" out plain.json
chrf() { awk '$1 == "all" { print $4 }'; }  # of the mean row
ok "evaluate, dev" "$program" evaluate --model run --corpus corpus --threads 1
full=$(chrf <out)
ok "evaluate --int8-experts" "$program" evaluate --model run --corpus corpus --threads 1 --int8-experts
check "evaluate --int8-experts: what that saves" grep -q '^--int8-experts: ' err
check "evaluate --int8-experts: chrF moves by less than two points" awk -v a="$full" -v b="$(chrf <out)" 'BEGIN { exit !(a != "" && b != "" && a - b < 2 && b - a < 2) }'
ok "evaluate: one language and direction" "$program" evaluate --model run/step-30 --corpus corpus --threads 1 --languages fi --directions xx2en --rows 3
equal "evaluate: one language and direction" "$(grep -cE '^(..)-(..) ' out)$(grep -oE '^fi-en +3 ' out | tr -s ' ')" "1fi-en 3 "

# --- report
ok "report" "$program" report --run run --out report.html
check "report: a whole page" grep -qz '^<!DOCTYPE html>.*</html>' report.html
refs=$(grep -oE '(src|href|action|poster|data)="[^"]*"|url\([^)]*\)|@import[^;]*' report.html | grep -vE '"#|"data:|url\(#' | head -3)
equal "report: no reference to anything outside" "$refs" ""
finish

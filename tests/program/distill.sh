#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/distill.sh PROGRAM -- a dense student of a mixture of experts, by its distribution and by its translations:
# of the extracted model's size, an ordinary run, the same after a kill; and the table that sets it beside extraction.
. "$(dirname "$0")/lib.sh"
make_corpus corpus
text 60 3 | cut -f1 | tail -n +2 >lines.en
absent() { if [ -e "$2" ] || [ -n "$(find . -maxdepth 1 -name "$2.*")" ]; then bad "$1: left $2 behind"; rm -rf "$2" "$2".*; else pass; fi; }
cat >student.json <<'END'
{"corpus": "corpus", "tokens": 256, "max_length": 32, "warmup": 5, "learning_rate": 0.01, "threads": 1, "validate_rows": 8,
 "bleu_rows": 0, "steps": 20, "log_every": 5, "validate_every": 20, "checkpoint_every": 8, "beam": 2}
END
distill() { "$program" distill --config student.json --teacher teacher "$@"; }
last_loss() { grep '"kind":"validation"' "$1/log.jsonl" | tail -n 1 | grep -oE '"loss":[0-9.]+' | head -n 1 | cut -d: -f2; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && b != "" && a < b) }'; }
parameters() { grep -m1 -oE '"parameters":[0-9]+' "$1/log.jsonl" | cut -d: -f2; }
end=step-20

ok "the teacher" train --out teacher --steps 60 --validate-every 60 --precision fp32 --encoder-router task --decoder-router task
for to in en da fi; do ok "extract $to" "$program" extract --model teacher --task $to --out sub.$to --threads 1; done
ok "extract, folded" "$program" extract --model teacher --task da --out folded --dense --json
folded=$(tr -d ' \n' <folded/extraction.json | grep -oE '"total":\{"parameters":\[[0-9]+,[0-9]+' | grep -oE '[0-9]+$')

# --- word level
ok "word" distill --out word
check "word: begins with the teacher's weights" grep -qE '^[0-9]+ of [0-9]+ parameters begin as the teacher' err
equal "word: the extracted model's size, folded" "$(parameters word)" "$folded"
equal "word: the extracted model's widths" "$(tr -d ' \n' <"word/$end/config.json" | grep -oE '"(en|de)coder_hidden":\[[0-9,]*\]')" \
  "$(tr -d ' \n' <folded/config.json | grep -oE '"(en|de)coder_hidden":\[[0-9,]*\]')"
check "word: dense" grep -qz '"encoder_router": "dense",\s*"decoder_router": "dense"' "word/$end/config.json"
for file in settings distill; do check "word: $file.json is JSON" is_json word/$file.json; done
check "word: the log is JSON" are_json_lines word/log.jsonl
equal "word: hard and soft losses" "$(grep '"kind":"train"' word/log.jsonl | grep -cE '"hard":[0-9.]+,"soft":[0-9.]+')" 4
check "word: loss = 0.75 hard + 0.25 soft" awk -F'[:,]' '/"kind":"train"/ { for (i = 1; i < NF; ++i) v[$i] = $(i + 1)
  d = v["\"loss\""] - 0.75 * v["\"hard\""] - 0.25 * v["\"soft\""]; if (d > 1e-6 || d < -1e-6) bad = 1 } END { exit bad }' word/log.jsonl
ok "word: translates" "$program" translate --model word --to da --threads 1 --max-length 12 <lines.en
equal "word: a line for a line" "$(wc -l <out)" "$(wc -l <lines.en)"
ok "word: evaluate" "$program" evaluate --model word --corpus corpus --threads 1 --rows 4
ok "word: report" "$program" report --run word --out word.html
check "word: report shows both losses" grep -q 'Labels and teacher' word.html
ok "word, 2 threads" distill --out threads --threads 2
same "word, 2 threads" word/$end/model.safetensors threads/$end/model.safetensors
ok "random start" distill --out fresh --fresh
check "random start: the teacher's weights are a better one" less "$(last_loss word)" "$(last_loss fresh)"
ok "another temperature" distill --out warm --soft-temperature 2
check "another temperature: another student" bash -c "! cmp -s word/$end/model.safetensors warm/$end/model.safetensors"
ok "no share" distill --out none --soft 0
equal "no share: no soft loss" "$(grep -c '"soft"' none/log.jsonl)" 0
ok "bf16 student, accumulated batches" distill --out narrow --precision bf16 --accumulate 2 --label-smoothing 0
check "bf16 student: has the loss of a model that learns" less "$(last_loss narrow)" 6
rm -rf threads warm none narrow

# --- resume
start() {  # start RUN ARGUMENT...: goes on with a run, or begins it
  local run=$1 resume=()
  shift
  if [ -e "$run/settings.json" ]; then
    resume=(--resume)
    "$program" distill --out "$run" --resume >out 2>err &
  else
    "$program" distill --config student.json --teacher teacher "$@" --out "$run" >out 2>err &
  fi
  child=$!
}
RANDOM=3
kills() {  # kills RUN ARGUMENT...: killed at random moments, and then left alone
  for _ in $(seq 6); do
    start "$@"
    sleep 0.$((RANDOM % 4))$((RANDOM % 10))
    kill -KILL $child 2>/dev/null
    wait $child 2>/dev/null
  done
  start "$@"
  wait $child
  equal "$1: the run goes on after kills" $? 0
}
kills word.killed
same "word, killed" word/$end/model.safetensors word.killed/$end/model.safetensors
rm -rf word.killed

# --- sequence level
ok "sequence" distill --out sequence --level sequence
check "pseudo-targets are JSON lines" are_json_lines sequence/pseudo-targets.jsonl
equal "pseudo-targets: a chunk a direction" "$(grep -oE '"direction":"[a-z-]+"' sequence/pseudo-targets.jsonl | sort | tr '\n' ' ')" \
  '"direction":"da-en" "direction":"en-da" "direction":"en-fi" "direction":"fi-en" '
equal "sequence: no teacher in the loss" "$(grep -c '"soft"' sequence/log.jsonl)" 0
# The text is what translate says, one line for each of the sources.
grep '"direction":"en-da"' sequence/pseudo-targets.jsonl | grep -oE '"texts":\[.*\]' | cut -c10- | sed 's/^"//; s/"\]$//; s/","/\n/g' >texts
join -t "$(printf '\t')" corpus/train/en.tsv corpus/train/da.tsv | cut -f2 >sources
"$program" translate --model teacher --to da --threads 1 --beam 2 --max-length 30 <sources >whole
same "pseudo-targets are the teacher's translations" texts whole
kills sequence.killed --level sequence
same "sequence, killed" sequence/$end/model.safetensors sequence.killed/$end/model.safetensors
same "sequence, killed: its pseudo-targets" sequence/pseudo-targets.jsonl sequence.killed/pseudo-targets.jsonl
rm -rf sequence.killed
# Stopped politely, before or between chunks or in training; nothing that was decoded is lost.
start stopped --level sequence --beam 12 --steps 1000
until [ -s stopped/pseudo-targets.jsonl ] || ! kill -0 $child 2>/dev/null; do sleep 0.01; done
kill -TERM $child 2>/dev/null
wait $child
equal "stopped: exit status" $? 143
check "stopped: says so" grep -q 'stopped by signal 15 after step [0-9]*; saved' err
cp stopped/pseudo-targets.jsonl before
ok "stopped: goes on" "$program" distill --out stopped --resume --steps 1
check "stopped: keeps what was decoded" cmp before <(head -c "$(wc -c <before)" stopped/pseudo-targets.jsonl)
rm -rf stopped
# A run that was killed while it wrote its third chunk.
half() {
  rm -rf half
  mkdir half
  cp sequence/settings.json sequence/distill.json half
  head -n 2 sequence/pseudo-targets.jsonl >half/pseudo-targets.jsonl
}
half
sed -n 3p sequence/pseudo-targets.jsonl | head -c 100 >>half/pseudo-targets.jsonl
ok "a chunk that was cut" "$program" distill --out half --resume
check "a chunk that was cut: it and the next are decoded, the others not" grep -q ' 2 chunks of them decoded now' err
same "a chunk that was cut" sequence/pseudo-targets.jsonl half/pseudo-targets.jsonl
same "a chunk that was cut: the student" sequence/$end/model.safetensors half/$end/model.safetensors
half
sed -i '1s/"sources":"./"sources":"x/' half/pseudo-targets.jsonl
refuse "pseudo-targets of another corpus" 'half/pseudo-targets.jsonl: record 1 has translations of other sentences' "$program" distill --out half --resume
half
sed -i '2s/"targets":\[\[[0-9]*/"targets":[[4000/' half/pseudo-targets.jsonl
refuse "pseudo-targets of another tokenizer" 'record 2 does not have a translation of ids' "$program" distill --out half --resume
half
sed -i '2s/"targets"/"target"/' half/pseudo-targets.jsonl
refuse "not pseudo-targets" 'record 2 is not one of pseudo-targets' "$program" distill --out half --resume
rm -rf half
ok "sequence and word" distill --out both --level sequence --soft 0.5 --beam 1 --steps 10
check "sequence and word: the teacher is in the loss" grep -q '"soft":' both/log.jsonl
rm -rf both

# --- other teachers
ok "an extracted teacher" "$program" distill --config student.json --teacher sub.da --out one
equal "an extracted teacher: its only direction" "$(grep -m1 -oE '"directions":\[[^]]*\]' one/log.jsonl)" '"directions":["en-da"]'
rm -rf one
ok "a teacher with token routing: train" train --out mixed --steps 10 --validate-every 10 --encoder-router switch --decoder-router task
ok "a teacher with token routing" "$program" distill --config student.json --teacher mixed --out one --steps 5
check "one expert a token: one expert's width; two: twice" grep -qz '"encoder_hidden": \[\],\s*"decoder_hidden": \[\s*64,\s*128' one/step-5/config.json
rm -rf one mixed
ok "dense: train" train --out dense --steps 2 --validate-every 2 --encoder-router dense --decoder-router dense
refuse "a dense teacher" 'dense: has no experts.*--fresh' "$program" distill --config student.json --teacher dense --out new
ok "a dense teacher, random start" "$program" distill --config student.json --teacher dense --out new --fresh --steps 3
rm -rf new

# --- what is refused
bad_teacher() { refuse "$1" "$2" "$program" distill --config student.json --out new "${@:3}"; absent "$1" new; }
bad_teacher "no teacher" 'give --teacher DIR'
bad_teacher "no such teacher" 'none: no such directory; expected a run or a checkpoint' --teacher none
bad_teacher "not a model" 'corpus: neither a checkpoint' --teacher corpus
check "another corpus" "$program" corpus --out other --tsv text.tsv --vocab 300
bad_teacher "another tokenizer" 'other/spm.model: another tokenizer than the teacher.*share their vocabulary' --teacher teacher --tokenizer other/spm.model
bad_teacher "fewer languages" 'teacher knows en, da, fi, and the student would learn en, da: .*share their languages' --teacher teacher --languages da
bad_teacher "no direction of the teacher" "no task among the directions 'xx2en'" --teacher sub.da --directions xx2en
bad_teacher "no such corpus" 'none: no such directory' --teacher teacher --corpus none
bad_teacher "share" 'soft must be at most 1, not 1.5' --teacher teacher --soft 1.5
bad_teacher "temperature" 'soft_temperature must be positive, not 0' --teacher teacher --soft-temperature 0
bad_teacher "beam" 'beam must be between 1 and 64, not 0' --teacher teacher --beam 0
bad_teacher "level" 'must be one of word, sequence' --teacher teacher --level letter
bad_teacher "a size" '--width|did you mean' --teacher teacher --width 64
cp -r sub.da broken
truncate -s -100 broken/model.safetensors
bad_teacher "a damaged teacher" 'broken/model.safetensors: truncated' --teacher broken
refuse "out exists" 'word: there is a run already' distill --out word
refuse "another level" 'level was "word" when the run began' "$program" distill --out word --resume --level sequence
refuse "another share" 'soft was' "$program" distill --out word --resume --soft 0.5
refuse "another teacher" 'sub.da: not the weights that the run learns from' "$program" distill --out word --resume --teacher sub.da
refuse "a student is no ordinary training" 'word: this run learns from a teacher; go on with it by distill --resume' train --out word --resume
refuse "ordinary training has no teacher" 'teacher: this run has no teacher; go on with it by train --resume' "$program" distill --out teacher --resume
refuse "nothing to resume" 'none: there is no run to resume' "$program" distill --out none --resume
ok "more steps, without naming the teacher" "$program" distill --out word --resume --steps 24
rm -rf word/step-24

# --- the table
report() { "$program" distill-report --dense dense --teacher teacher --corpus corpus --rows 10 --threads 1 --out table "$@"; }
ok "report" report --student word,sequence --extracted sub.en,sub.da,sub.fi
check "report: JSON" is_json table/distill.json
equal "report: its lines" "$(grep -oE '^\| (dense|teacher|extracted|student word|student sequence) ' out | tr -d '|' | tr -s ' \n' ' ')" ' dense teacher extracted student word student sequence '
line() { grep "^| $1 " table/distill.md; }
check "report: the teacher gains" less "$(line dense | cut -d'|' -f4)" "$(line teacher | cut -d'|' -f4)"
equal "report: the dense model keeps nothing, the teacher all" "$(line dense | cut -d'|' -f8),$(line teacher | cut -d'|' -f8)" " 0 % , 100 % "
equal "report: extraction keeps all" "$(line extracted | cut -d'|' -f3,4,8)" "$(line teacher | cut -d'|' -f3,4,8)"
check "report: and serves fewer parameters" less "$(line extracted | cut -d'|' -f6 | tr -d ' %')" 100
check "report: the share is (student - dense) / (teacher - dense)" awk '{ gsub(/[",:]/, " ") }
  $1 == "role" { role = $2 } $1 == "chrf" && !(role in s) { s[role] = $2 } $1 == "gain_kept" { inside = 1 }
  inside && $1 == "chrf" { k[role] = $2; inside = 0 }
  END { w = (s["student"] - s["dense"]) / (s["teacher"] - s["dense"]); d = w - k["student"]; exit !(d < 1e-6 && d > -1e-6) }' \
  <(awk '/"role": "student"/ { if (seen++) exit } { print }' table/distill.json)
ok "report: a direction that all have" report --student word --extracted sub.da
check "report: says how many" grep -q 'Means over 1 direction of dev' out
refuse "report: nothing to compare" 'give --student RUN or --extracted DIR' report
refuse "report: no such student" 'none: no such directory' report --student none
refuse "report: out is a file" 'lines.en: is not a directory' "$program" distill-report --dense dense --teacher teacher --corpus corpus --student word --out lines.en
refuse "report: no common direction" 'no direction that all of the models translate' report --student word --extracted sub.da --directions xx2en
finish

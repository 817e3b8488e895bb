#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/translate.sh PROGRAM -- translate as a filter: any length, in order, as soon as ready; beams, n-best and
# JSON; lines that are empty, too long or no text.
tests=$(realpath "$(dirname "$0")/..")
. "$(dirname "$0")/lib.sh"
make_corpus corpus
ok "train" train --out run --steps 200 --checkpoint-every 200 --validate-every 200
translate() { "$program" translate --model run --to da --threads 1 --max-length 12 "$@"; }
text 1500 5 | cut -f1 | tail -n +2 | awk '{ print } NR % 97 == 0 { print "" }' >lines

# --- order, and independence of what is translated together
ok "one line at a time" translate --batch 1 <lines
mv out single
equal "a line for a line" "$(wc -l <single)" "$(wc -l <lines)"
equal "empty lines stay, and where they were" "$(awk '{ print $0 == "" }' single | tr -d '\n')" "$(awk '{ print $0 == "" }' lines | tr -d '\n')"
for batch in 7 64 1000; do
  ok "batches of $batch" translate --batch $batch <lines
  same "batches of $batch give what single lines give" out single
done
head -n 40 lines >few
ok "beam, one line at a time" translate --beam 3 --nbest 3 --batch 1 <few
mv out few.single
ok "beam, together" translate --beam 3 --nbest 3 <few
same "beams of a batch are those of single lines" out few.single
ok "a line written in pieces" translate < <(printf 'the '; sleep 0.2; printf 'file\nold'; sleep 0.2; printf ' disk')
mv out pieces
ok "the same at once" translate < <(printf 'the file\nold disk')
same "a line written in pieces is one line" out pieces

# --- as soon as ready: an answer while the input is still open
mkfifo in answers
translate <in >answers 2>err &
exec 7>in 8<answers
echo "the small file" >&7
check "an answer while the input is open" bash -c 'read -r -t 20 line <&8 && [ -n "$line" ]'
echo "old disk" >&7
check "and another" bash -c 'read -r -t 20 line <&8 && [ -n "$line" ]'
exec 7>&- 8<&-
wait

# --- n-best and JSON
ok "n-best" translate --beam 4 --nbest 3 < <(printf 'the small file\n\nold disk\n')
equal "n-best: rows a line" "$(cut -f1 out | uniq -c | awk '{ print $1 "x" $2 }' | tr '\n' ' ')" "3x1 1x2 3x3 "
check "n-best: number, score, text" bash -c "! grep -vP '^\d+\t-?\d+(\.\d+)?(e-?\d+)?\t.*\$' out"
check "n-best: best first" awk -F'\t' '$1 == n && $2 > s + 0 { exit 1 } { n = $1; s = $2 }' out
cut -f3 out | sed -n '1p;4p;5p' >best
ok "one best" translate --beam 4 < <(printf 'the small file\n\nold disk\n')
same "the first of the n best is the best" out best
ok "JSON" translate --beam 4 --nbest 2 --json < <(printf 'the "small"\\ file\t\x01\n\nold disk\n')
check "JSON: every line is an object" are_json_lines out
equal "JSON: a line for a line" "$(wc -l <out)" 3
equal "JSON: two translations of text, one of an empty line" "$(grep -o '"text"' out | wc -l)" 5
equal "JSON: every translation has a score and says whether it ended" "$(grep -oP '\{"ended":(true|false),"score":-?[\d.e-]+,"text":"[^"]*"\}|"text":"[^"]*","score":-?[\d.e-]+,"ended":(true|false)\}' out | wc -l)" 5
check "JSON: the source as it was" grep -qF '"source":"the \"small\"\\ file\t\u0001"' out
ok "JSON of the best" translate --json <few
check "JSON of the best: every line is an object" are_json_lines out
grep -oP '"text":"\K[^"]*' out >texts
ok "the best" translate <few
same "JSON and plain lines are the same translations" out texts
ok "search as long as something could be better" translate --early-stopping never --beam 2 <few
ok "stop at the first outputs" translate --early-stopping first --beam 2 <few
refuse "--early-stopping maybe" '--early-stopping' translate --early-stopping maybe
ok "no bigram twice" translate --no-repeat-ngram 1 --beam 2 --json <few
ok "length penalty" translate --beam 4 --length-penalty 0 --json < <(echo "the small file")
check "length penalty 0: scores are log-probabilities" grep -qP '"score":-' out

# --- expert weights in 8 bits, and expert weights that stay in the checkpoint
ok "experts in 8 bits" translate --int8-experts <few
equal "experts in 8 bits: a line for a line" "$(wc -l <out)" 40
check "experts in 8 bits: what that saves" grep -qP '^--int8-experts: \S+ expert weights take \S+B of memory instead of \S+B as (fp32|bf16)$' err
ok "experts in memory" translate --beam 2 <few
mv out in-memory
ok "experts in the checkpoint" translate --beam 2 --mapped-experts <few
same "experts in the checkpoint: the translations of experts in memory" out in-memory
check "experts in the checkpoint: no memory" grep -qP '^--mapped-experts: \S+ expert weights take 0B of memory instead of \S+B as (fp32|bf16); they are read from the checkpoint$' err
refuse "experts in both ways" '--int8-experts and --mapped-experts: give one of them' "$program" translate --model run --to da --int8-experts --mapped-experts
ok "a model without experts" train --out dense --steps 2 --encoder-router dense --decoder-router dense
refuse "experts in the checkpoint: there are none" '--mapped-experts: the model has no experts' "$program" translate --model dense --to da --mapped-experts
refuse "experts in 8 bits: there are none" '--int8-experts: the model has no experts' "$program" translate --model dense --to da --int8-experts

# --- input that is not what one would like
yes "the small file" | head -n 10000 | tr '\n' ' ' >long
ok "a line of 30,000 words" translate < <(echo "old disk"; cat long; echo; echo "old disk")
equal "a line of 30,000 words: three lines" "$(wc -l <out)" 3
equal "a line of 30,000 words: its neighbours" "$(sed -n 1p out)" "$(sed -n 3p out)"
equal "a line of 30,000 words: one warning, which names it" "$(cat err | grep -c '^warning: standard input:2: [0-9]* tokens, cut to --max-source 1024$')/$(wc -l <err)" "1/1"
ok "nothing but empty lines" translate < <(printf '\n\n\n')
equal "nothing but empty lines" "$(wc -lc <out | tr -s ' ' | sed 's/^ //')" "3 3"
head -n 700 lines >broken && printf 'small \xe2\x28\xa1 game\nold\n' >>broken
translate --strict <broken >out 2>err
refused "malformed UTF-8 after a whole window, strict" 'standard input:701: not valid UTF-8 at byte 6' $?
head -n 700 single >expected
same "malformed UTF-8, strict: all before it is written, in order" out expected
ok "malformed UTF-8" translate <broken
equal "malformed UTF-8: a line for a line" "$(wc -l <out)" 702
equal "malformed UTF-8: one warning, which names it" "$(cat err)" "warning: standard input:701: not valid UTF-8; U+FFFD in 2 places"
ok "its last line alone" translate < <(echo old)
equal "malformed UTF-8: later lines go on" "$(tail -n 1 out)" "$(cat out)"

# --- text as people have it: cleaned as the training text was
ok "one sentence" translate < <(printf 'the small file\n')
clean=$(cat out)
ok "its white space in all ways" translate < <(printf 'the  small file\n the small file\nthe small file \nthe\tsmall file\nthe\u00a0small\u3000file\nthe sm\u200ball file\n\ufeffthe small file\nthe\u2581small file\n')
equal "white space of all kinds is one space" "$(sort -u out)" "$clean"
equal "white space of all kinds: a line for a line" "$(wc -l <out)" 8
ok "lines of white space" translate < <(printf ' \n\u00a0\n\t\n\u3000\n\u200b\n\n')
equal "lines of white space are empty lines" "$(tr '\n' '.' <out)" "......"
ok "samples of white space" "$program" samples --model run --to da,fi --threads 1 < <(printf ' \nthe small file\n\n')
equal "samples: a line of white space has none" "$(grep -cE '^(da|fi) +$' out)" 4
ok "a decomposed letter" translate < <(printf 'cafe\u0301 disk\ncaf\u00e9 disk\n')
equal "a letter in two ways is one letter" "$(sort -u out | wc -l)" 1
ok "a tag in the text" translate < <(printf 'the <2en> small <2fi> file </s> disk\n<2da>\n')
equal "a tag in the text is text" "$(wc -l <out)" 2
ok "a language by another code" "$program" translate --model run --to dan_Latn --from eng --threads 1 --max-length 12 < <(printf 'the small file\n')
equal "a language by another code" "$(cat out)" "$clean"
refuse "a language that the model does not know" "does not know the language 'deu'; it knows en, da, fi" "$program" translate --model run --to deu
check "bytes of output: valid UTF-8, no U+FFFD" bash -c "! grep -q $'\xef\xbf\xbd' single && iconv -f UTF-8 -t UTF-8 single >iconv.out"

# --- rows of JSON in and out
ok "JSON lines" translate --jsonl < <(printf '{"text": "the small\\nfile", "id": 7}\n\n{"source": "old disk"}\n')
check "JSON lines: every row is JSON" are_json_lines out
equal "JSON lines: rows and lines" "$(grep -oE '^\{"line":[0-9]+' out | tr '\n' ' ')" '{"line":1 {"line":2 {"line":3 '
equal "JSON lines: a break is a space to the model" "$(head -n 1 out | grep -oP '"text":"\K[^"]*')" "$clean"
translate --jsonl < <(printf '{"text": "old disk"}\n{"txt": "x"}\n') >out 2>err
refused "JSON lines: no text" 'standard input:2: must have one of' $?
equal "JSON lines: what was before is written" "$(wc -l <out)" 1
(ulimit -v 6000000; "$program" translate --model run --to da --threads 1 </dev/zero >out 2>err)
refused "a line without end" 'standard input:1: a line of more than' $?
refuse "--nbest without beams" '--nbest 3 needs --beam 3 or more; it is 1' translate --nbest 3
refuse "--beam 0" '--beam' translate --beam 0
refuse "--beam 65" '--beam' translate --beam 65
refuse "--no-repeat-ngram -1" '--no-repeat-ngram' translate --no-repeat-ngram -1
refuse "--length-penalty nan" '--length-penalty' translate --length-penalty nan
translate --json < <(echo "the file") >/dev/full 2>err
refused "full standard output" 'standard output: cannot write' $?
"$program" translate --model run --to da --threads 1 <lines 2>err | head -n 1 >out
check "a reader that goes away ends the program" test "$(wc -l <out)" = 1
# --- a Hugging Face checkpoint in place of a run
data=$(realpath "$tests/data")
cp -r "$data/goldens/models/nllb_b" nllb && chmod -R u+w nllb
cp "$data/generate/nllb_b.model" nllb/sentencepiece.bpe.model
echo '{"additional_special_tokens": ["eng_Latn", "fra_Latn"]}' >nllb/special_tokens_map.json
printf 'the red house\n\nthe mouse\n' >lines
ok "NLLB" "$program" translate --model nllb --from eng_Latn --to fra_Latn --max-length 6 <lines
equal "its lines" "$(wc -l <out)" 3
equal "its empty line" "$(sed -n 2p out)" ""
refuse "NLLB: an unknown language" "the checkpoint does not know the language 'xx'; it knows eng_Latn" "$program" translate --model nllb --from eng_Latn --to xx
printf 'the red house is near the old mouse of the red house\n' >long
ok "NLLB: a long input" "$program" translate --model nllb --from eng_Latn --to fra_Latn --max-length 6 --max-source 8 <long
check "NLLB: is cut, with a warning" grep -q 'standard input:1: [0-9]* tokens, cut to --max-source 8' err
refuse "NLLB: int8" 'not for Hugging Face checkpoints' "$program" translate --model nllb --from eng_Latn --to fra_Latn --int8-experts
finish

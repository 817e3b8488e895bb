# SPDX-License-Identifier: Apache-2.0
# A language tag in a text is text: several pieces, never the one id of the tag. What a toy model makes of six letters that
# it has never seen is luck, so pieces are counted: --max-source says how many a line has.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$nmt" corpus --out corpus --tsv "$folder/text.tsv" --vocab 300 >log 2>&1 || fail "corpus: $(tail -n 1 log)"
"$nmt" train --corpus corpus --out run --steps 2 "${tiny[@]}" >log 2>&1 || fail "train: $(tail -n 1 log)"
ok translate "$nmt" translate --model run --to xx --threads 1 --max-length 8 <"$folder/in.txt"
equal "a line an input" "$(wc -l <out)" "$(wc -l <"$folder/in.txt")"
pieces() { "$nmt" translate --model run --to xx --threads 1 --max-length 4 --max-source 8 <<<"$1" 2>&1 >/dev/null | grep -oE '[0-9]+ tokens, cut' | grep -oE '^[0-9]+'; }
while IFS= read -r line; do
  [[ $line == *"<2"* ]] || continue
  without=$(pieces "$(sed -E 's/<2[^>]*> ?//g' <<<"$line")") with=$(pieces "$line")
  if [ "${with:-0}" -ge $((${without:-99} + 3)) ]; then pass "'$line'"; else fail "'$line': $with pieces, $without without the tag"; fi
done <"$folder/in.txt"
finish

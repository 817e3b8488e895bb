# SPDX-License-Identifier: Apache-2.0
# The speed after a resume, and what changed with it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
awk 'BEGIN{n=split("a the small fast red blue old new file text page line word tool game disk",w," ");x=8;print "en\tda";
  for(r=0;r<400;++r){a=b="";for(k=3+r%6;k>0;--k){x=x*16807%2147483647;i=1+x%n;a=a" "w[i];b=b" "w[i]"e"};print substr(a,2)"\t"substr(b,2)}}' >text.tsv
"$nmt" corpus --out c --tsv text.tsv --vocab 300 >/dev/null 2>&1
ok train "$nmt" train --corpus c --out run --steps 60 "${tiny[@]}" --checkpoint-every 60
first=$(grep -o '[0-9.]*k\? tokens/s' err | tail -n 1)
ok resume "$nmt" train --corpus c --out run --steps 200 --resume
second=$(grep -o '[0-9.]*k\? tokens/s' err | tail -n 1)
number() { awk '{v=$1; k=sub(/k/,"",v); print v*(k?1000:1)}' <<<"$1"; }
if [ -n "$first" ] && [ -n "$second" ] && awk -v a="$(number "$first")" -v b="$(number "$second")" 'BEGIN{exit !(b < 5 * a)}'; then pass "speed: $first, then $second"
else fail "speed: $first, then $second"; fi
if "$nmt" train --corpus c --out run --steps 201 --resume --learning-rate 0.1 >out 2>err; then
  says "a changed option is said" 'learning' err
  says "and logged" 'learning.rate' run/log.jsonl
else
  says "a changed option is refused by name" 'learning' err
fi
mv c/train c/gone
refused "--width is refused before the corpus is read" 'width' "$nmt" train --corpus c --out run --resume --width 128
finish

# SPDX-License-Identifier: Apache-2.0
# One bad byte does not end the filter.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
awk 'BEGIN{n=split("a the small fast red blue old new file text page line word tool game disk",w," ");x=8;print "en\tda";
  for(r=0;r<300;++r){a=b="";for(k=3+r%6;k>0;--k){x=x*16807%2147483647;i=1+x%n;a=a" "w[i];b=b" "w[i]"e"};print substr(a,2)"\t"substr(b,2)}}' >text.tsv
"$nmt" corpus --out c --tsv text.tsv --vocab 300 >/dev/null 2>&1
ok train "$nmt" train --corpus c --out run --steps 5 "${tiny[@]}"
ok translate "$nmt" translate --model run --to da --threads 1 <"$folder/in.txt"
equal "as many lines" "$(wc -l <out)" 3
says "the line is named" '2' err
refused strict 'input:2' "$nmt" translate --model run --to da --threads 1 --strict <"$folder/in.txt"
finish

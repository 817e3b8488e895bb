# SPDX-License-Identifier: Apache-2.0
# A table that was not measured is left out, or says so.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
awk 'BEGIN{n=split("a the small fast red blue old new file text page line word tool game disk",w," ");x=8;print "en\tda";
  for(r=0;r<400;++r){a=b="";for(k=3+r%6;k>0;--k){x=x*16807%2147483647;i=1+x%n;a=a" "w[i];b=b" "w[i]"e"};print substr(a,2)"\t"substr(b,2)}}' >text.tsv
"$nmt" corpus --out c --tsv text.tsv --vocab 300 >/dev/null 2>&1
ok study "$nmt" study --corpus c --out study --steps 4 --rows token/target,dense --eval-rows 4 --speed-rows 0 "${tiny[@]}" --sparse-every 1
if grep -q 'tokens a second' study/study.md; then says "not timed" '[Nn]ot timed' study/study.md; else pass "left out"; fi
finish

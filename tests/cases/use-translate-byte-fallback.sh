# SPDX-License-Identifier: Apache-2.0
# Never U+FFFD in an output.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
awk 'BEGIN{n=split("læs tekst fil åben ærlig øre 日本 語 русский слово œuvre été ça naïf",w," ");x=8;print "en\tda";
  for(r=0;r<300;++r){a=b="";for(k=3+r%6;k>0;--k){x=x*16807%2147483647;i=1+x%n;a=a" "w[i];b=b" "w[i]"e"};print substr(a,2)"\t"substr(b,2)}}' >text.tsv
"$nmt" corpus --out c --tsv text.tsv --vocab 320 >/dev/null 2>&1
for steps in 0 5 40; do
  [ $steps = 0 ] && steps=1
  ok "train $steps" "$nmt" train --corpus c --out run-$steps --steps $steps "${tiny[@]}"
  for beam in 1 4; do
    ok translate "$nmt" translate --model run-$steps --to da --beam $beam --max-length 60 --threads 1 <"$folder/in.txt"
    if python3 -c 'import sys; t=open("out","rb").read().decode("utf8"); sys.exit("�" in t)'; then pass "text"; else fail "U+FFFD after $steps steps, beam $beam"; fi
  done
done
finish

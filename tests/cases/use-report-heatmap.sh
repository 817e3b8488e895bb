# SPDX-License-Identifier: Apache-2.0
# Heat maps whose numbers do not run together.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
awk 'BEGIN{n=split("a the small fast red blue old new file text page line word tool game disk",w," ");x=8;print "en\tda";
  for(r=0;r<300;++r){a=b="";for(k=3+r%6;k>0;--k){x=x*16807%2147483647;i=1+x%n;a=a" "w[i];b=b" "w[i]"e"};print substr(a,2)"\t"substr(b,2)}}' >text.tsv
ok corpus "$nmt" corpus --out c --tsv text.tsv --vocab 300
ok train "$nmt" train --corpus c --out run --steps 5 "${tiny[@]}" --sparse-every 1
ok routing "$nmt" routing --model run --corpus c --out routing --rows 3 --threads 1
silent "two decimals" '<text[^>]*>0\.[0-9]{3,}</text>' routing/routing.html
silent "no absolute path" "<h1>[^<]*$scratch|<title>[^<]*$scratch" routing/routing.html
ok report "$nmt" report --run run --out r.html
silent "two decimals in the report's maps" '<text[^>]*>0\.[0-9]{4,}</text>' r.html
finish

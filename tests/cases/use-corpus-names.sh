# SPDX-License-Identifier: Apache-2.0
# Names of languages as corpora have them.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok "the file's names" "$nmt" corpus --out c --tsv "$folder/names.tsv" --vocab 0
for name in eng_Latn2 l00 zh-TW pt_BR sr_Latn sr@latin zho_Hans x-klingon; do
  printf 'en\t%s\n' $name >n.tsv
  for i in $(seq 60); do printf 'the house number %s\tdas haus %s\n' "$(echo $i | tr 0-9 a-j)" "$(echo $i | tr 0-9 k-t)"; done >>n.tsv
  ok "$name" "$nmt" corpus --out c-$name --tsv n.tsv --vocab 0
done
printf 'en\t../up\na\tb\n' >bad.tsv
refused "a path" 'up' "$nmt" corpus --out bad --tsv bad.tsv --vocab 0
finish

# SPDX-License-Identifier: Apache-2.0
# Empty rows are dropped and counted.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok corpus "$nmt" corpus --out c --pair "$folder/a.en" "$folder/a.de" --source en --target de --vocab 0
says counted '1 .*empty' err
refused "strict" 'a\.(en|de):2' "$nmt" corpus --out d --pair "$folder/a.en" "$folder/a.de" --source en --target de --vocab 0 --strict
gzip -c "$folder/a.en" >a.en.gz; gzip -c "$folder/a.de" >a.de.gz
ok gzip "$nmt" corpus --out e --pair a.en.gz a.de.gz --source en --target de --vocab 0
finish

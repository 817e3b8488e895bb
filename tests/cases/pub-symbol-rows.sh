# SPDX-License-Identifier: Apache-2.0
# Different symbols are different texts.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
for seed in 0 1 2 3 4 5 6 7 8 9; do
  ok "seed $seed" "$nmt" corpus --out corpus-$seed --tsv "$folder/text.tsv" --vocab 0 --seed $seed
done
finish

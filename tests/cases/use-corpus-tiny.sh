# SPDX-License-Identifier: Apache-2.0
# Thirty pairs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
pair=(--pair "$folder/tiny.en" "$folder/tiny.de" --source en --target de)
ok "the default vocabulary shrinks" "$nmt" corpus --out c "${pair[@]}"
says "and it is said" 'vocab|pieces' err
refused "300 pieces: the least is said" "[0-9]+ or more" "$nmt" corpus --out c3 "${pair[@]}" --vocab 300
ok "500" "$nmt" corpus --out c5 "${pair[@]}" --vocab 500
ok train "$nmt" train --corpus c5 --out run --width 64 --hidden 128 --heads 4 --max-length 40 --tokens 512 --steps 40 --threads 1
silent "no loss of nothing" 'validation loss 0\.000' err
ok report "$nmt" report --run run --out r.html
silent "nor in the report" 'best validation loss</[^>]*>[^<]*<[^>]*>0\.0000' r.html
finish

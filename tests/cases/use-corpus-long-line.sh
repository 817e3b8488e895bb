# SPDX-License-Identifier: Apache-2.0
# What is left out is counted.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok corpus "$nmt" corpus --out c --pair "$folder/a.en" "$folder/a.de" --source en --target de --vocab 1000
silent "no flag that is not ours" 'max_sentence_length' err
ok train "$nmt" train --corpus c --out run --width 64 --hidden 128 --heads 4 --max-length 40 --tokens 512 --steps 5 --threads 1
says "left-out pairs" 'longer than 40 tokens' err
finish

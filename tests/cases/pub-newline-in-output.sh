# SPDX-License-Identifier: Apache-2.0
# A row an output, whatever is in it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok generate "$generate" --model "$folder/model" --max-new-tokens 5 --threads 1 <"$folder/in.txt"
equal "a line an input" "$(wc -l <out)" 4
ok "n best" "$generate" --model "$folder/model" --max-new-tokens 5 --beam 2 --nbest 2 --threads 1 <"$folder/in.txt"
silent "each row has its number and score" '^([^0-9]|[0-9]+[^0-9	])' out
ok json "$generate" --model "$folder/model" --max-new-tokens 5 --threads 1 --json <"$folder/in.txt"
says "the break is in the text" '\\n' out
finish

# SPDX-License-Identifier: Apache-2.0
# Sentinels are where the tokenizer's file has them.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok generate "$generate" --model "$folder/model" --max-new-tokens 4 --threads 1 <"$folder/in.txt"
equal "a line an input" "$(wc -l <out)" 2
"$generate" --model "$folder/model" --max-new-tokens 4 --threads 1 --json <"$folder/in.txt" | tail -n 1 | grep -o '"score":[^,}]*' >text
echo 109 104 102 111 101 1 | "$generate" --model "$folder/model" --max-new-tokens 4 --threads 1 --json --ids | grep -o '"score":[^,}]*' >ids
equal "the ids of transformers" "$(cat text)" "$(cat ids)"
finish

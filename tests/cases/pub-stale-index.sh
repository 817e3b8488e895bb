# SPDX-License-Identifier: Apache-2.0
# Of two files that could be meant, the one that transformers reads.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok generate "$generate" --ids --model "$folder/model" --max-new-tokens 6 --threads 1 <"$folder/in.txt"
equal "the single file" "$(head -n 1 out)" "16 14 16 5 5 5"
mkdir model && cp "$folder"/model/* model && rm model/model-*
ok "without the old shards" "$generate" --ids --model model --max-new-tokens 6 --threads 1 <"$folder/in.txt"
equal "the single file again" "$(head -n 1 out)" "16 14 16 5 5 5"
finish

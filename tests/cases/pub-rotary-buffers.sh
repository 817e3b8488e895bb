# SPDX-License-Identifier: Apache-2.0
# Buffers that old writers saved are ignored.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok generate "$generate" --ids --model "$folder/model" --max-new-tokens 6 --threads 1 <"$folder/in.txt"
equal "as transformers" "$(head -n 1 out)" "16 14 16 5 5 5"
finish

# SPDX-License-Identifier: Apache-2.0
# A language that a user added has the id of the tokenizer's files.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
row() { echo "the red house" | "$generate" --model "$folder/model" --from eng_Latn --to "$1" --beam 3 --max-new-tokens 6 --threads 1 --json; }
near() { python3 -c 'import json,sys; o=json.loads(sys.argv[1])["outputs"][0]; sys.exit(not (o["text"] == sys.argv[2] and abs(o["score"] - float(sys.argv[3])) < 1e-4))' "$@" 2>/dev/null; }
if near "$(row xyz_Latn 2>err)" "small small small small small" -0.6738760; then pass xyz_Latn; else fail "xyz_Latn: $(row xyz_Latn 2>&1)"; fi
if near "$(row fra_Latn 2>err)" "ogegegege" -1.2128564; then pass fra_Latn; else fail "fra_Latn: $(row fra_Latn 2>&1)"; fi
finish

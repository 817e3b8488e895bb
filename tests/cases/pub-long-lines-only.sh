# SPDX-License-Identifier: Apache-2.0
# Text whose lines are documents trains a tokenizer, or says how many lines are left out.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
ok corpus "$nmt" corpus --out corpus --tsv "$folder/text.tsv" --vocab 300
silent "no words of the library below" 'trainer_interface|max_sentence_length' err
if [ -s corpus/spm.model ]; then pass tokenizer; else fail "no tokenizer"; fi
finish

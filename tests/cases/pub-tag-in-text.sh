# SPDX-License-Identifier: Apache-2.0
# A language tag in a text is text.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
train_toy
ok translate translate <"$folder/in.txt"
equal "a line an input" "$(wc -l <out)" 3
# The sentence around the tag is translated nearly as without it; six letters that the model has never seen cost some words.
words() { sed -n "$1p" out | tr ' ' '\n' | sort -u; }
for line in 2 3; do
  both=$(comm -12 <(words 1) <(words $line) | wc -l)
  if [ "$both" -ge 4 ]; then pass "line $line"; else fail "line $line: $(sed -n ${line}p out)"; fi
done
finish

# SPDX-License-Identifier: Apache-2.0
# White space of all kinds is cleaned as the training text was.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
train_toy
ok translate translate <"$folder/in.txt"
equal "seven lines" "$(wc -l <out)" 7
equal "one translation" "$(sort -u out | wc -l)" 1
finish

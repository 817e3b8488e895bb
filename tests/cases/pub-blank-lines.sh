# SPDX-License-Identifier: Apache-2.0
# Lines of white space are empty lines and keep their place.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
train_toy
ok translate translate <"$folder/in.txt"
equal "translate: five empty lines" "$(cat out)" "$(printf '\n\n\n\n')"
equal "translate: as many lines as there were" "$(wc -l <out)" 5
ok samples "$nmt" samples --model run --to xx --threads 1 <"$folder/in.txt"
silent "samples: nothing made up" 'ynet|eno' out
finish

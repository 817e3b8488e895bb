#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/program/corpus.sh SPARSEMOE-NMT SPARSEMOE-CORPUS -- the corpus tool as a program of its own does what the command
# `sparsemoe-nmt corpus` does: the same files, the same sentences, the same exit statuses.
own=$(realpath "${2:-.}")  # before lib.sh goes to a directory of its own
. "$(dirname "$0")/lib.sh"

text 200 2 >text.tsv
ok "the command" "$program" corpus --out command --tsv text.tsv --vocab-lines 1000
ok "the program" "$own" --out program --tsv text.tsv --vocab-lines 1000
check "both make the same corpus" diff -r command program

# both WHAT ARGUMENT...: status and sentence are the same, but for the program's name.
both() {
  local what=$1 status_command=0 status_program=0
  shift
  "$program" corpus "$@" >out 2>err || status_command=$?
  "$own" "$@" >own.out 2>own.err || status_program=$?
  equal "$what: status" $status_program $status_command
  equal "$what: sentence" "$(sed 's/^sparsemoe-corpus:/sparsemoe-nmt:/' own.err)" "$(cat err)"
}
both "a directory that exists" --out command --tsv text.tsv
both "no --out" --tsv text.tsv
both "no such file" --out new --tsv absent.tsv
both "no such option" --out new --tvs text.tsv
both "half a pair" --out new --pair text.tsv
both "options of the other source" --out new --tsv text.tsv --suites sid
check "nothing is left behind" test ! -e new
"$program" corpus --help | tail -n +3 >command.help
"$own" --help | grep -v -- ' --version ' | tail -n +3 >program.help
same "the same options" command.help program.help
finish

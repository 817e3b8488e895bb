#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/check_sources.sh -- data is read and written in one way: no header or program opens files by iostream or stdio, or
# takes lines by getline, whose errors look like the end of the input. What to use: read_file, LineReader, AtomicFile,
# FileSet of include/sparsemoe/io. And what files, options and the environment say reaches a terminal by say() and warn()
# only. Prints the lines that do otherwise. Exit status 0 or 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
wrong=0

find_lines() {  # find_lines WHAT REGEX PLACE...
  local what=$1 regex=$2 lines
  shift 2
  # A comment may name what code must not use. getline on a string that is in memory already has its own name.
  lines=$(grep -rnE --include='*.hpp' --include='*.cpp' -- "$regex" "$@" | grep -vE '^[^:]*:[0-9]+: *//')
  [ -z "$lines" ] && return
  echo "$what:"
  printf '%s\n' "$lines" | sed 's/^/  /'
  wrong=1
}

find_lines "files opened by iostream or stdio" '\b(i|o)?fstream\b|\bfopen\(|\bfreopen\(|std::cin\b|\bscanf\(' include examples tools
find_lines "lines of standard input" 'getline\((std::)?cin|\bgetc(har)?\(|\bfgets\(' include examples tools
find_lines "text of a file or option on standard error as it is" 'std::cerr|f(printf|puts)\([^;]*what\(\)|fputs\(.*stderr' examples tools
[ $wrong = 1 ] || echo "sources: one way to read, one way to write"
exit $wrong

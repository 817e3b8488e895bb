#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/check_headers.sh COMPILER [HEADER...] -- every public header compiles alone with COMPILER (g++, clang++, nvcc),
# and all of them together compile where common names are macros.
# A header whose optional package is not installed is skipped by name; CUDA headers are nvcc's alone.
# BY=folder: the headers of a folder together, and alone only where that fails. What one header lacks is the same for
# every compiler: CI finds it with g++, and asks the others for their warnings.
# Prints one line per failing header. Exit status 0 or 1.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
usage any "$@"
compiler=${1:?usage: tests/check_headers.sh COMPILER [HEADER...]}
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root/include" || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

flags=$("$root/tests/flags.sh" "$compiler")
export compiler work
case "$(basename "$compiler")" in
  # Alone: nvcc's device front end, which parses host code too and takes a third of the time of both passes. The file
  # of all headers below goes through both.
  nvcc*) export cuda=1 flags="$flags -ptx -o /dev/null -x cu --Werror all-warnings" ;;
  *) export cuda=0 flags="$flags -fsyntax-only -x c++ -Wall -Wextra -Wconversion -Werror" ;;
esac

if [ $# -gt 0 ]; then
  headers=()
  for header in "$@"; do
    header=$(realpath "$header" 2>/dev/null || realpath "$OLDPWD/$header") || exit 1
    headers+=("${header#"$root/include/"}")
  done
else
  mapfile -t headers < <(find sparsemoe -name '*.hpp' | sort)
fi

# compile SOURCE LOG: 0 good, 1 bad, 2 an optional package is missing (its file is the last line of LOG)
compile() {
  # shellcheck disable=SC2086
  "$compiler" $flags "$1" >"$2" 2>&1 && return 0
  local lost
  lost=$(sed -nE "s/.*fatal error: '?([^ ':]+)'?(: No such file or directory| file not found).*/\1/p" "$2" | head -1)
  case "$lost" in
    nlohmann/*|CLI/*|sentencepiece*|mpi.h|nccl.h|dnnl*|oneapi/*|lzma.h|zlib.h|utf8proc.h|rapidcheck*|doctest/*) echo "$lost" >>"$2"; return 2 ;;
  esac
  return 1
}

for_nvcc() { [ "$cuda" = 0 ] && [[ "$1" =~ cuda|nccl ]]; }

check_alone() {
  local header=$1 name=${1//\//_}
  if for_nvcc "$header"; then
    echo "skip $header: for nvcc" >"$work/$name.result"
    return
  fi
  printf '#include "%s"\n#include "%s"\n' "$header" "$header" >"$work/$name.src"
  compile "$work/$name.src" "$work/$name.log"
  case $? in
    0) echo "good $header" ;;
    2) echo "skip $header: no $(tail -1 "$work/$name.log")" ;;
    *) echo "FAIL $header: $(grep -m1 -iE 'error' "$work/$name.log" || head -1 "$work/$name.log")" ;;
  esac >"$work/$name.result"
  grep FAIL "$work/$name.result"
}

check_folder() {  # check_folder HEADER...
  local header name
  name=$(dirname "$1")
  name=${name//\//_}.folder
  for header in "$@"; do for_nvcc "$header" || printf '#include "%s"\n' "$header"; done >"$work/$name.src"
  if compile "$work/$name.src" "$work/$name.log"; then
    for header in "$@"; do
      if for_nvcc "$header"; then echo "skip $header: for nvcc"; else echo "good $header"; fi
    done >"$work/$name.result"
  else
    for header in "$@"; do check_alone "$header"; done
  fi
}
export -f compile for_nvcc check_alone check_folder
case ${BY:-header} in
  header) printf '%s\n' "${headers[@]}" | xargs -P "${JOBS:-2}" -I{} bash -c 'check_alone {}' ;;
  folder)
    folders=$(printf '%s\n' "${headers[@]}" | xargs -n1 dirname | sort -u)
    for folder in $folders; do
      printf '%s\n' "${headers[@]}" | grep -E "^$folder/[^/]*$" | tr '\n' ' '
      echo
    done | xargs -P "${JOBS:-2}" -I{} bash -c 'check_folder {}' ;;
  *) echo "tests/check_headers.sh: BY=$BY: give header or folder" >&2; exit 64 ;;
esac

# The traps. Headers of others come first: they are not ours to repair.
mapfile -t good < <(sed -n 's/^good //p' "$work"/*.result 2>/dev/null | sort)
if [ ${#good[@]} -gt 0 ]; then
  {
    (cat "${good[@]}" | sed -nE 's/^#include <([^>]+)>.*/\1/p' | sort -u) | while read -r other; do
      printf '#if __has_include(<%s>)\n#include <%s>\n#endif\n' "$other" "$other"
    done
    # <complex.h>, rpcndr.h, <termios.h> and <sys/sysmacros.h> of glibc define these.
    for name in I small B0 major minor; do echo "#define $name sparsemoe_must_not_use_the_name_$name = ="; done
    # windows.h only: not a platform of ours, and std::max everywhere reads better than (std::max). Opt in.
    if [ -n "${SPARSEMOE_TRAP_MINMAX:-}" ]; then
      for name in min max; do echo "#define $name(a, b) sparsemoe_must_not_use_the_name_$name = ="; done
    fi
    printf '#include "%s"\n' "${good[@]}"
  } >"$work/traps.src"
  flags=${flags/ -ptx / -cuda }
  if ! compile "$work/traps.src" "$work/traps.log"; then
    echo "FAIL under macro traps: $(grep -E "include/sparsemoe/[^ ]*[:(][0-9]+.*(error|expansion)|error" "$work/traps.log" | head -4)"
    echo "FAIL" >"$work/traps.result"
  fi
fi

failed=$(cat "$work"/*.result 2>/dev/null | grep -c '^FAIL')
sed -n 's/^skip /skipped: /p' "$work"/*.result 2>/dev/null
echo "headers with $compiler: ${#good[@]} good, $failed failed, $(cat "$work"/*.result | grep -c '^skip') skipped"
[ "$failed" = 0 ]

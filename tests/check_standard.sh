#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/check_standard.sh [COMPILER] -- with -std=c++17 every public header gives one error, that sparsemoe needs C++20, and
# nothing else. Headers that ask for CUDA or for a package that is not installed are passed over. Exit status 0 or 1.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/tests/usage.sh"
usage 1 "$@"
export compiler=${1:-g++}
flags=$("$root/tests/flags.sh" "$compiler") || exit 1
export flags=${flags/-std=c++20/-std=c++17}
cd "$root/include" || exit 1

check() {  # check HEADER: prints what is wrong with it
  local out errors
  # shellcheck disable=SC2086
  out=$(printf '#include "%s"\nint main() { return sparsemoe::nothing; }\n' "$1" |
    LC_ALL=C "$compiler" $flags -fsyntax-only -x c++ - 2>&1) && { echo "$1: compiles as C++17"; return; }
  errors=$(grep -E '(^|[ :])(fatal )?error:' <<<"$out")
  [ "$(wc -l <<<"$errors")" = 1 ] && grep -q '#error sparsemoe needs C++20' <<<"$errors" && return
  # A package of others that is missing is found before our first line.
  grep -m1 -qE 'fatal error:.*(No such file or directory|file not found)' <<<"$errors" &&
    ! grep -q 'sparsemoe/' <<<"${errors##*fatal error:}" && return
  echo "$1: $(head -3 <<<"$errors")"
}
export -f check
bad=$(find sparsemoe -name '*.hpp' | sort | xargs -P "${JOBS:-2}" -I{} bash -c 'check {}')
[ -z "$bad" ] && { echo "with -std=c++17 every header gives one #error"; exit 0; }
echo "$bad"
exit 1

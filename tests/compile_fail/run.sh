#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/compile_fail/run.sh COMPILER FILE -- FILE compiles as it stands; with -DSHOULD_FAIL it must not, and the
# compiler must print the text after each `// expect: ` line of the file. Without the first half, a test would also
# pass because of a typing error.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../usage.sh"
usage 2 "$@"
compiler=$1 file=$2
flags=$("$(dirname "${BASH_SOURCE[0]}")/../flags.sh" "$compiler")
out=$(mktemp)
trap 'rm -f "$out"' EXIT

if ! "$compiler" $flags -fsyntax-only "$file" >"$out" 2>&1; then
  echo "$file: does not compile even without SHOULD_FAIL"
  cat "$out"
  exit 1
fi
if "$compiler" $flags -DSHOULD_FAIL -fsyntax-only "$file" >"$out" 2>&1; then
  echo "$file: compiles with SHOULD_FAIL, but must not"
  exit 1
fi
grep -q '^// expect: ' "$file" || { echo "$file: has no '// expect: ' line"; exit 1; }
status=0
while IFS= read -r text; do
  grep -qF -- "$text" "$out" || { echo "$file: the message lacks: $text"; status=1; }
done < <(sed -n 's|^// expect: ||p' "$file")
[ $status = 0 ] || cat "$out"
exit $status

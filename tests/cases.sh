#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/cases.sh [--build DIR] CASES [NAME...] -- runs every case of a directory of cases, or those named: what users hit,
# a folder each with what was done and what is expected. A case is checked by the first of these that is there:
#   tests/cases/NAME.sh of this project: for cases whose expectation is a sentence
#   CASES/NAME/run.sh: its exit status is the number of failures; it finds the programs by BIN
#   CASES/NAME/expected.json: outputs of a model; compared by tests/oracles/compare.py
# A line a case; the last line is the sum. Needs python3 and the built programs (default build/ci).
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/ci
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=${2:?--build needs a directory}; shift 2 ;;
    -h|--help) sed -n '2,/^[^#]/{/^# SPDX-/d; s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) echo "unknown option $1 (--help lists them)" >&2; exit 64 ;;
    *) break ;;
  esac
done
[ $# -ge 1 ] && [ -d "$1" ] || { echo "give a directory of cases (--help says more)" >&2; exit 64; }
cases=$(cd "$1" && pwd)
build=$(cd "$build" && pwd) || exit 64
shift
export SM=$root BIN=$build OMP_WAIT_POLICY=passive LC_ALL=C.UTF-8
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0
for folder in "$cases"/*/; do
  name=$(basename "$folder")
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  if [ -f "$root/tests/cases/$name.sh" ]; then
    timeout 600 bash "$root/tests/cases/$name.sh" "$folder" >"$log" 2>&1
  elif [ -f "$folder/run.sh" ]; then
    timeout 600 bash "$folder/run.sh" >"$log" 2>&1
  elif [ -f "$folder/expected.json" ]; then
    timeout 600 python3 "$root/tests/oracles/compare.py" "$build" "$folder" >"$log" 2>&1
  else
    echo "skipped $name: no check"
    skipped=$((skipped + 1))
    continue
  fi
  if [ $? = 0 ]; then
    echo "passed  $name"
    passed=$((passed + 1))
  else
    echo "FAILED  $name"
    grep -v -E '^(PASS|ok  )' "$log" | tail -n 8 | cut -c1-240 | sed 's/^/        /'
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]

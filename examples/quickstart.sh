#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# examples/quickstart.sh [--minutes N] [--out DIR] [--help]
#
# From a fresh clone to a translating mixture-of-experts model: installs the packages, builds sparsemoe-nmt, then
# corpus -> train -> evaluate -> translate five sentences -> report.
#   --minutes N   training time (default 10)
#   --out DIR     where everything goes (default out/quickstart in the clone)
# A second run skips what is finished and resumes what is not; more minutes train the same model further.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
minutes=10
out=$root/out/quickstart
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
    --out) out=$(realpath -m "${2:?--out needs a directory}"); shift 2 ;;
    -h|--help) sed -n '2,/^[^#]/{/^# SPDX-/d; s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "unknown argument $1; see --help" >&2; exit 2 ;;
  esac
done
[[ $minutes =~ ^[0-9]+([.][0-9]+)?$ ]] || { echo "--minutes needs a number, not '$minutes'" >&2; exit 2; }
cd "$root"
mkdir -p "$out"

step() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

step "packages"
tests/install_packages.sh

step "build"
build=$root/build/quickstart
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPARSEMOE_CUDA=OFF -DSPARSEMOE_BUILD_TESTS=OFF \
  -DSPARSEMOE_BUILD_BENCHMARKS=OFF >"$out/build.log" 2>&1 &&
  cmake --build "$build" --target sparsemoe-nmt >>"$out/build.log" 2>&1 ||
  { tail -30 "$out/build.log"; echo "the build failed; all of it: $out/build.log" >&2; exit 1; }
nmt=$build/sparsemoe-nmt

step "corpus"
if [ -e "$out/corpus.done" ]; then
  echo "finished before: $out/corpus"
else
  "$nmt" corpus --out "$out/corpus" --languages da,it,fr,de,es
  touch "$out/corpus.done"
fi

step "train for $minutes minutes"
if [ "$(cat "$out/train.done" 2>/dev/null)" = "$minutes" ]; then
  echo "finished before: $out/run"
else
  resume=""
  [ -e "$out/run/settings.json" ] && resume=--resume
  "$nmt" train --corpus "$out/corpus" --out "$out/run" --config examples/translation/quickstart.json \
    --minutes "$minutes" $resume
  echo "$minutes" >"$out/train.done"
  rm -f "$out/run/scores.json"
fi

step "evaluate"
if [ -s "$out/run/scores.json" ]; then
  echo "finished before: $out/run/scores.json"
else
  "$nmt" evaluate --model "$out/run" --corpus "$out/corpus" --split dev --beam 4 --scores "$out/run/scores.json"
fi

step "translate five sentences into several languages"
printf '%s\n' \
  "library for reading and writing image files" \
  "small text editor for the terminal" \
  "tool to convert audio files" \
  "documentation for the web server" \
  "graphical network monitor" |
  "$nmt" samples --model "$out/run" --to da,it,fr,de,es --out "$out/run/samples.json"

step "report"
"$nmt" report --run "$out/run" --out "$out/report.html"
echo "open $out/report.html in a browser; the model is in $out/run"

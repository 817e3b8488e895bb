#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/sanitize.sh -- selected tests under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer; a
# short run of the fuzz targets.
# Selected, because a sanitizer build of everything takes longer than the rest together. The last line is the sum.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
. tests/usage.sh
usage 0 "$@"
. tests/stages.sh

# Readers of untrusted bytes and writers of files. Whole models and the kernels compile for minutes when instrumented:
# they are left to `cmake --preset asan` and `cmake --preset tsan`.
asan=(safetensors files options report)
# Ranks as threads.
tsan=(comm)

sanitize() {  # sanitize PRESET TEST...
  local preset=$1 build=$root/build/$1 targets=() name
  shift
  for name in "$@"; do
    if [ -f "tests/test_$name.cpp" ]; then targets+=("test_$name"); else echo "$preset: no tests/test_$name.cpp"; fi
  done
  [ ${#targets[@]} -gt 0 ] || { echo "skipped: nothing selected for $preset exists"; skipped=$((skipped + 1)); return; }
  stage "configure $preset" cmake --preset "$preset" || { failed=$((failed + 1)); return; }
  count "build $preset" cmake --build "$build" -j "$(parallel_jobs)" --target "${targets[@]}" -- -k 0
  run_ctest "$build" -R "^($(IFS='|'; echo "${targets[*]}"))\$"
}

export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1
sanitize asan "${asan[@]}"
if command -v clang++-16 >/dev/null; then
  # Archer tells ThreadSanitizer about the synchronisation of clang's OpenMP runtime.
  archer=$(clang++-16 -print-file-name=libarcher.so)
  [ -f "$archer" ] && export OMP_TOOL_LIBRARIES=$archer
  export TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1
  sanitize tsan "${tsan[@]}"
else
  echo "skipped: ThreadSanitizer needs clang++-16 (tests/install_packages.sh --full)"
  skipped=$((skipped + 1))
fi
count "fuzz targets, 10000 inputs each" tests/fuzz/run.sh 10000
finish

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/run.sh -- from a fresh clone to one line: installs what is missing, builds everything on the CPU and runs every
# test: ctest, each command of the documents, each header alone, consumer projects. Works from any directory. The last
# line is the sum. Takes no arguments.
# SPARSEMOE_WERROR=OFF: warnings of a compiler we have not seen do not stop the build.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
. tests/usage.sh
usage 0 "$@"
. tests/stages.sh
build=$root/build/ci

stage "packages" tests/install_packages.sh || { failed=1; finish; exit 1; }
stage "configure" cmake --preset ci -DSPARSEMOE_WERROR="${SPARSEMOE_WERROR:-ON}" || { failed=1; finish; exit 1; }
count "build with $(parallel_jobs) jobs" cmake --build "$build" -j "$(parallel_jobs)" -- -k 0
run_ctest "$build"
count "documents" tests/check_docs.sh "$build"
count "one #error with -std=c++17" tests/check_standard.sh g++
count "headers alone, g++" tests/check_headers.sh g++
if command -v clang++-16 >/dev/null; then
  count "headers by folder, clang++-16" env BY=folder tests/check_headers.sh clang++-16
else
  echo "skipped: no clang++-16 (tests/install_packages.sh --full)"
  skipped=$((skipped + 1))
fi
count "one way to read and to write" tests/check_sources.sh
count "the house" tests/check_house.sh
count "the house: planted faults are found" tests/house_faults.sh
count "consumer projects" tests/consumer/run.sh
finish

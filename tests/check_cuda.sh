#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/check_cuda.sh -- with nvcc, GPU or not: every header compiles as .cu (by folder), every tests/cuda_*.cu compiles, links and
# runs. Without a device these programs say so and are counted as skipped. The last line is the sum.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
. tests/usage.sh
usage 0 "$@"
. tests/stages.sh
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
if ! command -v nvcc >/dev/null; then
  echo "skipped: no nvcc"
  skipped=1
  finish
  exit
fi

build=$root/build/cuda
count "headers by folder, nvcc" env BY=folder tests/check_headers.sh nvcc
stage "configure" cmake --preset cuda -DSPARSEMOE_BUILD_EXAMPLES=OFF -DSPARSEMOE_BUILD_BENCHMARKS=OFF \
  || { failed=1; finish; exit 1; }
count "build" cmake --build "$build" -j "$(parallel_jobs)" --target cuda_tests -- -k 0
run_ctest "$build" -L cuda
finish

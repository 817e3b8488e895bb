#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/benchmark_smoke.sh BENCHMARK -- runs the first case of a benchmark once: that it starts, and has cases.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
usage 1 "$@"
benchmark=${1:?usage: tests/benchmark_smoke.sh BENCHMARK}
cases=$("$benchmark" --benchmark_list_tests) || exit 1
first=${cases%%$'\n'*}
[ -n "$first" ] || { echo "$benchmark: no case"; exit 1; }
first=$(sed 's/[][\.*^$+?(){}|]/\\&/g' <<<"$first")
OMP_NUM_THREADS=1 "$benchmark" --benchmark_filter="^$first\$" --benchmark_min_time=0.001 || exit 1

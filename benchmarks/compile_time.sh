#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a translation unit costs to compile: seconds of processor time and the peak memory of the largest process, as CSV.
#   benchmarks/compile_time.sh [source...]   default: every example, a file that includes every header, a CUDA file
#   CXX=g++  CXXFLAGS="-O2"  REPEAT=1 (the least of so many)
# Needs /usr/bin/time (Debian: time).
set -eu
. "$(dirname "$0")/../tests/usage.sh"
usage any "$@"
cd "$(dirname "$0")/.."
cxx=${CXX:-g++} flags=${CXXFLAGS:--O2} repeat=${REPEAT:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
common="-std=c++20 -Iinclude -I. -Iexamples/translation -Iexamples/generation $(pkg-config --cflags eigen3 sentencepiece 2>/dev/null || true)"
thrust=
for d in /usr/local/cuda/include/cccl /usr/local/cuda/include /usr/include; do
  if [ -d "$d/thrust" ]; then thrust=$d && break; fi
done
host="$common -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP -isystem $thrust"
host="$host -DSPARSEMOE_HAS_LZMA=1 -DSPARSEMOE_HAS_SENTENCEPIECE=1 -DSPARSEMOE_HAS_UTF8PROC=1"

# measure LABEL COMMAND...
measure() {
  local label=$1 best=
  shift
  for _ in $(seq "$repeat"); do
    if ! /usr/bin/time -o "$work/time" -f '%U %S %M' "$@" >"$work/log" 2>&1; then
      echo "$label,failed,"
      sed 's/^/  /' "$work/log" | head -3 >&2
      return 0
    fi
    read -r user system memory <"$work/time"
    seconds=$(awk "BEGIN { print $user + $system }")
    if [ -z "$best" ] || awk "BEGIN { exit !($seconds < $best) }"; then best=$seconds peak=$((memory / 1024)); fi
  done
  echo "$label,$best,$peak"
}

echo "translation unit,seconds,MiB"
if [ $# -gt 0 ]; then
  for source in "$@"; do measure "$(basename "$cxx") $flags $source" $cxx $host $flags -c "$source" -o "$work/out.o"; done
  exit 0
fi
# Every core header, nothing used; headers of optional components are not in it.
for h in $(cd include && ls sparsemoe/*.hpp sparsemoe/{kernels,nn,model,routers,optim,infer,train,text,report}/*.hpp); do
  echo "#include \"$h\""
done >"$work/umbrella.cpp"
echo '#include "sparsemoe/backend/cpu.hpp"' >>"$work/umbrella.cpp"
measure "$(basename "$cxx") $flags every core header, nothing used" $cxx $host $flags -c "$work/umbrella.cpp" -o "$work/out.o"
for source in examples/*.cpp examples/pretraining/*.cpp examples/generation/*.cpp examples/translation/*.cpp examples/translation/commands/*.cpp tools/corpus/*.cpp; do
  measure "$(basename "$cxx") $flags $source" $cxx $host $flags -c "$source" -o "$work/out.o"
done
measure "$(basename "$cxx") -O3 -march=native examples/hello_moe.cpp" $cxx $host -O3 -march=native -c examples/hello_moe.cpp -o "$work/out.o"
measure "$(basename "$cxx") -O3 -march=native examples/translation/translator_bf16.cpp" $cxx $host -O3 -march=native -c examples/translation/translator_bf16.cpp -o "$work/out.o"
if command -v nvcc >/dev/null; then
  cuda="$common -O3 -arch=sm_90 --expt-relaxed-constexpr -Xcompiler=-fopenmp -DEIGEN_NO_CUDA -DSPARSEMOE_HAS_CUDA=1"
  cp "$work/umbrella.cpp" "$work/umbrella.cu"
  echo '#include "sparsemoe/backend/cuda.hpp"' >>"$work/umbrella.cu"
  measure "nvcc -O3 every core header, nothing used" nvcc $cuda -c "$work/umbrella.cu" -o "$work/out.o"
  for source in examples/*.cu tests/cuda_*.cu; do
    [ -e "$source" ] || continue
    measure "nvcc -O3 $source" nvcc $cuda -c "$source" -o "$work/out.o"
  done
fi

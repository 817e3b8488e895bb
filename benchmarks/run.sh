#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the benchmarks and, where a python3 with torch is found, the same work in PyTorch; then rewrites its
# sections of RESULTS.md.  benchmarks/run.sh [moe-layer] [expert-stream] [transformer] [compile-time]
# (no argument: all)
#   THREADS=2     bound threads, of ours and of the peers
#   FILTER=regex  only these cases of moe_layer (default: every case)
#   PEERS=off     without PyTorch     PYTHON=...  the interpreter that has torch (default: the first python3 that does)
# Debian: libbenchmark-dev, libdnnl-dev for the oneDNN rows; python3-torch and libopenblas0-openmp for the peers.
set -eu
. "$(dirname "$0")/../tests/usage.sh"
usage any "$@"
cd "$(dirname "$0")/.."
threads=${THREADS:-2} python=${PYTHON:-}
for p in python3 /usr/bin/python3; do
  if [ -z "$python" ] && "$p" -c 'import torch' 2>/dev/null; then python=$p; fi
done
torch=${python:+yes} python=${python:-python3}
[ $# -gt 0 ] || set -- moe-layer expert-stream transformer compile-time
out=build/results
mkdir -p "$out"
export OMP_NUM_THREADS=$threads OMP_PROC_BIND=true OMP_PLACES=cores
load=$(cut -d' ' -f1 /proc/loadavg)

build() {
  cmake --preset release >/dev/null
  for target in "$@"; do
    cmake --build --preset release --target "$target" >"$out/build.log" 2>&1 ||
      { rm -f "build/release/$target" && echo "run.sh: $target was not built, see $out/build.log"; }
  done
}
# bench NAME [arguments]: one program's results as JSON
bench() {
  local name=$1
  shift
  rm -f "$out/$name.json"
  [ -x "build/release/$name" ] || return 0
  "build/release/$name" "$@" --benchmark_out="$out/$name.json" --benchmark_out_format=json
}
# peer NAME: fp32 and bf16, with a malloc that keeps freed memory; by default PyTorch faults every buffer in again.
peer() {
  rm -f "$out/peer_$1.csv"
  if [ "${PEERS:-on}" = off ] || [ -z "$torch" ]; then
    echo "run.sh: peers are left out: PEERS=off, or no python3 with torch"
    return 0
  fi
  local blas
  blas=$(dpkg -L libopenblas0-openmp 2>/dev/null | grep 'libopenblas.so.0$' || true)
  for precision in "" --bf16; do
    if [ -z "$precision$blas" ]; then  # the reference BLAS is no peer: a few per cent of the machine
      echo "run.sh: the peer in fp32 is left out: install libopenblas0-openmp"
      continue
    fi
    MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 \
      LD_LIBRARY_PATH=${blas:+$(dirname "$blas")} "$python" "benchmarks/peers/$1.py" --threads "$threads" $precision |
      tee -a "$out/peer_$1.csv"
  done
}
# write SECTION
write() { "$python" benchmarks/write_results.py "$1" "$out" "$threads" "$load"; }

for section in "$@"; do
  case $section in
    moe-layer)
      build moe_layer moe_layer_onednn
      bench moe_layer ${FILTER:+--benchmark_filter="$FILTER"}
      bench moe_layer_onednn ${FILTER:+--benchmark_filter="$FILTER"}
      peer moe_layer
      write moe-layer
      ;;
    expert-stream)
      build expert_stream
      bench expert_stream
      write expert-stream
      ;;
    transformer)
      build transformer
      bench transformer
      peer transformer
      write transformer
      ;;
    compile-time)
      benchmarks/compile_time.sh | tee "$out/compile_time.csv"
      write compile-time
      ;;
    *)
      echo "run.sh: there is no section '$section'; choose from moe-layer, expert-stream, transformer, compile-time" >&2
      exit 2
      ;;
  esac
done

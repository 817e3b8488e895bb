#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/flags.sh COMPILER -- prints the flags a plain `COMPILER -I include` needs here, for scripts that bypass CMake.
# SPARSEMOE_THRUST=system takes the distribution's Thrust even where a CUDA toolkit brings a newer one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
usage 1 "$@"
compiler=${1:-g++}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

eigen=$(pkg-config --variable=includedir eigen3 2>/dev/null || true)
eigen=${eigen:+$eigen/eigen3}
[ -d "${eigen:-/nonexistent}/Eigen" ] || eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null | sed 's/^-I//; s/ .*//')
[ -d "${eigen:-/nonexistent}/Eigen" ] || eigen=/usr/include/eigen3

flags="-std=c++20 -I$root/include -isystem $eigen"
case "$(basename "$compiler")" in
  nvcc*)
    flags="$flags -DEIGEN_NO_CUDA --Werror all-warnings -Xcompiler=-fopenmp -arch=${SPARSEMOE_CUDA_ARCH:-sm_90}" ;;
  *)
    cuda=${CUDA_HOME:-/usr/local/cuda}/include
    if [ "${SPARSEMOE_THRUST:-toolkit}" = toolkit ]; then
      if [ -f "$cuda/cccl/thrust/version.h" ]; then flags="$flags -isystem $cuda/cccl"
      elif [ -f "$cuda/thrust/version.h" ]; then flags="$flags -isystem $cuda"; fi
    fi
    flags="$flags -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP" ;;
esac
echo "$flags"

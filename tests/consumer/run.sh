#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/consumer/run.sh -- other people's projects use the library: installed package, components, add_subdirectory,
# FetchContent and a plain include path, each with what this machine has and with CUDA hidden.
# Prints one line per case; exit status 0 or 1.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../usage.sh"
usage 0 "$@"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 passed=0

# A PATH on which no nvcc is found.
hidden=""
IFS=: read -ra places <<<"$PATH"
for place in "${places[@]}"; do [ -x "$place/nvcc" ] || hidden="$hidden${hidden:+:}$place"; done

check() {  # check NAME COMMAND...: COMMAND passes
  local name=$1
  shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
    echo "good consumer $name"
  else
    failed=$((failed + 1))
    echo "FAIL consumer $name"
    tail -20 "$work/log"
  fi
}

build() {  # build DIRECTORY PROJECT CMAKE-ARGUMENT...: configure, build, run
  local dir=$work/$1 project=$2
  shift 2
  cmake -G Ninja -S "$here/$project" -B "$dir" -DCMAKE_BUILD_TYPE=Debug "$@" && cmake --build "$dir" && "$dir/consumer"
}

must_fail_with() {  # must_fail_with TEXT COMMAND...
  local text=$1
  shift
  if "$@" >"$work/inner" 2>&1; then
    echo "expected a failure"
    return 1
  fi
  tr -s '\n ' ' ' <"$work/inner" | grep -qF -- "$text" || { cat "$work/inner"; return 1; }
}

prefix=$work/prefix
install_package() {
  cmake -G Ninja -S "$root" -B "$work/package" -DSPARSEMOE_BUILD_TESTS=OFF -DSPARSEMOE_BUILD_EXAMPLES=OFF \
    -DSPARSEMOE_BUILD_BENCHMARKS=OFF "$@" && cmake --install "$work/package" --prefix "$prefix"
}
licence_is_installed() { [ -s "$prefix/share/doc/sparsemoe/LICENSE" ] && [ -s "$prefix/share/doc/sparsemoe/NOTICE" ]; }

for mode in as_is no_cuda; do
  arguments=(-DCMAKE_PREFIX_PATH="$prefix")
  if [ $mode = no_cuda ]; then
    export PATH=$hidden
    arguments+=(-DSPARSEMOE_CUDA=OFF -DCMAKE_CUDA_COMPILER=NOTFOUND)
  fi
  rm -rf "$work/package" "$prefix"
  check "$mode install" install_package "${arguments[@]}"
  check "$mode licence" licence_is_installed
  check "$mode find_package" build $mode.find find_package "${arguments[@]}"
  check "$mode add_subdirectory" build $mode.sub add_subdirectory "${arguments[@]}" -DSPARSEMOE_DIR="$root"
  check "$mode FetchContent" build $mode.fetch add_subdirectory "${arguments[@]}" -DSPARSEMOE_DIR="$root" -DFETCH=ON
  components=()
  [ -e /usr/include/dnnl.hpp ] && components+=(onednn)
  [ -e /usr/include/nlohmann/json.hpp ] && components+=(io)
  [ -e /usr/include/sentencepiece_processor.h ] && components+=(sentencepiece)
  [ $mode = as_is ] && command -v nvcc >/dev/null && components+=(cuda)
  list=$(IFS=';'; echo "${components[*]}")
  [ -z "$list" ] || check "$mode components $list" build $mode.components components "${arguments[@]}" \
    "-DCOMPONENTS=$list"
  if [ $mode = as_is ] && command -v nvcc >/dev/null; then
    check "$mode main.cpp compiled by nvcc" build $mode.cuda cuda "${arguments[@]}" -DCMAKE_CUDA_ARCHITECTURES=90
  fi
  check "$mode other version is refused" must_fail_with "considered but not accepted" \
    cmake -S "$here/find_package" -B "$work/$mode.version" "${arguments[@]}" -DVERSION=99.0
  check "$mode unknown component is refused" must_fail_with "component quantum needs" \
    cmake -S "$here/components" -B "$work/$mode.unknown" "${arguments[@]}" -DCOMPONENTS=quantum
done

plain() { make -s -C "$here/plain_include" -B consumer SPARSEMOE="$root" "$@" && "$here/plain_include/consumer"; }
check "plain include" plain
rm -f "$here/plain_include/consumer"

echo "consumers: $passed passed, $failed failed"
[ $failed = 0 ]

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/fuzz/run.sh [RUNS] [TARGET...] -- builds the libFuzzer targets with AddressSanitizer and
# UndefinedBehaviorSanitizer, then runs each on its committed corpus and RUNS inputs (default 3000) made from it.
# New inputs are not kept; a failing one is left in build/fuzz. Status 77: there is no clang++-16.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../usage.sh"
usage any "$@"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
runs=${1:-3000}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(safetensors index json hf_config tokenizer corpus_text request report)
command -v clang++-16 >/dev/null || { echo "skipped: no clang++-16 (tests/install_packages.sh --full)"; exit 77; }
build=$root/build/fuzz
mkdir -p "$build"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
corpus() { for unit in "$@"; do echo "$root/tools/corpus/$unit.cpp"; done; }
options() {  # options TARGET: what it is compiled and linked with beside the library
  case $1 in
    tokenizer) echo -lsentencepiece -lutf8proc ;;
    corpus_text) corpus import clean text_file languages; echo -DSPARSEMOE_HAS_LZMA=1 -llzma -lz -lutf8proc ;;
    request) corpus clean languages; echo -lutf8proc ;;
  esac
}
compile() {
  # shellcheck disable=SC2046
  clang++-16 $("$root/tests/flags.sh" clang++-16) -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    -I"$root/include" -I"$root" "$root/tests/fuzz/$1.cpp" -o "$build/$1" $(options "$1")
}
running=0
for target in "${targets[@]}"; do
  rm -f "$build/$target"
  compile "$target" &
  running=$((running + 1))
  [ $running -lt "$(nproc)" ] || { wait -n || true; running=$((running - 1)); }
done
wait
for target in "${targets[@]}"; do
  [ -x "$build/$target" ] || { echo "fuzz $target: does not compile"; exit 1; }
  rm -f "$work"/*
  "$build/$target" -runs="$runs" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -seed=1 -verbosity=1 -print_final_stats=1 \
    -close_fd_mask=3 -artifact_prefix="$build/$target-" "$work" "$root/tests/fuzz/corpus/$target" \
    2>"$build/$target.log" || {
    for input in "$build/$target"-*; do  # once more, with what was closed: the report of the sanitizer
      [ ! -f "$input" ] || "$build/$target" "$input" >>"$build/$target.log" 2>&1 || true
    done
    tail -n 60 "$build/$target.log"
    echo "fuzz $target: FAILED"
    exit 1
  }
  echo "fuzz $target: $(sed -n 's/.*number_of_executed_units: *//p' "$build/$target.log") executions, no failure," \
    "$(grep -o 'cov: [0-9]*' "$build/$target.log" | tail -1)"
done

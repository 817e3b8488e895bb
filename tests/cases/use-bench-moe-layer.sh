# SPDX-License-Identifier: Apache-2.0
# The benchmarks compile.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
if [ -x "$BIN/moe_layer" ] || grep -q "moe_layer.*left out" "$BIN/CMakeCache.txt"; then pass built; else cmake --build "$BIN" --target moe_layer >log 2>&1 && pass built || fail "$(tail -n 2 log)"; fi
finish

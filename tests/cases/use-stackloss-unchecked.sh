# SPDX-License-Identifier: Apache-2.0
# A wrong loss fails the check.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
g++ -std=c++20 -O0 -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP "-I$SM/include" "$folder/stackloss.cpp" -o check || fail "it does not compile"
if ./check >out 2>&1; then pass "found"; else fail "$(tail -n 2 out)"; fi
finish

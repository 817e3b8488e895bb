# SPDX-License-Identifier: Apache-2.0
# An expert that does not exist is an error.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
g++ -std=c++20 -O0 -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP "-I$SM/include" "$folder/far.cpp" -o far || fail "it does not compile"
if ./far >out 2>&1; then fail "no error: $(cat out)"; else says "the expert is named" 'expert 4 of 4' out; fi
finish

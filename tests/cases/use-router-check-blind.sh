# SPDX-License-Identifier: Apache-2.0
# check_router says in one sentence what a router lacks.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
flags=(-std=c++20 -fsyntax-only -fopenmp -DTHRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_CPP "-I$SM/include")
if g++ "${flags[@]}" "$folder/blind.cpp" 2>err; then fail "it compiles"; else pass "it does not compile"; fi
says "weigh()" 'weigh' err
says "choose() is a template" 'template' err
says "StackLoss" 'StackLoss' err
finish

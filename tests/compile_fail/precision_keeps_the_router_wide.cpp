// SPDX-License-Identifier: Apache-2.0
// The gate is in fp32 whatever the precision: in bf16 near-equal experts would swap places.
// expect: precision: make router float or wider; selective precision keeps the router in fp32
#include "sparsemoe/concepts.hpp"

using namespace sparsemoe;

struct Mine : Bf16 {
#ifdef SHOULD_FAIL
  using router = bf16;
#endif
};
static_assert(check_precision<Mine>());

// SPDX-License-Identifier: Apache-2.0
// A backend without one of the verbs is told which, with its arguments.
// expect: backend: add  template <...> static void grouped_gemm_transposed(
#include "sparsemoe/backend/cpu.hpp"

struct Mine : sparsemoe::Cpu {
#ifdef SHOULD_FAIL
  static void grouped_gemm_transposed();
#endif
};
static_assert(sparsemoe::check_backend<Mine>());

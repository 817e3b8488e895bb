// SPDX-License-Identifier: Apache-2.0
// backend/gemm/onednn.hpp -- GEMM by oneDNN's dnnl_sgemm, for one thread: the opt-in fast path for float.
// Everything that is not float goes to the native provider. Needs libdnnl; link sparsemoe::onednn.
// Read next: backend/cpu.hpp.
#pragma once

#include <dnnl.h>

#include "sparsemoe/backend/gemm/native.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct OneDnnGemm {
  static constexpr const char* name = "onednn";
  static constexpr bool row_invariant = false;

  template <class TA, class TB, class TC>
  static void run(const Product<TA, TB, TC>& q, Scratch& scratch) {
    NativeGemm::run(q, scratch);
  }
  /// Throws Error if the library refuses the product.
  static void run(const Product<float, float, float>& q, Scratch& scratch) {
    if (q.m() == 0 || q.n() == 0) return;
    if (q.k() == 0) return NativeGemm::run(q, scratch);  // the library does not write c then
    const auto status = dnnl_sgemm(q.op_a == Op::none ? 'N' : 'T', q.op_b == Op::none ? 'N' : 'T', q.m(), q.n(), q.k(),
                                   static_cast<float>(q.alpha), q.a.data, q.a.stride, q.b.data, q.b.stride,
                                   q.accumulate ? 1.0f : 0.0f, q.c.data, q.c.stride);
    require(status == dnnl_success, "oneDNN refused a product of ", q.m(), " x ", q.n(), " x ", q.k(), " (status ",
            static_cast<int>(status), ")");
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

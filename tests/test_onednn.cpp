// SPDX-License-Identifier: Apache-2.0
// The oneDNN provider against naive loops in double. A program of its own: it is left out where the library is missing.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/backend/gemm/onednn.hpp"
#include "tests/backend_body.hpp"

namespace sm = sparsemoe;

namespace {
template <class T, class TC>
void provider() {
  sm::Scratch scratch;
  backend_body::products<sm::CpuSequential, T, TC>(
      [&](auto&, sm::Op op_a, sm::Op op_b, double alpha, auto a, auto b, bool accumulate, auto c) {
        sm::OneDnnGemm::run(sm::Product<T, T, TC>{op_a, op_b, alpha, a, b, accumulate, c}, scratch);
      });
}
}  // namespace

TEST_CASE("oneDNN products equal naive loops") {
  provider<float, float>();
  provider<double, double>();      // by the native provider
  provider<sm::bf16, sm::bf16>();  // by the native provider
}
TEST_CASE("a backend on oneDNN equals naive loops") {
  using WithOneDnn = sm::CpuBackend<sm::OpenMp, sm::OneDnnGemm>;
  backend_body::gemm_with_epilogue<WithOneDnn, float, float>();
  backend_body::grouped<WithOneDnn, float>();
}

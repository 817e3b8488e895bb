// SPDX-License-Identifier: Apache-2.0
// moe_layer_onednn.cpp -- the sparse layer against its own products, with oneDNN's sgemm. See moe_layer.cpp.
#include <benchmark/benchmark.h>  // CMake reads the needed packages from here

#include "moe_layer_body.hpp"
#include "sparsemoe/backend/gemm/onednn.hpp"

int main(int argc, char** argv) {
  using namespace benchmarks;
  add_layers<Switch, Fp32, OneDnnGemm>("switch-1.25", 1.25);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}

// SPDX-License-Identifier: Apache-2.0
// moe_layer.cpp -- the sparse layer against its own products, with the providers that are always there.
//   OMP_NUM_THREADS=2 OMP_PROC_BIND=true build/release/moe_layer --benchmark_filter=fp32/native/switch-1.25
// moe_layer_onednn.cpp is the same with oneDNN; run.sh runs both and the peers.
#include <benchmark/benchmark.h>  // CMake reads the needed packages from here

#include "moe_layer_body.hpp"
#include "sparsemoe/backend/gemm/eigen.hpp"

int main(int argc, char** argv) {
  using namespace benchmarks;
  add_routers<Fp32, NativeGemm>();
  add_routers<Bf16, NativeGemm>();
  add_layers<Switch, Fp32, EigenGemm>("switch-1.25", 1.25);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}

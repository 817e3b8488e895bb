// SPDX-License-Identifier: Apache-2.0
// The CUDA backend, by the same bodies as the CPU's: functors, products and verbs against naive loops in double.
// Without a device the program checks that the library says so in one sentence, prints one line, and exits with 77.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>

#include "sparsemoe/backend/cuda.hpp"
#include "tests/backend_body.hpp"

namespace sm = sparsemoe;
using namespace backend_body;

TEST_CASE("the verbs move, count, scan and reduce") { verbs<sm::Cuda>(); }
TEST_CASE("functors equal naive loops in double") { all_functors<sm::Cuda, sm::Fp64>(); }
TEST_CASE("functors equal naive loops in float") { all_functors<sm::Cuda, sm::Fp32>(); }
TEST_CASE("functors equal naive loops in bf16") { all_functors<sm::Cuda, sm::Bf16>(); }
TEST_CASE("functors equal naive loops in fp16") { all_functors<sm::Cuda, sm::Fp16>(); }
TEST_CASE("products equal naive loops: plain, with epilogue, grouped, batched") { all_products<sm::Cuda>(); }

namespace {
template <class T>
std::vector<T> one_product(sm::Cuda::Context& ctx) {
  const index_t m = 1000, n = 512, k = 2048;
  Array<sm::Cuda, T> a(ctx, values<T>(m * k, 81)), b(ctx, values<T>(k * n, 82)), c(ctx, m * n);
  sm::Cuda::gemm(ctx, sm::Op::none, sm::Op::none, 1, a.matrix(m, k).as_const(), b.matrix(k, n).as_const(), false,
                 c.matrix(m, n));
  return c.read();
}
}  // namespace
TEST_CASE("cuBLASLt has a kernel for aligned products in every type, and gives the same bits every time") {
  sm::Cuda::Context ctx, other;
  CHECK(same_bits(one_product<float>(ctx), one_product<float>(ctx)));
  CHECK(same_bits(one_product<float>(ctx), one_product<float>(other)));
  CHECK(same_bits(one_product<double>(ctx), one_product<double>(other)));
  CHECK(same_bits(one_product<sm::bf16>(ctx), one_product<sm::bf16>(other)));
  CHECK(same_bits(one_product<sm::fp16>(ctx), one_product<sm::fp16>(other)));
  CHECK(ctx.plain_products == 0);
}

TEST_CASE("a steady step allocates nothing on the GPU") {
  sm::Cuda::Context ctx;
  const index_t rows = 256, n = 128;
  Array<sm::Cuda, float> x(ctx, values<float>(rows * n, 83)), w(ctx, values<float>(4 * n * n, 84)),
      out(ctx, std::vector<float>(at(n)));
  Array<sm::Cuda, std::int32_t> offsets(ctx, std::vector<std::int32_t>{0, 100, 100, 200, 256}), scanned(ctx, 5);
  const auto step = [&] {
    ctx.arena.reset();
    const sm::Matrix<float> y = ctx.arena.matrix<float>(rows, n);
    sm::Cuda::grouped_gemm(ctx, sm::Op::none, x.matrix(rows, n).as_const(),
                           sm::Tensor<const float>{w.data(), 4, n, n, 3}, offsets.data(), y);
    sm::Cuda::exclusive_scan(ctx, offsets.data(), scanned.data(), 5);
    sm::add_column_sums<sm::Cuda>(ctx, rows, n, sm::ElementTerm<float, float>{y.as_const()}, out.data());
    sm::Cuda::synchronise(ctx);
  };
  const auto free_bytes = [] {
    std::size_t free = 0, total = 0;
    sm::gpu::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  };
  for (int i = 0; i < 3; ++i) step();
  const std::size_t peak = ctx.arena.peak_bytes(), before = free_bytes();
  for (int i = 0; i < 10; ++i) step();
  CHECK(ctx.arena.peak_bytes() == peak);
  CHECK(free_bytes() == before);
}

TEST_CASE("CUDA's refusals become sentences") {
  CHECK_THROWS_AS(sm::DeviceMemory::allocate(std::size_t(1) << 60), sm::Error);
  sm::Cuda::Context ctx;  // the failure above is not sticky
  sm::Cuda::synchronise(ctx);
}

namespace {
/// With no GPU, the one thing left to see: the context refuses, and says why and what to do.
bool says_that_there_is_no_device() {
  try {
    sm::Cuda::Context ctx;
  } catch (const sm::Error& e) {
    const std::string message = e.what();
    const bool good = message.find("CUDA: cudaGetDevice") == 0 && message.find("CPU backend") != std::string::npos;
    if (!good) std::fprintf(stderr, "unclear message: %s\n", message.c_str());
    return good;
  }
  std::fprintf(stderr, "a context was made without a device\n");
  return false;
}
}  // namespace

int main(int argc, char** argv) {
  if (sm::gpu::device_count() == 0) {
    if (!says_that_there_is_no_device()) return 1;
    std::puts("SKIPPED: no CUDA device");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}

// SPDX-License-Identifier: Apache-2.0
// backend/cuda.hpp -- the CUDA backend: the verbs of backend/cpu.hpp on one GPU. Small launchers run the functors, CUB
// scans, cuBLASLt multiplies. All of it is queued in order on the context's stream; only copies to and from the host,
// synchronise(), and the offsets of a grouped product wait. A steady step allocates nothing.
// Compile with nvcc, link -lcublasLt -lcublas. Read next: backend/cuda_check.hpp, backend/cuda_gemm.hpp,
// backend/gemm/library.hpp.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cub/device/device_scan.cuh>
#include <memory>
#include <type_traits>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/backend/check_backend.hpp"
#include "sparsemoe/backend/cuda_check.hpp"
#include "sparsemoe/backend/cuda_gemm.hpp"
#include "sparsemoe/backend/gemm/library.hpp"
#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Memory of the current GPU.
struct DeviceMemory {
  static void* allocate(std::size_t bytes) {
    void* p = nullptr;
    gpu::check(cudaMalloc(&p, bytes), "cudaMalloc of ", bytes, " bytes");
    return p;
  }
  /// Waits for what may still use the memory. Reports nothing, being called by destructors: what fails here failed
  /// before, and the next call says so.
  static void deallocate(void* p) { static_cast<void>(cudaFree(p)); }
  /// NaN in every float type. The legacy stream keeps this in order with every context's stream.
  static void poison(void* p, std::size_t bytes) {
    gpu::check(cudaMemsetAsync(p, 0xff, bytes, cudaStreamLegacy), "cudaMemset of ", bytes, " bytes");
  }
};

/// A warp shares a row. A reduction gives every lane the same bits, and is a memory fence for the team's lanes.
struct WarpTeam {
  static constexpr int lanes = 32;
  int me = 0;

  SPARSEMOE_HD int lane() const { return me; }
  template <class T>
  SPARSEMOE_HD T sum(T v) const {
#if SPARSEMOE_ON_DEVICE
    __syncwarp();
    for (int step = lanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
#endif
    return v;
  }
  template <class T>
  SPARSEMOE_HD T max(T v) const {
#if SPARSEMOE_ON_DEVICE
    __syncwarp();
    for (int step = lanes / 2; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(0xffffffffu, v, step);
      v = other > v ? other : v;
    }
    v = __shfl_sync(0xffffffffu, v, 0);  // with a NaN among them the lanes could differ
#endif
    return v;
  }
};

namespace gpu {

inline constexpr int index_threads = 256, row_threads = 128;

template <class F>
__global__ void __launch_bounds__(index_threads) index_kernel(const __grid_constant__ F f, index_t n) {
  const index_t step = static_cast<index_t>(gridDim.x) * index_threads;
  for (index_t i = static_cast<index_t>(blockIdx.x) * index_threads + threadIdx.x; i < n; i += step) f(i);
}
template <class F>
__global__ void __launch_bounds__(row_threads) row_kernel(const __grid_constant__ F f, index_t rows) {
  constexpr int warps = row_threads / WarpTeam::lanes;
  const int thread = static_cast<int>(threadIdx.x);
  const WarpTeam team{thread % WarpTeam::lanes};
  const index_t step = static_cast<index_t>(gridDim.x) * warps;
  // Every lane of a warp walks the same rows, so that the team is whole in every reduction.
  for (index_t r = static_cast<index_t>(blockIdx.x) * warps + thread / WarpTeam::lanes; r < rows; r += step) f(team, r);
}

struct DestroyStream {
  void operator()(CUstream_st* stream) const {  // a destructor reports nothing
    static_cast<void>(cudaStreamSynchronize(stream));
    static_cast<void>(cudaStreamDestroy(stream));
  }
};
using Stream = std::unique_ptr<CUstream_st, DestroyStream>;

/// In order with the legacy stream, whatever --default-stream says; see DeviceMemory::poison.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  return Stream(stream);
}

/// Page-locked host memory, which the GPU copies to without a detour.
struct PinnedMemory {
  static void* allocate(std::size_t bytes) {
    void* p = nullptr;
    check(cudaMallocHost(&p, bytes), "cudaMallocHost of ", bytes, " bytes");
    return p;
  }
  static void deallocate(void* p) { static_cast<void>(cudaFreeHost(p)); }
};

inline int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}
inline int multiprocessors(int device) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace gpu

struct Cuda {
  using Memory = DeviceMemory;
  using Provider = CublasLt;
  static constexpr bool host_memory = false;
  static constexpr const char* name = "cuda";

  /// As the CPU's, for the GPU that is current when it is made (cudaSetDevice); use it while that GPU is current. One
  /// host thread at a time.
  struct Context {
    Arena<Memory> arena;
    Random random;
    bool training = false;
    int threads = 1;
    int device = gpu::current_device();
    int processors = gpu::multiprocessors(device);
    Buffer<Memory> workspace{std::size_t(32) << 20};  // what cuBLAS advises for Hopper; smaller GPUs need less
    Buffer<gpu::PinnedMemory> offsets;                // a grouped product's, on the host
    gpu::LtHandle blas = gpu::make_lt_handle();
    gpu::Stream stream = gpu::make_stream();  // last, so that it is waited for before anything is freed
    std::int64_t plain_products = 0;          // how often cuBLASLt had no kernel and PlainProduct ran instead

    /// The number of host threads is 1, whatever is asked for.
    explicit Context(int = 0) {}
  };

  static void* allocate(std::size_t bytes) { return Memory::allocate(bytes); }
  static void deallocate(void* p) { Memory::deallocate(p); }
  /// Waits for everything queued; a kernel's failure is reported here at the latest.
  static void synchronise(Context& ctx) {
    gpu::check(cudaStreamSynchronize(ctx.stream.get()), "cudaStreamSynchronize");
  }

  /// Device to device; the ranges must not overlap.
  template <class T>
  static void copy(Context& ctx, T* to, const T* from, index_t n) {
    transfer(ctx, to, from, n, cudaMemcpyDeviceToDevice);
  }
  template <class T>
  static void copy_to_host(Context& ctx, T* host, const T* from, index_t n) {
    transfer(ctx, host, from, n, cudaMemcpyDeviceToHost);
    synchronise(ctx);
  }
  template <class T>
  static void copy_from_host(Context& ctx, T* to, const T* host, index_t n) {
    transfer(ctx, to, host, n, cudaMemcpyHostToDevice);
    synchronise(ctx);
  }
  template <class T>
  static void zero(Context& ctx, T* p, index_t n) {
    if (n > 0)
      gpu::check(cudaMemsetAsync(static_cast<void*>(p), 0, static_cast<std::size_t>(n) * sizeof(T), ctx.stream.get()),
                 "cudaMemsetAsync of ", n, " elements");
  }

  /// f(i) for i in [0, n), in any order; f must not depend on it.
  template <class F>
  static void for_each_index(Context& ctx, index_t n, const F& f) {
    static_assert(std::is_trivially_copyable_v<F>,
                  "functor: make it trivially copyable, it travels to the GPU by bytes");
    if (n <= 0) return;
    gpu::index_kernel<<<blocks(ctx, n, gpu::index_threads), gpu::index_threads, 0, ctx.stream.get()>>>(f, n);
    gpu::check(cudaGetLastError(), "launch over ", n, " indices");
  }
  /// f(team, r) for r in [0, rows), a warp a row. `work` is the CPU's hint.
  template <class F>
  static void for_each_row(Context& ctx, index_t rows, const F& f, index_t = 256) {
    static_assert(std::is_trivially_copyable_v<F>,
                  "functor: make it trivially copyable, it travels to the GPU by bytes");
    if (rows <= 0) return;
    gpu::row_kernel<<<blocks(ctx, rows, gpu::row_threads / WarpTeam::lanes), gpu::row_threads, 0, ctx.stream.get()>>>(
        f, rows);
    gpu::check(cudaGetLastError(), "launch over ", rows, " rows");
  }
  /// out[i] = in[0] + ... + in[i-1]. Integers only: the order of a float sum is nobody's promise.
  static void exclusive_scan(Context& ctx, const std::int32_t* in, std::int32_t* out, index_t n) {
    if (n <= 0) return;
    std::size_t bytes = 0;
    gpu::check(cub::DeviceScan::ExclusiveSum(nullptr, bytes, in, out, n, ctx.stream.get()), "size of a scan of ", n);
    Arena<Memory>::Scope scope(ctx.arena);
    // At least one byte: a null pointer would ask for the size again.
    auto* room = ctx.arena.take<std::byte>(static_cast<index_t>(std::max<std::size_t>(bytes, 1)));
    gpu::check(cub::DeviceScan::ExclusiveSum(room, bytes, in, out, n, ctx.stream.get()), "scan of ", n);
  }

  /// c = alpha op(a) op(b) + (accumulate ? c : 0), then epilogue(team, row, 0, c.cols) for every row of c.
  template <class TA, class TB, class TC, class Epilogue = NoEpilogue>
  static void gemm(Context& ctx, Op op_a, Op op_b, double alpha, Matrix<const TA> a, Matrix<const TB> b,
                   bool accumulate, Matrix<TC> c, const Epilogue& epilogue = {}) {
    multiply(ctx, Product<TA, TB, TC>{op_a, op_b, alpha, a, b, accumulate, c});
    finish(ctx, 0, c.rows, c.cols, epilogue);
  }

  /// Rows of a and c belong to groups: c[rows of g] = a[rows of g] op(b[g]), rows [offsets[g], offsets[g + 1]).
  /// The plain form: one wait for the offsets and one product a group. A grouped kernel that reads them on the GPU is
  /// later work, behind this verb. Weights of int8 form are first widened, a group at a time.
  template <class TA, class TB, class TC, class Epilogue = NoEpilogue>
  static void grouped_gemm(Context& ctx, Op op_b, Matrix<const TA> a, Tensor<const TB> b, const std::int32_t* offsets,
                           Matrix<TC> c, const Epilogue& epilogue = {}) {
    if (b.batch <= 0) return;
    const std::int32_t* first = read_offsets(ctx, offsets, b.batch + 1);
    for (index_t g = 0; g < b.batch; ++g) {
      const index_t row = first[g], rows = first[g + 1] - row;
      if (rows == 0) continue;
      Arena<Memory>::Scope scope(ctx.arena);
      multiply(ctx, Product<TA, TB, TC>{Op::none, op_b, 1, a.slice_rows(row, rows), plain_matrix(ctx, b, g), false,
                                        c.slice_rows(row, rows)});
    }
    finish(ctx, first[0], first[b.batch] - first[0], c.cols, epilogue);
  }
  /// The weight gradient of that: c[g] += a[rows of g]^T b[rows of g]. A group without rows leaves c[g] as it is.
  template <class TA, class TB, class TC>
  static void grouped_gemm_transposed(Context& ctx, Matrix<const TA> a, Matrix<const TB> b, const std::int32_t* offsets,
                                      Tensor<TC> c) {
    if (c.batch <= 0) return;
    const std::int32_t* first = read_offsets(ctx, offsets, c.batch + 1);
    for (index_t g = 0; g < c.batch; ++g) {
      const index_t row = first[g], rows = first[g + 1] - row;
      if (rows > 0)
        multiply(ctx, Product<TA, TB, TC>{Op::transpose, Op::none, 1, a.slice_rows(row, rows), b.slice_rows(row, rows),
                                          true, c.matrix(g)});
    }
  }
  /// outer * inner products of the same shape (m, n, k), found through BatchOf.
  template <class TA, class TB, class TC>
  static void batched_gemm(Context& ctx, Op op_a, Op op_b, double alpha, index_t outer, index_t inner, index_t m,
                           index_t n, index_t k, BatchOf<const TA> a, BatchOf<const TB> b, BatchOf<TC> c) {
    // The library's batches have one stride: the longer axis is the batch, the shorter one is walked here.
    const bool long_inner = inner >= outer;
    const index_t calls = long_inner ? outer : inner;
    for (index_t i = 0; i < calls; ++i) {
      const auto start = [&](const auto& x) { return x.data + i * (long_inner ? x.outer : x.inner); };
      const auto step = [&](const auto& x) { return long_inner ? x.inner : x.outer; };
      const Matrix<const TA> ma(start(a), op_a == Op::none ? m : k, op_a == Op::none ? k : m, a.stride);
      const Matrix<const TB> mb(start(b), op_b == Op::none ? k : n, op_b == Op::none ? n : k, b.stride);
      multiply(ctx, Product<TA, TB, TC>{op_a, op_b, alpha, ma, mb, false, Matrix<TC>(start(c), m, n, c.stride)},
               {long_inner ? inner : outer, step(a), step(b), step(c)});
    }
  }

 private:
  template <class T>
  static void transfer(Context& ctx, T* to, const T* from, index_t n, cudaMemcpyKind kind) {
    static_assert(std::is_trivially_copyable_v<T>, "copy: only bytes travel; make the type trivially copyable");
    if (n > 0)
      gpu::check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(n) * sizeof(T), kind, ctx.stream.get()),
                 "cudaMemcpyAsync of ", n, " elements");
  }
  /// Enough blocks to fill the GPU; the kernels walk on from there.
  static unsigned blocks(const Context& ctx, index_t items, index_t per_block) {
    return static_cast<unsigned>(std::min<index_t>((items + per_block - 1) / per_block, index_t(ctx.processors) * 16));
  }
  static const std::int32_t* read_offsets(Context& ctx, const std::int32_t* offsets, index_t n) {
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(std::int32_t);
    if (ctx.offsets.bytes() < bytes) ctx.offsets = Buffer<gpu::PinnedMemory>(std::max<std::size_t>(bytes, 4096));
    copy_to_host(ctx, ctx.offsets.as<std::int32_t>(), offsets, n);
    return ctx.offsets.as<std::int32_t>();
  }
  template <class T>
  static Matrix<const T> plain_matrix(Context& ctx, const Tensor<const T>& b, index_t g) {
    if (b.form == WeightForm::plain) return b.matrix(g);
    require(b.form == WeightForm::int8, "cuda: weights that stay in a file are in host memory");
    const Matrix<T> wide = ctx.arena.template matrix<T>(b.rows, b.cols);
    for_each_index(ctx, wide.size(), WidenInt8<T>{Int8Tensor(b).matrix(g), wide.data});
    return wide;
  }
  template <class TA, class TB, class TC>
  static void multiply(Context& ctx, const Product<TA, TB, TC>& q, const BatchSteps& steps = {}) {
    static_assert(std::is_same_v<TA, TB>, "cuda gemm: give both operands the same storage type");
    if (q.m() == 0 || q.n() == 0 || steps.count == 0) return;
    if (q.k() > 0) {
      const gpu::LtQueue queue{ctx.blas.get(), ctx.stream.get(), ctx.workspace.data(), ctx.workspace.bytes()};
      if (gpu::lt_multiply(queue, column_major(q, steps), gpu::data_type<TA>(), gpu::data_type<TC>(), q.alpha,
                           q.accumulate, q.c.data))
        return;
      ++ctx.plain_products;
    }
    const PlainProduct<TA, TB, TC> plain(q, steps);
    for_each_index(ctx, plain.size(), plain);
  }
  template <class Epilogue>
  static void finish(Context& ctx, index_t first_row, index_t rows, index_t cols, const Epilogue& epilogue) {
    if constexpr (!std::is_same_v<Epilogue, NoEpilogue>)
      if (cols > 0) for_each_row(ctx, rows, EpilogueRow<Epilogue>{epilogue, first_row, cols});
  }
};

static_assert(check_backend<Cuda>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// backend/cpu.hpp -- the CPU backend: Thrust's host systems run the functors and the scan, a GEMM provider multiplies.
// Parallel over rows, and over (expert, row block, column block) tiles of products, never inside a small product. How
// work is cut depends on shapes alone, so every thread count gives the same bits.
// Read next: backend/check_backend.hpp for the contract, backend/product.hpp and backend/gemm/gemm.hpp for products,
// kernels/elementwise.hpp for functors, backend/cuda.hpp for the same verbs on a GPU.
#pragma once

#include <omp.h>
#include <sys/mman.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/scan.h>
#include <thrust/system/cpp/execution_policy.h>
#include <thrust/system/omp/execution_policy.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <type_traits>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/backend/check_backend.hpp"
#include "sparsemoe/backend/gemm/native.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/team.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Aligned host memory.
struct HostMemory {
  static void* allocate(std::size_t bytes) {
    void* p = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (p == nullptr) throw std::bad_alloc();
    return p;
  }
  static void deallocate(void* p) { std::free(p); }
  static void poison(void* p, std::size_t bytes) { std::memset(p, 0xff, bytes); }  // NaN in every float type
};

/// Thrust's sequential system, and its OpenMP system.
struct Sequential {
  static auto policy() { return thrust::cpp::par; }
  static constexpr bool parallel = false;
};
struct OpenMp {
  static auto policy() { return thrust::omp::par; }
  static constexpr bool parallel = true;
};

// The bodies that one thread and many threads run are kept out of line: compiled once, they contract the same
// multiply-adds in both, and thread counts keep agreeing bit for bit.
namespace detail {
template <class F>
struct IndexChunk {  // one Thrust element is a run of indices, so that the inner loop vectorises
  F f;
  index_t n, run;
  SPARSEMOE_NOINLINE SPARSEMOE_HD void operator()(index_t chunk) const {
    const index_t first = chunk * run, last = first + run < n ? first + run : n;
    SPARSEMOE_SIMD
    for (index_t i = first; i < last; ++i) f(i);
  }
};
template <class F>
struct RowCall {
  F f;
  SPARSEMOE_NOINLINE SPARSEMOE_HD void operator()(index_t r) const { f(SerialTeam{}, r); }
};
struct TileTask {
  index_t group, row, rows, col, cols;
};
template <class Body>
SPARSEMOE_NOINLINE void run_tile(const Body& body, const TileTask& t, Scratch& scratch) {
  body(t, scratch);
}
}  // namespace detail

template <class System, class Gemm>
struct CpuBackend {
  using Memory = HostMemory;
  using Provider = Gemm;
  static constexpr bool host_memory = true;
  static constexpr const char* name = "cpu";

  /// Everything a layer call needs beside its operands: step memory, threads, random numbers, training or evaluation.
  struct Context {
    Arena<Memory> arena;
    Random random;
    bool training = false;
    int threads = 1;
    std::vector<Scratch> scratch;         // one a thread
    std::vector<detail::TileTask> tasks;  // of the product being run

    /// `n` threads; 0 means what OpenMP offers.
    explicit Context(int n = 0) : threads(System::parallel ? (n > 0 ? n : omp_get_max_threads()) : 1) {
      scratch = std::vector<Scratch>(static_cast<std::size_t>(threads));
      tasks.reserve(4096);
    }
  };

  static void* allocate(std::size_t bytes) { return Memory::allocate(bytes); }
  static void deallocate(void* p) { Memory::deallocate(p); }
  static void synchronise(Context&) {}
  template <class T>
  static void copy(Context&, T* to, const T* from, index_t n) {
    if (n > 0) std::memmove(to, from, static_cast<std::size_t>(n) * sizeof(T));
  }
  template <class T>
  static void copy_to_host(Context& ctx, T* host, const T* from, index_t n) {
    copy(ctx, host, from, n);
  }
  template <class T>
  static void copy_from_host(Context& ctx, T* to, const T* host, index_t n) {
    copy(ctx, to, host, n);
  }
  template <class T>
  static void zero(Context&, T* p, index_t n) {
    if (n > 0) std::memset(static_cast<void*>(p), 0, static_cast<std::size_t>(n) * sizeof(T));
  }

  /// A hint that these bytes of a mapped file are wanted soon: the system begins to read them, and nobody waits.
  static void will_need(const void* data, std::size_t bytes) {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(data) / page * page;
    const auto last = reinterpret_cast<std::uintptr_t>(data) + bytes;
    // A hint: that it was refused changes nothing but time.
    static_cast<void>(::madvise(reinterpret_cast<void*>(first), last - first, MADV_WILLNEED));
  }

  /// f(i) for i in [0, n), in any order; f must not depend on it.
  template <class F>
  static void for_each_index(Context& ctx, index_t n, const F& f) {
    constexpr index_t run = 2048;
    const index_t chunks = (n + run - 1) / run;
    const detail::IndexChunk<F> body{f, n, run};
    const thrust::counting_iterator<index_t> first(0);
    if (chunks < 4 || ctx.threads == 1)
      thrust::for_each_n(thrust::cpp::par, first, chunks, body);
    else
      with_threads(ctx, [&] { thrust::for_each_n(System::policy(), first, chunks, body); });
  }
  /// f(team, r) for r in [0, rows). `work` is a hint: the number of elements a row touches.
  template <class F>
  static void for_each_row(Context& ctx, index_t rows, const F& f, index_t work = 256) {
    const thrust::counting_iterator<index_t> first(0);
    if (rows * work < 16384 || rows < 2 || ctx.threads == 1)
      thrust::for_each_n(thrust::cpp::par, first, rows, detail::RowCall<F>{f});
    else
      with_threads(ctx, [&] { thrust::for_each_n(System::policy(), first, rows, detail::RowCall<F>{f}); });
  }
  /// out[i] = in[0] + ... + in[i-1]. Integers only: the order of a float sum is nobody's promise.
  static void exclusive_scan(Context&, const std::int32_t* in, std::int32_t* out, index_t n) {
    thrust::exclusive_scan(thrust::cpp::par, in, in + n, out, std::int32_t(0));
  }

  /// c = alpha op(a) op(b) + (accumulate ? c : 0), then epilogue(team, row, first column, last column + 1) once for
  /// every row of every tile of c, while the tile is still in cache.
  template <class TA, class TB, class TC, class Epilogue = NoEpilogue>
  static void gemm(Context& ctx, Op op_a, Op op_b, double alpha, Matrix<const TA> a, Matrix<const TB> b,
                   bool accumulate, Matrix<TC> c, const Epilogue& epilogue = {}) {
    const Product<TA, TB, TC> q{op_a, op_b, alpha, a, b, accumulate, c};
    ctx.tasks.clear();
    cut(ctx, 0, 0, c.rows, c.cols, q.k(), piece(weight(c.rows) * c.cols * q.k()));
    run_tasks(ctx, c.size() * q.k(), [&](const detail::TileTask& t, Scratch& s) {
      Gemm::run(q.tile(t.row, t.rows, t.col, t.cols), s);
      for (index_t r = t.row; r < t.row + t.rows; ++r) epilogue(SerialTeam{}, r, t.col, t.col + t.cols);
    });
  }

  /// Rows of a and c belong to groups: c[rows of g] = a[rows of g] op(b[g]), rows [offsets[g], offsets[g + 1]).
  /// The epilogue sees rows of c as in gemm(). b may be in any form of weights (weight_form.hpp).
  template <class TA, class TB, class TC, class Epilogue = NoEpilogue>
  static void grouped_gemm(Context& ctx, Op op_b, Matrix<const TA> a, Tensor<const TB> b, const std::int32_t* offsets,
                           Matrix<TC> c, const Epilogue& epilogue = {}) {
    if constexpr (has_forms<TB>)
      with_form(b, [&](const auto& weights) { grouped<TB>(ctx, op_b, a, weights, offsets, c, epilogue); });
    else
      grouped<TB>(ctx, op_b, a, b, offsets, c, epilogue);
  }
  /// The weight gradient of that: c[g] += a[rows of g]^T b[rows of g]. A group without rows leaves c[g] as it is.
  template <class TA, class TB, class TC>
  static void grouped_gemm_transposed(Context& ctx, Matrix<const TA> a, Matrix<const TB> b, const std::int32_t* offsets,
                                      Tensor<TC> c) {
    ctx.tasks.clear();
    const index_t total = offsets[c.batch] * c.rows * c.cols;
    for (index_t g = 0; g < c.batch; ++g)
      if (offsets[g + 1] > offsets[g]) cut(ctx, g, 0, c.rows, c.cols, offsets[g + 1] - offsets[g], piece(total));
    run_tasks(ctx, total, [&](const detail::TileTask& t, Scratch& s) {
      const index_t first = offsets[t.group], rows = offsets[t.group + 1] - first;
      const Product<TA, TB, TC> q{
          Op::transpose, Op::none, 1, a.slice_rows(first, rows), b.slice_rows(first, rows), true, c.matrix(t.group)};
      Gemm::run(q.tile(t.row, t.rows, t.col, t.cols), s);
    });
  }
  /// outer * inner products of the same shape (m, n, k), found through BatchOf.
  template <class TA, class TB, class TC>
  static void batched_gemm(Context& ctx, Op op_a, Op op_b, double alpha, index_t outer, index_t inner, index_t m,
                           index_t n, index_t k, BatchOf<const TA> a, BatchOf<const TB> b, BatchOf<TC> c) {
    ctx.tasks.clear();
    // One task an outer item: its inner products share cache lines.
    for (index_t o = 0; o < outer; ++o) ctx.tasks.push_back({o, 0, inner * m, 0, n});
    run_tasks(ctx, outer * inner * m * n * k, [&](const detail::TileTask& t, Scratch& s) {
      for (index_t i = 0; i < inner; ++i) {
        const TA* pa = a.data + t.group * a.outer + i * a.inner;
        const TB* pb = b.data + t.group * b.outer + i * b.inner;
        TC* pc = c.data + t.group * c.outer + i * c.inner;
        const Matrix<const TA> ma =
            op_a == Op::none ? Matrix<const TA>(pa, m, k, a.stride) : Matrix<const TA>(pa, k, m, a.stride);
        const Matrix<const TB> mb =
            op_b == Op::none ? Matrix<const TB>(pb, k, n, b.stride) : Matrix<const TB>(pb, n, k, b.stride);
        Gemm::run(Product<TA, TB, TC>{op_a, op_b, alpha, ma, mb, false, Matrix<TC>(pc, m, n, c.stride)}, s);
      }
    });
  }

 private:
  /// `Weights` is Tensor<const TB>, or what with_form() makes of it.
  template <class TB, class TA, class Weights, class TC, class Epilogue>
  static void grouped(Context& ctx, Op op_b, Matrix<const TA> a, const Weights& b, const std::int32_t* offsets,
                      Matrix<TC> c, const Epilogue& epilogue) {
    using Element = std::remove_cvref_t<decltype(*b.data)>;
    using Multiplier = std::conditional_t<std::is_same_v<Element, TB>, Gemm, NativeGemm>;  // it alone knows the forms
    ctx.tasks.clear();
    const index_t k = a.cols;
    index_t total = 0;
    for (index_t g = 0; g < b.batch; ++g) total += weight(offsets[g + 1] - offsets[g]) * c.cols * k;
    for (index_t g = 0; g < b.batch; ++g) cut(ctx, g, offsets[g], offsets[g + 1] - offsets[g], c.cols, k, piece(total));
    run_tasks(ctx, offsets[b.batch] * c.cols * k, [&](const detail::TileTask& t, Scratch& s) {
      const Product<TA, Element, TC> q{Op::none, op_b, 1, a, b.matrix(t.group), false, c};
      Multiplier::run(q.tile(t.row, t.rows, t.col, t.cols), s);
      for (index_t r = t.row; r < t.row + t.rows; ++r) epilogue(SerialTeam{}, r, t.col, t.col + t.cols);
    });
  }

  /// Reading a weight takes as long as about so many multiply-adds with it.
  static constexpr index_t rows_per_read = 16;
  /// What `rows` rows of a product cost for each element of its right operand, in multiply-adds: a few rows are bound
  /// by reading it.
  static index_t weight(index_t rows) { return rows == 0 ? 0 : std::max(rows, rows_per_read); }
  /// Multiply-adds in one tile: about a sixteenth of the product, within bounds that keep a tile worth its overhead.
  static index_t piece(index_t total) { return std::clamp<index_t>(total / 16, index_t(1) << 20, index_t(1) << 27); }

  /// Cuts one group's (rows, cols) into tiles of about `target` multiply-adds. Columns are cut first, since a tile
  /// packs only its own columns of b; all pieces of a side are about equal.
  static void cut(Context& ctx, index_t group, index_t row, index_t rows, index_t cols, index_t k, index_t target) {
    if (rows == 0 || cols == 0) return;
    constexpr index_t unit = 48, least = 144, most_rows = 1024;  // unit: a multiple of every register tile's width
    const index_t blocks = (rows + most_rows - 1) / most_rows;
    index_t pieces = std::max<index_t>(1, weight(rows / blocks) * cols * std::max<index_t>(k, 1) / target);
    const index_t across = std::min(pieces, std::max<index_t>(1, cols / least));
    const index_t width = ((cols + across - 1) / across + unit - 1) / unit * unit;
    pieces = std::max<index_t>(1, pieces / across);
    const index_t down = blocks * std::min(pieces, std::max<index_t>(1, rows / blocks / 96));
    const index_t height = ((rows + down - 1) / down + 7) / 8 * 8;
    for (index_t r = 0; r < rows; r += height)
      for (index_t c = 0; c < cols; c += width)
        ctx.tasks.push_back({group, row + r, std::min(height, rows - r), c, std::min(width, cols - c)});
  }

  template <class Body>
  static void run_tasks(Context& ctx, index_t total, const Body& body) {
    auto& tasks = ctx.tasks;
    const auto n = static_cast<index_t>(tasks.size());
    if (!System::parallel || ctx.threads == 1 || n < 2 || total < 65536) {
      for (const auto& t : tasks) detail::run_tile(body, t, ctx.scratch[0]);
      return;
    }
    std::sort(tasks.begin(), tasks.end(), [](const detail::TileTask& x, const detail::TileTask& y) {
      return weight(x.rows) * x.cols > weight(y.rows) * y.cols;  // largest first: the last tile to end is a small one
    });
    std::exception_ptr error;
#pragma omp parallel for schedule(dynamic, 1) num_threads(ctx.threads)
    for (index_t i = 0; i < n; ++i) {
      try {
        detail::run_tile(body, tasks[static_cast<std::size_t>(i)],
                         ctx.scratch[static_cast<std::size_t>(omp_get_thread_num())]);
      } catch (...) {
#pragma omp critical
        error = std::current_exception();
      }
    }
    if (error) std::rethrow_exception(error);
    // Any thread may get the largest tile next time: a steady step must not allocate then.
    std::size_t most = 0;
    for (const auto& s : ctx.scratch) most = std::max(most, s.bytes());
    for (auto& s : ctx.scratch) (void)s.get(most);
  }

  template <class Body>
  static void with_threads(Context& ctx, const Body& body) {
    // Thrust asks OpenMP for the number of threads; the previous number is put back.
    const int before = omp_get_max_threads();
    if (before != ctx.threads) omp_set_num_threads(ctx.threads);
    body();
    if (before != ctx.threads) omp_set_num_threads(before);
  }
};

/// The default: OpenMP and the native GEMM, whose bits do not depend on how a product is cut.
using Cpu = CpuBackend<OpenMp, NativeGemm>;
using CpuSequential = CpuBackend<Sequential, NativeGemm>;
static_assert(check_backend<Cpu>() && check_backend<CpuSequential>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

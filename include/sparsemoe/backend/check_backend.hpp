// SPDX-License-Identifier: Apache-2.0
// backend/check_backend.hpp -- the contract of a backend: memory, a context, and the verbs that every layer is made of.
// A backend is a struct of static functions; whoever writes one puts  static_assert(check_backend<Mine>());  under it.
//
//   allocate, deallocate      bytes of the backend's memory, aligned to 256 or more, uninitialised; std::bad_alloc
//   copy, copy_to_host,       n elements, in order of the context; host memory may be reused when it returns
//   copy_from_host
//   zero                      n elements of zero bits, in order
//   synchronise               waits for all that was asked of a context; errors of earlier work surface here
//   will_need                 bytes of a mapped file are wanted soon (host memory only); may do nothing
//   for_each_index            f(i) for i in [0, n), any order; f is trivially copyable, a result depends on i alone
//   for_each_row              f(team, r) for r in [0, rows): a team's lanes share a row; the same bits for any threads
//   exclusive_scan            out[i] = in[0] + ... + in[i - 1], int32, exact
//   gemm                      c = alpha op(a) op(b) (+ c), then an epilogue on each row of each tile; an element's bits
//                             depend on its row of a and column of b alone, if the provider is row-invariant
//   grouped_gemm              rows [offsets[g], offsets[g + 1]) of c = those of a times op(b[g]), b in any form
//   grouped_gemm_transposed   c[g] += a[rows of g]^T b[rows of g]; a group without rows leaves c[g] as it is
//   batched_gemm              outer x inner products of one shape, each item found by its steps
//
// Reading a result on the host needs copy_to_host or synchronise: a device works behind the caller.
// Read next: backend/cpu.hpp, which is the reference for all of them.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/backend/product.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/team.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {
/// Work for the verbs that are asked for: any functor of its form will do.
struct AnyIndex {
  SPARSEMOE_HD void operator()(index_t) const {}
};
struct AnyRow {
  template <class Team>
  SPARSEMOE_HD void operator()(Team, index_t) const {}
};
}  // namespace detail

/// What a backend must have; true, or one sentence for each missing item at compile time.
template <class B>
constexpr bool check_backend() {
  static_assert(
      requires { typename B::Memory; }, "backend: add  using Memory = (a struct with static allocate and deallocate)");
  static_assert(
      requires { typename B::Context; }, "backend: add  struct Context { Arena<Memory> arena; ... }");
  static_assert(
      requires {
        { B::host_memory } -> std::convertible_to<bool>;
      },
      "backend: add  static constexpr bool host_memory = (whether the host can read its memory)");
  static_assert(
      requires {
        { B::name } -> std::convertible_to<const char*>;
      },
      "backend: add  static constexpr const char* name");
  if constexpr (requires {
                  typename B::Memory;
                  typename B::Context;
                }) {
    using Context = typename B::Context;
    static_assert(
        requires(std::size_t bytes, void* p) {
          { B::allocate(bytes) } -> std::convertible_to<void*>;
          B::deallocate(p);
        },
        "backend: add  static void* allocate(size_t bytes)  and  static void deallocate(void* p)");
    static_assert(
        requires(Context & ctx) {
          { ctx.arena } -> std::convertible_to<const Arena<typename B::Memory>&>;
          { ctx.random } -> std::convertible_to<const Random&>;
          { ctx.training } -> std::convertible_to<bool>;
        },
        "backend: give Context the members  Arena<Memory> arena; Random random; bool training");
    static_assert(
        requires(Context & ctx) { B::synchronise(ctx); }, "backend: add  static void synchronise(Context&)");
    static_assert(
        requires(Context & ctx, float* to, const float* from, index_t n) {
          B::copy(ctx, to, from, n);
          B::copy_to_host(ctx, to, from, n);
          B::copy_from_host(ctx, to, from, n);
        },
        "backend: add  template <class T> static void copy, copy_to_host, copy_from_host(Context&, T* to, const T* "
        "from, index_t n)");
    static_assert(
        requires(Context & ctx, float* p, index_t n) { B::zero(ctx, p, n); },
        "backend: add  template <class T> static void zero(Context&, T* p, index_t n)");
    static_assert(
        requires(Context & ctx, index_t n, const detail::AnyIndex& f) { B::for_each_index(ctx, n, f); },
        "backend: add  template <class F> static void for_each_index(Context&, index_t n, const F& f)");
    static_assert(
        requires(Context & ctx, index_t rows, const detail::AnyRow& f, index_t work) {
          B::for_each_row(ctx, rows, f);
          B::for_each_row(ctx, rows, f, work);
        },
        "backend: add  template <class F> static void for_each_row(Context&, index_t rows, const F& f, index_t work = "
        "256)");
    static_assert(
        requires(Context & ctx, const std::int32_t* in, std::int32_t* out, index_t n) {
          B::exclusive_scan(ctx, in, out, n);
        },
        "backend: add  static void exclusive_scan(Context&, const int32_t* in, int32_t* out, index_t n)");
    static_assert(
        requires(Context & ctx, Op op, double alpha, Matrix<const float> a, Matrix<const float> b, bool accumulate,
                 Matrix<float> c) {
          B::gemm(ctx, op, op, alpha, a, b, accumulate, c);
          B::gemm(ctx, op, op, alpha, a, b, accumulate, c, NoEpilogue{});
        },
        "backend: add  template <...> static void gemm(Context&, Op, Op, double alpha, Matrix<const TA>, Matrix<const "
        "TB>, bool accumulate, Matrix<TC>, const Epilogue& = {})");
    static_assert(
        requires(Context & ctx, Op op, Matrix<const float> a, Tensor<const float> b, const std::int32_t* offsets,
                 Matrix<float> c) {
          B::grouped_gemm(ctx, op, a, b, offsets, c);
          B::grouped_gemm(ctx, op, a, b, offsets, c, NoEpilogue{});
        },
        "backend: add  template <...> static void grouped_gemm(Context&, Op op_b, Matrix<const TA>, Tensor<const TB>, "
        "const int32_t* offsets, Matrix<TC>, const Epilogue& = {})");
    static_assert(
        requires(Context & ctx, Matrix<const float> a, Matrix<const float> b, const std::int32_t* offsets,
                 Tensor<float> c) { B::grouped_gemm_transposed(ctx, a, b, offsets, c); },
        "backend: add  template <...> static void grouped_gemm_transposed(Context&, Matrix<const TA>, Matrix<const "
        "TB>, const int32_t* offsets, Tensor<TC>)");
    static_assert(
        requires(Context & ctx, Op op, double alpha, index_t n, BatchOf<const float> a, BatchOf<const float> b,
                 BatchOf<float> c) { B::batched_gemm(ctx, op, op, alpha, n, n, n, n, n, a, b, c); },
        "backend: add  template <...> static void batched_gemm(Context&, Op, Op, double alpha, index_t outer, index_t "
        "inner, index_t m, index_t n, index_t k, BatchOf<const TA>, BatchOf<const TB>, BatchOf<TC>)");
  }
  return true;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// config.hpp -- version, ABI namespace, host/device markers. Compilers and instruction sets are asked about here, and what
// was found has a name; only what exists in one of them (warp shuffles, AVX-512) stands behind an #if elsewhere.
// Every name of the library lives in sparsemoe::SPARSEMOE_ABI, an inline namespace that differs between host and CUDA
// translation units: passing one of our types from a .cpp to a .cu is a link error that names the type, not a crash.
// Read next: error.hpp, view.hpp.
#pragma once

// Not #error: the compiler would go on, and pages of what C++17 cannot read would follow it.
#if __cplusplus <= 201703L
#include "#error sparsemoe needs C++20: compile with -std=c++20"
#endif

#define SPARSEMOE_VERSION_MAJOR 0
#define SPARSEMOE_VERSION_MINOR 1
#define SPARSEMOE_VERSION_PATCH 0
#define SPARSEMOE_VERSION "0.1.0"

#if defined(__CUDACC__)
#define SPARSEMOE_ABI v0_cuda
#define SPARSEMOE_HD __host__ __device__  // runs on either side
#define SPARSEMOE_IS_CUDA 1
#else
#define SPARSEMOE_ABI v0_host
#define SPARSEMOE_HD
#define SPARSEMOE_IS_CUDA 0
#endif

#if defined(__CUDA_ARCH__)
#define SPARSEMOE_ON_DEVICE 1  // this pass makes device code
#else
#define SPARSEMOE_ON_DEVICE 0
#endif

// 1: a sparse layer looks at what its router chose before it uses it, and throws one sentence (CPU). As assert().
#if !defined(SPARSEMOE_CHECK_CHOICES)
#if defined(NDEBUG)
#define SPARSEMOE_CHECK_CHOICES 0
#else
#define SPARSEMOE_CHECK_CHOICES 1
#endif
#endif

// Arithmetic may be regrouped (-ffast-math): what relies on the order of two roundings asks.
#if defined(__FAST_MATH__)
#define SPARSEMOE_FAST_MATH 1
#else
#define SPARSEMOE_FAST_MATH 0
#endif

// A scalar function that must melt into the loop around it, or the loop cannot be vectorised.
#define SPARSEMOE_INLINE SPARSEMOE_HD inline __attribute__((always_inline))

#define SPARSEMOE_NOINLINE __attribute__((noinline))

// Loop hints, ignored where OpenMP is off. A reduction hint lets the compiler reorder one sum, at compile time: the
// bits still do not depend on threads. SPARSEMOE_RESTRICT promises that two pointers do not alias.
#if defined(_OPENMP) && !defined(__CUDACC__)
#define SPARSEMOE_PRAGMA(text) _Pragma(#text)
#else
#define SPARSEMOE_PRAGMA(text)
#endif
// Independent iterations. Not "omp simd": g++ gives every 16-bit temporary of such a loop an array, and no vectors.
#if defined(__CUDACC__) || defined(__clang__)
#define SPARSEMOE_SIMD
#else
#define SPARSEMOE_SIMD _Pragma("GCC ivdep")
#endif
#define SPARSEMOE_SIMD_SUM(variable) SPARSEMOE_PRAGMA(omp simd reduction(+ : variable))
#define SPARSEMOE_SIMD_MAX(variable) SPARSEMOE_PRAGMA(omp simd reduction(max : variable))
#define SPARSEMOE_RESTRICT __restrict__

// 64-, 32- or 16-byte vectors and the register tile of the native GEMM (rows x vectors), by instruction set.
#if defined(__AVX512F__)
#define SPARSEMOE_VECTOR_BYTES 64
#define SPARSEMOE_TILE_ROWS 8
#define SPARSEMOE_TILE_VECTORS 3
#elif defined(__AVX2__)
#define SPARSEMOE_VECTOR_BYTES 32
#define SPARSEMOE_TILE_ROWS 6
#define SPARSEMOE_TILE_VECTORS 2
#else
#define SPARSEMOE_VECTOR_BYTES 16
#define SPARSEMOE_TILE_ROWS 4
#define SPARSEMOE_TILE_VECTORS 2
#endif
#if defined(__AVX512F__) && !defined(__CUDACC__)
#define SPARSEMOE_HAS_AVX512 1
#else
#define SPARSEMOE_HAS_AVX512 0
#endif
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && !defined(__CUDACC__)
#define SPARSEMOE_HAS_AVX512_BF16 1
#else
#define SPARSEMOE_HAS_AVX512_BF16 0
#endif

// SPDX-License-Identifier: Apache-2.0
// backend/gemm/forms.hpp -- how the native GEMM holds a k-slice of its operands: as words of the accumulator's type, or
// as pairs of bf16 that one instruction multiplies. Words of op(b) are packed into panels, or read where b lies.
// Read next: backend/gemm/native.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sparsemoe/backend/gemm/gemm.hpp"
#include "sparsemoe/precision.hpp"
#if SPARSEMOE_HAS_AVX512
#include <immintrin.h>
#endif

namespace sparsemoe::inline SPARSEMOE_ABI {
namespace native {

inline constexpr int tile_rows = SPARSEMOE_TILE_ROWS;
inline constexpr int tile_vectors = SPARSEMOE_TILE_VECTORS;

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(SPARSEMOE_VECTOR_BYTES), aligned(alignof(T)), may_alias));
  static constexpr int lanes = SPARSEMOE_VECTOR_BYTES / static_cast<int>(sizeof(T));
  /// A vector at any address. Read and written through this, one is a single move under every compiler option; a copy
  /// of its bytes is cut into small moves by -mmove-max, and a vector read back from those waits for all of them.
  struct __attribute__((packed, may_alias)) Anywhere {
    type value;
  };
  static type load(const void* p) { return static_cast<const Anywhere*>(p)->value; }
  static void store(void* p, const type& v) { static_cast<Anywhere*>(p)->value = v; }
};

template <class W>
W load(const std::byte* p) {
  W w;
  std::memcpy(&w, p, sizeof(W));
  return w;
}

/// Sixteen 32-bit words, as registers the compiler shuffles.
typedef std::uint32_t Words16 __attribute__((vector_size(64), aligned(1), may_alias));

/// A 16 x 16 transposition in registers: r[j][i] becomes r[i][j].
inline void transpose16(Words16 r[16]) {
#if SPARSEMOE_IS_CUDA
  std::uint32_t t[16][16];
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) t[j][i] = r[i][j];
  std::memcpy(r, t, sizeof(t));
#else
  Words16 t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] =
        __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    t[2 * i + 1] =
        __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] =
        __builtin_shufflevector(t[4 * i], t[4 * i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    r[4 * i + 1] =
        __builtin_shufflevector(t[4 * i], t[4 * i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    r[4 * i + 2] =
        __builtin_shufflevector(t[4 * i + 1], t[4 * i + 3], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    r[4 * i + 3] =
        __builtin_shufflevector(t[4 * i + 1], t[4 * i + 3], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = __builtin_shufflevector(r[i], r[4 + i], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    t[4 + i] = __builtin_shufflevector(r[i], r[4 + i], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    t[8 + i] = __builtin_shufflevector(r[8 + i], r[12 + i], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    t[12 + i] =
        __builtin_shufflevector(r[8 + i], r[12 + i], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shufflevector(t[i], t[8 + i], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    r[8 + i] = __builtin_shufflevector(t[i], t[8 + i], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    r[4 + i] = __builtin_shufflevector(t[4 + i], t[12 + i], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    r[12 + i] =
        __builtin_shufflevector(t[4 + i], t[12 + i], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
#endif
}
/// out(j, i) = in(i, j) for a 16 x 16 block.
template <class W>
void transpose_block(const W* in, index_t in_stride, W* out, index_t out_stride) {
  if constexpr (sizeof(W) == 4) {
    Words16 r[16];
    for (int i = 0; i < 16; ++i) r[i] = *reinterpret_cast<const Words16*>(in + i * in_stride);
    transpose16(r);
    for (int i = 0; i < 16; ++i) *reinterpret_cast<Words16*>(out + i * out_stride) = r[i];
  } else {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) out[j * out_stride + i] = in[i * in_stride + j];
  }
}

#if SPARSEMOE_HAS_AVX512
/// Masks nothing: g++ warns of the plain intrinsics' undefined operand.
inline constexpr __mmask16 every_lane = 0xffff;

/// Row r of columns [j, j + 16).
inline __m512 int8_words(const Int8Matrix& b, index_t r, index_t j) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b.data + r * b.stride + j));
  return _mm512_mul_ps(_mm512_loadu_ps(b.scale + j),
                       _mm512_maskz_cvtepi32_ps(every_lane, _mm512_maskz_cvtepi8_epi32(every_lane, bytes)));
}
#endif

/// How one k-slice of a product is held while it is multiplied: in the accumulator type (Wide), or as bf16 pairs. S is
/// the type the model computes with; b may lie in any form that gives S (weight_form.hpp).
template <class S, class C>
struct Wide {
  using word = C;
  using vector = typename Vector<C>::type;
  static constexpr index_t step = 1;  // k per word
  static C convert(const S& x) { return static_cast<C>(x); }
  /// True where a word of b is what b holds.
  template <class B>
  static constexpr bool direct = std::is_same_v<S, C> &&
                                 (std::is_same_v<B, Matrix<const C>> || std::is_same_v<B, Matrix<const Unaligned<C>>>);
  /// panel (k, width): columns [j, j + n) of op(b), zero beyond n.
  template <class B>
  static void pack_b(Op op, const B& b, index_t p0, index_t k, index_t j, index_t n, index_t width, C* out) {
    if (op == Op::none) {
      for (index_t p = 0; p < k; ++p) {
        const B row = b.slice_rows(p0 + p, 1).slice_cols(j, n);
        C* o = out + p * width;
        SPARSEMOE_SIMD
        for (index_t i = 0; i < n; ++i) o[i] = convert(form_value<S>(row, 0, i));
        for (index_t i = n; i < width; ++i) o[i] = C(0);
      }
      return;
    }
    index_t i = 0;
    if constexpr (std::is_same_v<S, C> && std::is_same_v<B, Matrix<const S>>)
      for (; i + 16 <= n; i += 16) {
        index_t p = 0;
        for (; p + 16 <= k; p += 16)
          transpose_block(b.data + (j + i) * b.stride + p0 + p, b.stride, out + p * width + i, width);
        for (; p < k; ++p)
          for (index_t q = i; q < i + 16; ++q) out[p * width + q] = b.data[(j + q) * b.stride + p0 + p];
      }
    for (; i < n; ++i)
      for (index_t p = 0; p < k; ++p) out[p * width + i] = convert(form_value<S>(b, j + i, p0 + p));
    for (; i < width; ++i)
      for (index_t p = 0; p < k; ++p) out[p * width + i] = C(0);
  }
  /// The words of k-step p in columns [j, j + lanes) of b.
  template <class B>
  static vector words(const B& b, index_t p, index_t j) {
    constexpr int lanes = Vector<C>::lanes;
    vector v;
    if constexpr (direct<B>) {
      v = load(b.data + p * b.stride + j);
#if SPARSEMOE_HAS_AVX512
    } else if constexpr (std::is_same_v<S, float> && std::is_same_v<B, Int8Matrix>) {
      v = int8_words(b, p, j);
#endif
    } else {
      const B row = b.slice_rows(p, 1).slice_cols(j, lanes);
      C t[lanes];
      SPARSEMOE_SIMD
      for (int i = 0; i < lanes; ++i) t[i] = convert(form_value<S>(row, 0, i));
      v = load(t);
    }
    return v;
  }
  static vector load(const void* p) { return Vector<C>::load(p); }
  static void store(void* p, const vector& v) { Vector<C>::store(p, v); }
  static bool in_place(Op, index_t) { return std::is_same_v<S, C>; }
  static bool streams(index_t) { return true; }
  /// (m, k) of op(a), row-major.
  static void pack_a(Op op, Matrix<const S> a, index_t p0, index_t k, index_t m, C* out) {
    for (index_t i = 0; i < m; ++i) {
      SPARSEMOE_SIMD
      for (index_t p = 0; p < k; ++p)
        out[i * k + p] = convert(op == Op::none ? a.data[i * a.stride + p0 + p] : a.data[(p0 + p) * a.stride + i]);
    }
  }
  static vector zero() { return vector{}; }
  static vector read(const C* p) { return *reinterpret_cast<const vector*>(p); }
  static void write(C* p, const vector& v) { *reinterpret_cast<vector*>(p) = v; }
};

#if SPARSEMOE_HAS_AVX512_BF16
struct Pairs {
  using word = std::uint32_t;
  using vector = __m512i;
  static constexpr index_t step = 2;
  template <class B>
  static constexpr bool direct = false;
  static std::uint32_t pair(const bf16* p, bool second) {
    return std::uint32_t(p[0].bits) | (second ? std::uint32_t(p[1].bits) << 16 : 0u);
  }
  template <class B>
  static void pack_b(Op op, const B& b, index_t p0, index_t k, index_t j, index_t n, index_t width,
                     std::uint32_t* out) {
    const index_t pairs = (k + 1) / 2;
    const auto bits = [&](index_t r, index_t c) { return std::uint32_t(form_value<bf16>(b, r, c).bits); };
    if (op == Op::none) {
      for (index_t p = 0; p < pairs; ++p) {
        const index_t r0 = p0 + 2 * p, r1 = 2 * p + 1 < k ? r0 + 1 : r0;
        const std::uint32_t mask = r1 != r0 ? 0xffff0000u : 0u;
        std::uint32_t* o = out + p * width;
        SPARSEMOE_SIMD
        for (index_t i = 0; i < n; ++i) o[i] = bits(r0, j + i) | ((bits(r1, j + i) << 16) & mask);
        for (index_t i = n; i < width; ++i) o[i] = 0;
      }
      return;
    }
    index_t i = 0;
    if constexpr (std::is_same_v<B, Matrix<const bf16>>) i = pack_transposed(b, p0, k, j, n, width, out);
    for (; i < n; ++i)
      for (index_t p = 0; p < pairs; ++p) {
        const index_t c = p0 + 2 * p;
        out[p * width + i] = bits(j + i, c) | (2 * p + 1 < k ? bits(j + i, c + 1) << 16 : 0u);
      }
    for (; i < width; ++i)
      for (index_t p = 0; p < pairs; ++p) out[p * width + i] = 0;
  }
  /// The whole blocks of 16 columns of a transposed b; returns how many columns that were.
  static index_t pack_transposed(const Matrix<const bf16>& b, index_t p0, index_t k, index_t j, index_t n,
                                 index_t width, std::uint32_t* out) {
    const index_t pairs = (k + 1) / 2;
    index_t i = 0;
    for (; i + 16 <= n; i += 16) {
      index_t p = 0;
      for (; 2 * p + 32 <= k; p += 16) {
        Words16 r[16];
        for (int q = 0; q < 16; ++q)
          r[q] = *reinterpret_cast<const Words16*>(b.data + (j + i + q) * b.stride + p0 + 2 * p);
        transpose16(r);
        for (int q = 0; q < 16; ++q) *reinterpret_cast<Words16*>(out + (p + q) * width + i) = r[q];
      }
      for (; p < pairs; ++p)
        for (index_t q = i; q < i + 16; ++q)
          out[p * width + q] = pair(b.data + (j + q) * b.stride + p0 + 2 * p, 2 * p + 1 < k);
    }
    return i;
  }
  /// The words of pair p in columns [j, j + 16) of b: two rows, interleaved in registers.
  static __m512i words(const Matrix<const bf16>& b, index_t p, index_t j) {
    const bf16* r = b.data + 2 * p * b.stride + j;
    return interleaved(r, r + b.stride);
  }
  static __m512i words(const Matrix<const Unaligned<bf16>>& b, index_t p, index_t j) {
    const Unaligned<bf16>* r = b.data + 2 * p * b.stride + j;
    return interleaved(r, r + b.stride);
  }
  static __m512i words(const Matrix<const Unaligned<float>>& b, index_t p, index_t j) {
    const Unaligned<float>* r = b.data + 2 * p * b.stride + j;
    return rounded(_mm512_loadu_ps(r), _mm512_loadu_ps(r + b.stride));
  }
  static __m512i words(const Int8Matrix& b, index_t p, index_t j) {
    return rounded(int8_words(b, 2 * p, j), int8_words(b, 2 * p + 1, j));
  }
  static vector load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, const vector& v) { _mm512_storeu_si512(p, v); }
  static bool in_place(Op op, index_t k) { return op == Op::none && k % 2 == 0; }
  static bool streams(index_t k) { return k % 2 == 0; }
  static void pack_a(Op op, Matrix<const bf16> a, index_t p0, index_t k, index_t m, std::uint32_t* out) {
    const index_t pairs = (k + 1) / 2;
    if (op == Op::none) {
      for (index_t i = 0; i < m; ++i)
        for (index_t p = 0; p < pairs; ++p)
          out[i * pairs + p] = pair(a.data + i * a.stride + p0 + 2 * p, 2 * p + 1 < k);
      return;
    }
    // 16 columns at a time keep both the reads (two rows) and the writes (16 rows) within a few cache lines.
    for (index_t i0 = 0; i0 < m; i0 += 16) {
      const index_t n = std::min<index_t>(16, m - i0);
      index_t p = 0;
      if (n == 16)
        for (; 2 * p + 32 <= k; p += 16) {
          Words16 r[16];
          for (int q = 0; q < 16; ++q) {
            const bf16* r0 = a.data + (p0 + 2 * (p + q)) * a.stride + i0;
            for (int x = 0; x < 16; ++x)
              r[q][x] = std::uint32_t(r0[x].bits) | std::uint32_t(r0[a.stride + x].bits) << 16;
          }
          transpose16(r);
          for (int q = 0; q < 16; ++q) *reinterpret_cast<Words16*>(out + (i0 + q) * pairs + p) = r[q];
        }
      for (; p < pairs; ++p)
        for (index_t q = 0; q < n; ++q) {
          const bf16* r0 = a.data + (p0 + 2 * p) * a.stride + i0 + q;
          const std::uint32_t second = 2 * p + 1 < k ? std::uint32_t(r0[a.stride].bits) << 16 : 0u;
          out[(i0 + q) * pairs + p] = std::uint32_t(r0->bits) | second;
        }
    }
  }
  static __m512 zero() { return _mm512_setzero_ps(); }
  static __m512 read(const float* p) { return _mm512_loadu_ps(p); }
  static void write(float* p, __m512 v) { _mm512_storeu_ps(p, v); }

 private:
  static __m512i interleaved(const void* low, const void* high) {
    const auto wide = [](const void* p) {
      return _mm512_maskz_cvtepu16_epi32(every_lane, _mm256_loadu_si256(static_cast<const __m256i*>(p)));
    };
    return _mm512_or_si512(wide(low), _mm512_maskz_slli_epi32(every_lane, wide(high), 16));
  }
  /// Two rows of float to bf16, nearest even, and interleaved. The instruction takes subnormals for zero, as the
  /// product does.
  static __m512i rounded(__m512 low, __m512 high) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);  // 16 of low, then 16 of high
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_maskz_permutexvar_epi16(0xffffffffu, order, both);
  }
};
#endif

template <class S, class C>
struct FormOf {
  using type = Wide<S, C>;
};
#if SPARSEMOE_HAS_AVX512_BF16
template <>
struct FormOf<bf16, float> {
  using type = Pairs;
};
#endif

/// Words of op(b) from a packed panel.
template <class Form>
struct Panel {
  const typename Form::word* data;
  index_t width;
  typename Form::vector operator()(index_t p, index_t j) const { return Form::load(data + p * width + j); }
  void fetch(index_t) const {}
};
/// Words of b from where it lies. While a step is multiplied, the one `ahead` steps later is asked for: the columns of
/// a panel are too short a run for the processor to see what comes next.
template <class Form, class B, int width, int ahead = 0>
struct InPlace {
  B b;  // of `width` columns
  typename Form::vector operator()(index_t p, index_t j) const { return Form::words(b, p, j); }
  void fetch(index_t p) const {
    if constexpr (ahead > 0) {
      constexpr index_t element = sizeof(*b.data), line = 64;
      // An address and no pointer: after the last steps it lies beyond the matrix, where a hint does no harm.
      auto row = reinterpret_cast<std::uintptr_t>(b.data) +
                 static_cast<std::uintptr_t>((p + ahead) * Form::step * b.stride * element);
      for (int r = 0; r < Form::step; ++r, row += static_cast<std::uintptr_t>(b.stride * element))
        for (index_t x = 0; x < width * element; x += line)
          __builtin_prefetch(reinterpret_cast<const void*>(row + static_cast<std::uintptr_t>(x)), 0, 2);
    }
  }
};

}  // namespace native
}  // namespace sparsemoe::inline SPARSEMOE_ABI

// backend/gemm/native.hpp -- our own GEMM for one thread: any of our storage types in, float or double accumulated.
// op(b) is packed some panels at a time, op(a) is broadcast in place, a register tile walks k in one fixed order. So an
// element's bits depend on its row of a and its column of b alone, never on how the product was cut: batch 1 = batch n,
// any thread count, any expert placement. With AVX-512 BF16 two bf16 products are one instruction.
// Read next: backend/cpu.hpp, which cuts products into tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sparsemoe/backend/gemm/gemm.hpp"
#include "sparsemoe/precision.hpp"
#if SPARSEMOE_HAS_AVX512_BF16
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
};

template <class W>
W load(const std::byte* p) {
  W w;
  std::memcpy(&w, p, sizeof(W));
  return w;
}

/// c(R, panel) (+)= a * panel of b, k steps in order. a's strides are in bytes: a row of bf16 pairs may start at an odd
/// element. Rows of b are ldb apart: the panel's width, or more where b is read where it lies.
template <class C, int R>
void micro(index_t k, const std::byte* a, index_t rs, index_t cs, const C* b, index_t ldb, C* c, index_t ldc,
           bool accumulate) {
  using V = typename Vector<C>::type;
  constexpr int lanes = Vector<C>::lanes;
  V acc[R][tile_vectors];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < tile_vectors; ++j)
      acc[i][j] = accumulate ? *reinterpret_cast<const V*>(c + i * ldc + j * lanes) : V{};
  for (index_t p = 0; p < k; ++p) {
    V w[tile_vectors];
    for (int j = 0; j < tile_vectors; ++j) w[j] = *reinterpret_cast<const V*>(b + p * ldb + j * lanes);
    for (int i = 0; i < R; ++i) {
      const C x = load<C>(a + i * rs + p * cs);
      for (int j = 0; j < tile_vectors; ++j) acc[i][j] += x * w[j];
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < tile_vectors; ++j) *reinterpret_cast<V*>(c + i * ldc + j * lanes) = acc[i][j];
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

#if SPARSEMOE_HAS_AVX512_BF16
/// The same for bf16 pairs: a and b hold two consecutive k in 32 bits, k counts pairs.
template <class C, int R>
void micro(index_t k, const std::byte* a, index_t rs, index_t cs, const std::uint32_t* b, index_t ldb, C* c,
           index_t ldc, bool accumulate) {
  static_assert(std::is_same_v<C, float>);
  __m512 acc[R][tile_vectors];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < tile_vectors; ++j)
      acc[i][j] = accumulate ? _mm512_loadu_ps(c + i * ldc + j * 16) : _mm512_setzero_ps();
  for (index_t p = 0; p < k; ++p) {
    __m512bh w[tile_vectors];
    for (int j = 0; j < tile_vectors; ++j) w[j] = (__m512bh)_mm512_loadu_si512(b + p * ldb + j * 16);
    for (int i = 0; i < R; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(load<std::int32_t>(a + i * rs + p * cs));
      for (int j = 0; j < tile_vectors; ++j) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, w[j]);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < tile_vectors; ++j) _mm512_storeu_ps(c + i * ldc + j * 16, acc[i][j]);
}

#endif

/// How one k-slice of a product is held while it is multiplied: in the accumulator type (Wide), or as bf16 pairs.
template <class S, class C>
struct Wide {
  using word = C;
  static constexpr index_t step = 1;  // k per word
  static C convert(const S& x) { return static_cast<C>(x); }
  /// panel (k, width): columns [j, j + n) of op(b), zero beyond n.
  static void pack_b(Op op, Matrix<const S> b, index_t p0, index_t k, index_t j, index_t n, index_t width, C* out) {
    if (op == Op::none) {
      for (index_t p = 0; p < k; ++p) {
        const S* row = b.data + (p0 + p) * b.stride + j;
        C* o = out + p * width;
        SPARSEMOE_SIMD
        for (index_t i = 0; i < n; ++i) o[i] = convert(row[i]);
        for (index_t i = n; i < width; ++i) o[i] = C(0);
      }
      return;
    }
    index_t i = 0;
    if constexpr (std::is_same_v<S, C>)
      for (; i + 16 <= n; i += 16) {
        index_t p = 0;
        for (; p + 16 <= k; p += 16)
          transpose_block(b.data + (j + i) * b.stride + p0 + p, b.stride, out + p * width + i, width);
        for (; p < k; ++p)
          for (index_t q = i; q < i + 16; ++q) out[p * width + q] = b.data[(j + q) * b.stride + p0 + p];
      }
    for (; i < n; ++i)
      for (index_t p = 0; p < k; ++p) out[p * width + i] = convert(b.data[(j + i) * b.stride + p0 + p]);
    for (; i < width; ++i)
      for (index_t p = 0; p < k; ++p) out[p * width + i] = C(0);
  }
  static bool in_place(Op, index_t) { return std::is_same_v<S, C>; }
  static bool b_in_place(Op op) { return std::is_same_v<S, C> && op == Op::none; }
  /// (m, k) of op(a), row-major.
  static void pack_a(Op op, Matrix<const S> a, index_t p0, index_t k, index_t m, C* out) {
    for (index_t i = 0; i < m; ++i) {
      SPARSEMOE_SIMD
      for (index_t p = 0; p < k; ++p)
        out[i * k + p] = convert(op == Op::none ? a.data[i * a.stride + p0 + p] : a.data[(p0 + p) * a.stride + i]);
    }
  }
};

#if SPARSEMOE_HAS_AVX512_BF16
struct Pairs {
  using word = std::uint32_t;
  static constexpr index_t step = 2;
  static std::uint32_t pair(const bf16* p, bool second) {
    return std::uint32_t(p[0].bits) | (second ? std::uint32_t(p[1].bits) << 16 : 0u);
  }
  static void pack_b(Op op, Matrix<const bf16> b, index_t p0, index_t k, index_t j, index_t n, index_t width,
                     std::uint32_t* out) {
    const index_t pairs = (k + 1) / 2;
    if (op == Op::none) {
      for (index_t p = 0; p < pairs; ++p) {
        const bf16* r0 = b.data + (p0 + 2 * p) * b.stride + j;
        const bool two = 2 * p + 1 < k;
        const bf16* r1 = two ? r0 + b.stride : r0;
        const std::uint32_t mask = two ? 0xffff0000u : 0u;
        std::uint32_t* o = out + p * width;
        SPARSEMOE_SIMD
        for (index_t i = 0; i < n; ++i) o[i] = std::uint32_t(r0[i].bits) | ((std::uint32_t(r1[i].bits) << 16) & mask);
        for (index_t i = n; i < width; ++i) o[i] = 0;
      }
      return;
    }
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
    for (; i < n; ++i)
      for (index_t p = 0; p < pairs; ++p)
        out[p * width + i] = pair(b.data + (j + i) * b.stride + p0 + 2 * p, 2 * p + 1 < k);
    for (; i < width; ++i)
      for (index_t p = 0; p < pairs; ++p) out[p * width + i] = 0;
  }
  static bool in_place(Op op, index_t k) { return op == Op::none && k % 2 == 0; }
  static bool b_in_place(Op) { return false; }
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

template <class C, class W>
void micro_rows(index_t rows, index_t k, const std::byte* a, index_t rs, index_t cs, const W* b, index_t ldb, C* c,
                index_t ldc, bool acc) {
  static_assert(tile_rows <= 8);
  switch (rows) {
    case 1: return micro<C, 1>(k, a, rs, cs, b, ldb, c, ldc, acc);
    case 2: return micro<C, 2>(k, a, rs, cs, b, ldb, c, ldc, acc);
    case 3: return micro<C, 3>(k, a, rs, cs, b, ldb, c, ldc, acc);
    case 4: return micro<C, 4>(k, a, rs, cs, b, ldb, c, ldc, acc);
    case 5: return micro<C, 5>(k, a, rs, cs, b, ldb, c, ldc, acc);
    case 6: return micro<C, 6>(k, a, rs, cs, b, ldb, c, ldc, acc);
    case 7: return micro<C, 7>(k, a, rs, cs, b, ldb, c, ldc, acc);
    default: return micro<C, 8>(k, a, rs, cs, b, ldb, c, ldc, acc);
  }
}

}  // namespace native

struct NativeGemm {
  static constexpr const char* name = "native";
  static constexpr bool row_invariant = true;

  /// One product on the calling thread. TA = TB (or one may be the accumulator type); accumulates in double if any
  /// type is double, in float otherwise.
  template <class TA, class TB, class TC>
  static void run(const Product<TA, TB, TC>& q, Scratch& scratch) {
    static_assert(std::is_same_v<TA, TB>, "native gemm: give both operands the same storage type");
    using C = std::conditional_t<std::is_same_v<TA, double>, double, float>;
    using Form = typename native::FormOf<TA, C>::type;
    using Word = typename Form::word;
    constexpr index_t width = native::Vector<C>::lanes * native::tile_vectors, slice = 384 * Form::step;
    const index_t m = q.m(), n = q.n(), k = q.k();
    if (m == 0 || n == 0) return;

    const index_t k_words = (k + Form::step - 1) / Form::step,
                  words = (std::min(slice, k) + Form::step - 1) / Form::step;
    const bool in_place = Form::in_place(q.op_a, k), one_slice = k <= slice;
    // Rows whose part of a stays in the second-level cache while every panel of b passes; a packed copy is kept
    // smaller.
    const index_t packed_rows = std::max<index_t>(64, (index_t(1) << 17) / std::max<index_t>(1, k_words) / 8 * 8);
    const index_t block = std::min<index_t>(m, in_place ? 1024 : packed_rows);
    // Panels packed together: as many as a quarter of that cache holds, so that c is written in long runs.
    constexpr index_t room = index_t(1) << 18;
    index_t panels =
        std::min((n + width - 1) / width, room / std::max<index_t>(1, words * width * index_t(sizeof(Word))));
    if (!one_slice) panels = std::min(panels, room / (block * width * index_t(sizeof(C))));  // c passes once a slice
    panels = std::max<index_t>(1, panels);
    const index_t panel = words * width;
    const std::size_t panel_bytes = align(sizeof(Word) * static_cast<std::size_t>(panel * panels));
    const std::size_t a_bytes = in_place ? 0 : align(sizeof(Word) * static_cast<std::size_t>(k_words * block));
    const index_t held = one_slice ? index_t(native::tile_rows) : block * panels;  // rows of sums not yet in c
    auto* base = static_cast<std::byte*>(
        scratch.get(panel_bytes + a_bytes + sizeof(C) * static_cast<std::size_t>(held * width)));
    auto* packed_b = reinterpret_cast<Word*>(base);
    auto* packed_a = reinterpret_cast<Word*>(base + panel_bytes);
    auto* sums = reinterpret_cast<C*>(base + panel_bytes + a_bytes);
    // b is read once where it lies if one tile has all rows of a.
    const bool b_in_place = m <= native::tile_rows && Form::b_in_place(q.op_b);
    // Sums start from c itself where they have its type.
    const bool from_c = std::is_same_v<TC, C> && q.alpha == 1 && q.accumulate;

    for (index_t i0 = 0; i0 < m; i0 += block) {
      const index_t rows = std::min(block, m - i0);
      const Matrix<const TA> a = q.op_a == Op::none ? q.a.slice_rows(i0, rows) : q.a.slice_cols(i0, rows);
      // Where op(a) starts and how far apart, in bytes, its rows and its words are.
      const auto* left = reinterpret_cast<const std::byte*>(a.data);
      const bool plain = q.op_a == Op::none;
      index_t rs = (plain ? a.stride : 1) * index_t(sizeof(TA)),
              cs = plain ? index_t(sizeof(Word)) : a.stride * index_t(sizeof(TA));
      if (!in_place) {
        Form::pack_a(q.op_a, a, 0, k, rows, packed_a);
        left = reinterpret_cast<const std::byte*>(packed_a);
        rs = k_words * index_t(sizeof(Word));
        cs = sizeof(Word);
      }
      for (index_t j0 = 0; j0 < n; j0 += panels * width) {
        const index_t last = std::min(n, j0 + panels * width);
        for (index_t p0 = 0; p0 < k || p0 == 0; p0 += slice) {
          const index_t kc = std::min(slice, k - p0), kw = (kc + Form::step - 1) / Form::step;
          for (index_t j = j0; j < last; j += width)
            if (!b_in_place || n - j < width)
              Form::pack_b(q.op_b, q.b, p0, kc, j, std::min(width, n - j), width, packed_b + (j - j0) / width * panel);
          const std::byte* from = left + p0 / Form::step * cs;
          for (index_t i = 0; i < rows; i += native::tile_rows)
            for (index_t j = j0; j < last; j += width) {
              const index_t cols = std::min(width, n - j), tall = std::min<index_t>(native::tile_rows, rows - i);
              const Matrix<TC> c = q.c.slice_rows(i0 + i, tall).slice_cols(j, cols);
              // A whole panel of c in the accumulator's type is summed in place; anything else in `sums` first.
              const bool direct = std::is_same_v<TC, C> && q.alpha == 1 && cols == width && (from_c || !q.accumulate);
              C* out = one_slice ? sums : sums + ((j - j0) / width * block + i) * width;
              index_t ld = width;
              if constexpr (std::is_same_v<TC, C>) {
                if (direct)
                  out = c.data, ld = c.stride;
                else if (from_c && p0 == 0)
                  for (index_t r = 0; r < tall; ++r)
                    for (index_t x = 0; x < width; ++x) out[r * width + x] = x < cols ? c(r, x) : C(0);
              }
              const Word* right = packed_b + (j - j0) / width * panel;
              index_t ldb = width;
              if constexpr (std::is_same_v<Word, TB>)
                if (b_in_place && cols == width) right = q.b.data + p0 * q.b.stride + j, ldb = q.b.stride;
              native::micro_rows(tall, kw, from + i * rs, rs, cs, right, ldb, out, ld, p0 > 0 || from_c);
              if (!direct && p0 + slice >= k) put(q, out, c, !from_c && q.accumulate);
            }
        }
      }
    }
  }

 private:
  /// c = alpha * sums (+ c), rounded. Rows of sums are a panel apart.
  template <class P, class C, class TC>
  static void put(const P& q, const C* sums, Matrix<TC> c, bool add) {
    constexpr index_t width = native::Vector<C>::lanes * native::tile_vectors;
    const C alpha = static_cast<C>(q.alpha);
    for (index_t i = 0; i < c.rows; ++i) {
      const C* s = sums + i * width;
      TC* o = c.data + i * c.stride;
      if (add) {
        SPARSEMOE_SIMD
        for (index_t x = 0; x < c.cols; ++x) o[x] = TC(C(o[x]) + alpha * s[x]);
      } else {
        SPARSEMOE_SIMD
        for (index_t x = 0; x < c.cols; ++x) o[x] = TC(alpha * s[x]);
      }
    }
  }
  static std::size_t align(std::size_t n) { return (n + 63) / 64 * 64; }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// backend/gemm/native.hpp -- our own GEMM for one thread: any of our storage types in, float or double accumulated.
// op(b) is packed some panels at a time, op(a) is broadcast in place, a register tile walks k in one fixed order. So an
// element's bits depend on its row of a and its column of b alone, never on how the product was cut: batch 1 = batch n,
// any thread count, any expert placement. With AVX-512 BF16 two bf16 products are one instruction.
// Read next: backend/gemm/forms.hpp; backend/cpu.hpp, which cuts products into tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "sparsemoe/backend/gemm/forms.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {
namespace native {

/// acc += x w, for one word of a and a vector of words of b. Of the host alone: devices have no such vectors.
template <class S, class C>
inline __attribute__((always_inline)) void multiply_add(const Wide<S, C>&, typename Vector<C>::type& acc, const C& x,
                                                        const typename Vector<C>::type& w) {
  acc += x * w;
}
#if SPARSEMOE_HAS_AVX512_BF16
inline __attribute__((always_inline)) void multiply_add(const Pairs&, __m512& acc, std::uint32_t x, __m512i w) {
  acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(static_cast<int>(x)), (__m512bh)w);
}
#endif

#define SPARSEMOE_ALWAYS __attribute__((always_inline))
/// f(0) .. f(n - 1), each with a constant: arrays indexed so live in registers at -O2 too, where g++ keeps short loops
/// and makes calls of memcpy of those that only move.
template <int n, class F>
inline SPARSEMOE_ALWAYS void unrolled(const F& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) SPARSEMOE_ALWAYS { (f(i), ...); }
  (std::make_integer_sequence<int, n>{});
}

/// c(R, panel) (+)= a * panel of b, k words in order. a's strides are in bytes: a row of bf16 pairs may start at an odd
/// element. b(p, j) are the words of step p from column j of the panel on.
template <class Form, int R, class C, class Words>
void micro(index_t k, const std::byte* a, index_t rs, index_t cs, const Words& b, C* c, index_t ldc, bool accumulate) {
  constexpr int lanes = Vector<C>::lanes;
  decltype(Form::zero()) acc[R][tile_vectors];
  typename Form::vector w[tile_vectors];
  unrolled<R>([&](int i) SPARSEMOE_ALWAYS {
    unrolled<tile_vectors>(
        [&](int j) SPARSEMOE_ALWAYS { acc[i][j] = accumulate ? Form::read(c + i * ldc + j * lanes) : Form::zero(); });
  });
  for (index_t p = 0; p < k; ++p) {
    unrolled<tile_vectors>([&](int j) SPARSEMOE_ALWAYS { w[j] = b(p, j * lanes); });
    b.fetch(p);
    unrolled<R>([&](int i) SPARSEMOE_ALWAYS {
      const auto x = load<typename Form::word>(a + i * rs + p * cs);
      unrolled<tile_vectors>([&](int j) SPARSEMOE_ALWAYS { multiply_add(Form{}, acc[i][j], x, w[j]); });
    });
  }
  unrolled<R>([&](int i) SPARSEMOE_ALWAYS {
    unrolled<tile_vectors>([&](int j) SPARSEMOE_ALWAYS { Form::write(c + i * ldc + j * lanes, acc[i][j]); });
  });
}

template <class Form, class C, class Words>
void micro_rows(index_t rows, index_t k, const std::byte* a, index_t rs, index_t cs, const Words& b, C* c, index_t ldc,
                bool acc) {
  static_assert(tile_rows <= 8);
  switch (rows) {
    case 1: return micro<Form, 1>(k, a, rs, cs, b, c, ldc, acc);
    case 2: return micro<Form, 2>(k, a, rs, cs, b, c, ldc, acc);
    case 3: return micro<Form, 3>(k, a, rs, cs, b, c, ldc, acc);
    case 4: return micro<Form, 4>(k, a, rs, cs, b, c, ldc, acc);
    case 5: return micro<Form, 5>(k, a, rs, cs, b, c, ldc, acc);
    case 6: return micro<Form, 6>(k, a, rs, cs, b, c, ldc, acc);
    case 7: return micro<Form, 7>(k, a, rs, cs, b, c, ldc, acc);
    default: return micro<Form, 8>(k, a, rs, cs, b, c, ldc, acc);
  }
}

}  // namespace native

#undef SPARSEMOE_ALWAYS

struct NativeGemm {
  static constexpr const char* name = "native";
  static constexpr bool row_invariant = true;

  /// Below this many rows a product is bound by reading b, not by arithmetic.
  static constexpr index_t stream_rows = 32;

  /// One product on the calling thread. TB = TA, or a form of weights that gives TA (weight_form.hpp); accumulates in
  /// double if TA is double, in float otherwise.
  template <class TA, class TB, class TC>
  static void run(const Product<TA, TB, TC>& q, Scratch& scratch) {
    static_assert(std::is_same_v<TA, TB> || std::is_same_v<TB, std::int8_t> || std::is_same_v<TB, Unaligned<TA>> ||
                      std::is_same_v<TB, Unaligned<float>>,
                  "native gemm: give both operands the same storage type, or b in a form of weights");
    using C = std::conditional_t<std::is_same_v<TA, double>, double, float>;
    using Form = typename native::FormOf<TA, C>::type;
    constexpr index_t width = native::Vector<C>::lanes * native::tile_vectors;
    if (q.m() == 0 || q.n() == 0) return;
    if (q.op_b == Op::none && q.m() <= stream_rows && q.n() >= width && q.k() > 0 && Form::streams(q.k()))
      stream<Form, C>(q, scratch);
    else
      tiled<Form, C>(q, scratch);
  }

 private:
  /// Many rows: panels of op(b) are packed once and stay in cache while all rows pass.
  template <class Form, class C, class TA, class TB, class TC>
  static void tiled(const Product<TA, TB, TC>& q, Scratch& scratch) {
    using Word = typename Form::word;
    constexpr index_t width = native::Vector<C>::lanes * native::tile_vectors, slice = 384 * Form::step;
    const index_t m = q.m(), n = q.n(), k = q.k();

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
              const native::Panel<Form> right{packed_b + (j - j0) / width * panel, width};
              native::micro_rows<Form>(tall, kw, from + i * rs, rs, cs, right, out, ld, p0 > 0 || from_c);
              if (!direct && p0 + slice >= k) put(q, out, c, !from_c && q.accumulate);
            }
        }
      }
    }
  }

  /// Few rows: b is read once, where it lies, in runs of columns as long as the cache can hold their sums; a few steps
  /// of k at a time, and the next steps are fetched ahead. Each element is summed in the order of tiled().
  template <class Form, class C, class TA, class TB, class TC>
  static void stream(const Product<TA, TB, TC>& q, Scratch& scratch) {
    using Word = typename Form::word;
    using B = typename RightOperand<TB>::type;
    constexpr index_t width = native::Vector<C>::lanes * native::tile_vectors, steps = 32 / Form::step;  // 32 rows of b
    const index_t m = q.m(), n = q.n(), words = q.k() / Form::step;
    const bool in_place = Form::in_place(q.op_a, q.k());
    const bool pack = m > native::tile_rows && !Form::template direct<B>;  // so that a word is made once
    const index_t panels = (n + width - 1) / width;
    const index_t run = std::clamp<index_t>((index_t(1) << 15) / (m * width * index_t(sizeof(C))), 1, panels);
    const std::size_t a_bytes = in_place ? 0 : align(sizeof(Word) * static_cast<std::size_t>(words * m));
    const std::size_t b_bytes = align(sizeof(Word) * static_cast<std::size_t>(steps * width));
    auto* base =
        static_cast<std::byte*>(scratch.get(a_bytes + b_bytes + sizeof(C) * static_cast<std::size_t>(run * m * width)));
    auto* packed_b = reinterpret_cast<Word*>(base + a_bytes);
    auto* sums = reinterpret_cast<C*>(base + a_bytes + b_bytes);  // a panel's rows together
    const auto* left = reinterpret_cast<const std::byte*>(q.a.data);
    const bool plain = q.op_a == Op::none;
    index_t rs = (plain ? q.a.stride : 1) * index_t(sizeof(TA)),
            cs = plain ? index_t(sizeof(Word)) : q.a.stride * index_t(sizeof(TA));
    if (!in_place) {
      Form::pack_a(q.op_a, q.a, 0, q.k(), m, reinterpret_cast<Word*>(base));
      left = base;
      rs = words * index_t(sizeof(Word));
      cs = sizeof(Word);
    }
    const bool from_c = std::is_same_v<TC, C> && q.alpha == 1 && q.accumulate;
    // The last panel is a whole one too: it begins earlier, and the columns it shares are written once.
    const auto start = [&](index_t panel) { return std::min(panel * width, n - width); };

    for (index_t t0 = 0; t0 < panels; t0 += run) {
      const index_t t1 = std::min(panels, t0 + run);
      if constexpr (std::is_same_v<TC, C>)
        if (from_c)
          for (index_t t = t0; t < t1; ++t)
            for (index_t i = 0; i < m; ++i)
              for (index_t x = 0; x < width; ++x) sums[((t - t0) * m + i) * width + x] = q.c(i, start(t) + x);
      for (index_t p0 = 0; p0 < words; p0 += steps) {
        const index_t kw = std::min(steps, words - p0);
        for (index_t t = t0; t < t1; ++t) {
          const index_t j = start(t);
          const B b = q.b.slice_rows(p0 * Form::step, kw * Form::step).slice_cols(j, width);
          C* out = sums + (t - t0) * m * width;
          const native::InPlace<Form, B, width> there{b};
          const native::InPlace<Form, B, width, steps> first{b};
          if (pack)
            for (index_t p = 0; p < kw; ++p, first.fetch(p - 1))
              for (index_t x = 0; x < width; x += native::Vector<C>::lanes)
                Form::store(packed_b + p * width + x, there(p, x));
          for (index_t i = 0; i < m; i += native::tile_rows) {
            const index_t tall = std::min<index_t>(native::tile_rows, m - i);
            const std::byte* from = left + i * rs + p0 * cs;
            const auto multiply = [&](const auto& words_of_b) {
              native::micro_rows<Form>(tall, kw, from, rs, cs, words_of_b, out + i * width, width, p0 > 0 || from_c);
            };
            if (pack)
              multiply(native::Panel<Form>{packed_b, width});
            else if (i == 0)
              multiply(first);
            else
              multiply(there);
          }
        }
      }
      for (index_t t = t0; t < t1; ++t) {
        const index_t j = t * width, cols = std::min(width, n - j);
        put(q, sums + (t - t0) * m * width + (j - start(t)), q.c.slice_cols(j, cols), !from_c && q.accumulate);
      }
    }
  }
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

// SPDX-License-Identifier: Apache-2.0
// The functors, the GEMM providers and the CPU backends against naive loops in double; what must be the same bits; and
// the 16-bit types, the generator and the scalar functions, exhaustively or by known answers. oneDNN: test_onednn.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

// GCC bug 105593: the AVX-512 intrinsics' own undefined vectors are reported as uninitialised where Eigen inlines them.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include "sparsemoe/backend/barrier_team.hpp"
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/backend/gemm/eigen.hpp"
#include "sparsemoe/backend/gemm/library.hpp"
#include "sparsemoe/backend/gemm/native.hpp"
#include "sparsemoe/math.hpp"
#include "tests/backend_body.hpp"

namespace sm = sparsemoe;
using namespace backend_body;

// --------------------------------------------------------------------------------- functors, on every kind of team
TEST_CASE("functors equal naive loops, one lane a row") {
  all_functors<sm::CpuSequential, sm::Fp64>();
  all_functors<sm::CpuSequential, sm::Fp32>();
  all_functors<sm::CpuSequential, sm::Bf16>();
  all_functors<sm::CpuSequential, sm::Fp16>();
}
TEST_CASE("functors equal naive loops, four threads a row") {
  all_functors<sm::Lanes4, sm::Fp64>();
  all_functors<sm::Lanes4, sm::Bf16>();
}
TEST_CASE("functors equal naive loops, rows on several threads") {
  norms<sm::Cpu, sm::Fp32>();
  column_sums<sm::Cpu, sm::Fp32>();
}

TEST_CASE("the verbs move, count, scan and reduce") {
  verbs<sm::CpuSequential>();
  verbs<sm::Cpu>();
  verbs<sm::Lanes4>();
}

namespace {
struct UnsharedSum {  // the planted fault: forgets that a row has several lanes
  index_t cols;
  double* out;
  template <class Team>
  void operator()(Team team, index_t r) const {
    double total = 0;
    for (index_t j = team.lane(); j < cols; j += Team::lanes) total += 1;
    if (team.lane() == 0) out[r] = total;
  }
};
}  // namespace
TEST_CASE("a functor that forgets its team is found by four lanes, not by one") {
  std::vector<double> out(3);
  sm::CpuSequential::Context ctx;
  sm::CpuSequential::for_each_row(ctx, 3, UnsharedSum{8, out.data()});
  CHECK(out == std::vector<double>{8, 8, 8});
  sm::run_row_with_barrier_team(3, UnsharedSum{8, out.data()});
  CHECK(out == std::vector<double>{2, 2, 2});
}
TEST_CASE("expect_close would notice one wrong rounding in the last place but one") {
  const double good = 1.0, off = 1.0 + 3 * 0x1p-24;
  CHECK(std::abs(static_cast<double>(static_cast<float>(off)) - good) > roundoff<float>() * good);
  CHECK(std::abs(static_cast<double>(static_cast<float>(good + 0x1p-25)) - good) <= roundoff<float>() * good);
}

// ------------------------------------------------------------------------------------------------------ products
namespace {
template <class Gemm, class T, class TC>
void provider() {
  CAPTURE(std::string(Gemm::name));
  sm::Scratch scratch;
  products<sm::CpuSequential, T, TC>(
      [&](auto&, sm::Op op_a, sm::Op op_b, double alpha, auto a, auto b, bool accumulate, auto c) {
        Gemm::run(sm::Product<T, T, TC>{op_a, op_b, alpha, a, b, accumulate, c}, scratch);
      });
}
template <class Gemm>
void provider_in_every_type() {
  provider<Gemm, double, double>();
  provider<Gemm, float, float>();
  provider<Gemm, sm::bf16, sm::bf16>();
  provider<Gemm, sm::bf16, float>();
  provider<Gemm, sm::fp16, sm::fp16>();
  provider<Gemm, sm::fp16, float>();
}
}  // namespace
TEST_CASE("native products equal naive loops") { provider_in_every_type<sm::NativeGemm>(); }
TEST_CASE("Eigen products equal naive loops") { provider_in_every_type<sm::EigenGemm>(); }
TEST_CASE("the backends' products equal naive loops: plain, with epilogue, grouped, batched") {
  all_products<sm::Cpu>();
  using WithEigen = sm::CpuBackend<sm::Sequential, sm::EigenGemm>;
  gemm_with_epilogue<WithEigen, float, float>();
  grouped<WithEigen, float>();
  batched<WithEigen, float>();
}
TEST_CASE("an epilogue may also run on whole finished rows, shared by lanes") {
  gemm_with_epilogue<sm::Lanes4, float, float>();
  gemm_with_epilogue<sm::Lanes4, sm::bf16, sm::bf16>();
  grouped<sm::Lanes4, float>();
}

namespace {
template <class T>
void rows_alone_equal_rows_in_a_batch() {
  using C = SumOf<T>;
  sm::Scratch scratch;
  for (const Sizes s : {Sizes{300, 101, 801}, Sizes{29, 7, 50}, Sizes{16, 384, 385}, Sizes{40, 150, 802}})
    for (const auto op_a : {sm::Op::none, sm::Op::transpose})
      for (const auto op_b : {sm::Op::none, sm::Op::transpose}) {
        const auto a = values<T>(s.m * s.k, 51), b = values<T>(s.k * s.n, 52);
        std::vector<C> whole(at(s.m * s.n)), cut(whole), rows(whole);
        const bool ta = op_a == sm::Op::transpose, tb = op_b == sm::Op::transpose;
        const sm::Matrix<const T> ma(a.data(), ta ? s.k : s.m, ta ? s.m : s.k),
            mb(b.data(), tb ? s.n : s.k, tb ? s.k : s.n);
        const auto product = [&](std::vector<C>& c) {
          return sm::Product<T, T, C>{op_a, op_b, 1, ma, mb, false, sm::Matrix<C>(c.data(), s.m, s.n)};
        };
        sm::NativeGemm::run(product(whole), scratch);
        for (index_t i = 0; i < s.m; ++i) sm::NativeGemm::run(product(rows).tile(i, 1, 0, s.n), scratch);
        for (index_t i = 0, r = 1; i < s.m; i += r, r = r * 3 % 13 + 1)
          for (index_t j = 0, w = 5; j < s.n; j += w, w = w * 7 % 61 + 1)
            sm::NativeGemm::run(product(cut).tile(i, std::min(r, s.m - i), j, std::min(w, s.n - j)), scratch);
        CAPTURE(s.m);
        CHECK(same_bits(whole, rows));
        CHECK(same_bits(whole, cut));
      }
}

struct Results {
  std::vector<float> product, grouped, gradient, batch, rows;
};
/// The same work with `threads` threads.
template <class B>
Results with_threads(int threads) {
  typename B::Context ctx(threads);
  const index_t m = 333, n = 207, k = 129;
  Array<B, float> a(ctx, values<float>(m * k, 61)), b(ctx, values<float>(4 * k * n, 62)), c(ctx, m * n), g(ctx, m * n),
      s(ctx, m * m);
  Array<B, float> dw(ctx, std::vector<float>(at(4 * k * n), 0.5f)), norm(ctx, m * n), scale(ctx, m),
      gamma(ctx, values<float>(n, 63));
  Array<B, std::int32_t> offsets(ctx, std::vector<std::int32_t>{0, 100, 100, 331, 333});
  const auto ma = a.matrix(m, k).as_const();
  B::gemm(ctx, sm::Op::none, sm::Op::none, 1, ma, b.matrix(k, n).as_const(), false, c.matrix(m, n));
  B::grouped_gemm(ctx, sm::Op::none, ma, sm::Tensor<const float>{b.data(), 4, k, n, 3}, offsets.data(), g.matrix(m, n));
  B::grouped_gemm_transposed(ctx, ma, c.matrix(m, n).as_const(), offsets.data(),
                             sm::Tensor<float>{dw.data(), 4, k, n, 3});
  B::batched_gemm(
      ctx, sm::Op::none, sm::Op::transpose, 1, 3, 3, 111, 111, 43, sm::BatchOf<const float>{a.data(), k, 111 * k, 43},
      sm::BatchOf<const float>{a.data(), k, 111 * k, 43}, sm::BatchOf<float>{s.data(), 333, 111 * 333, 111});
  B::for_each_row(
      ctx, m, sm::RmsNormRow<sm::Fp32>{c.matrix(m, n).as_const(), gamma.data(), 1e-6f, norm.matrix(m, n), scale.data()},
      n);
  return {c.read(), g.read(), dw.read(), s.read(), norm.read()};
}
template <class B>
void every_thread_count_gives_the_same_bits() {
  CAPTURE(std::string(B::Provider::name));
  const Results one = with_threads<B>(1);
  for (const int threads : {1, 2, 4}) {
    const Results now = with_threads<B>(threads);
    CAPTURE(threads);
    CHECK(same_bits(one.product, now.product));
    CHECK(same_bits(one.grouped, now.grouped));
    CHECK(same_bits(one.gradient, now.gradient));
    CHECK(same_bits(one.batch, now.batch));
    CHECK(same_bits(one.rows, now.rows));
  }
}
}  // namespace
TEST_CASE("a row alone has the bits of a row in a batch, and tiles those of the whole (native)") {
  rows_alone_equal_rows_in_a_batch<double>();
  rows_alone_equal_rows_in_a_batch<float>();
  rows_alone_equal_rows_in_a_batch<sm::bf16>();
  rows_alone_equal_rows_in_a_batch<sm::fp16>();
}
TEST_CASE("1, 2 and 4 threads give the same bits") {
  every_thread_count_gives_the_same_bits<sm::Cpu>();
  every_thread_count_gives_the_same_bits<sm::CpuBackend<sm::OpenMp, sm::EigenGemm>>();
}

// --------------------------------------------- what the CUDA backend is made of, as far as it is plain arithmetic
namespace {
/// What a column-major library would compute from the description, in double.
template <class T, class TC>
void run_column_major(const sm::ColumnMajorProduct& p, double alpha, bool accumulate, TC* c) {
  const auto element = [](const sm::ColumnMajorOperand& x, index_t item, index_t r, index_t j) {
    const index_t row = x.transposed ? j : r, col = x.transposed ? r : j;
    if (row >= x.rows || col >= x.cols) FAIL("outside the operand");
    return static_cast<double>(static_cast<const T*>(x.data)[item * x.step + col * x.ld + row]);
  };
  REQUIRE(p.out.rows == p.m);
  REQUIRE(p.out.cols == p.n);
  for (index_t item = 0; item < p.count; ++item)
    for (index_t i = 0; i < p.m; ++i)
      for (index_t j = 0; j < p.n; ++j) {
        double total = 0;
        for (index_t q = 0; q < p.k; ++q) total += element(p.first, item, i, q) * element(p.second, item, q, j);
        TC& out = c[item * p.out.step + j * p.out.ld + i];
        out = TC(alpha * total + (accumulate ? static_cast<double>(out) : 0.0));
      }
}
}  // namespace
TEST_CASE("a row-major product is a column-major one with its operands changed over") {
  products<sm::CpuSequential, double, double>(
      [](auto&, sm::Op op_a, sm::Op op_b, double alpha, auto a, auto b, bool accumulate, auto c) {
        const sm::Product<double, double, double> q{op_a, op_b, alpha, a, b, accumulate, c};
        run_column_major<double>(sm::column_major(q), alpha, accumulate, c.data);
      });
}
TEST_CASE("the plain product equals naive loops, in every type and with no terms at all") {
  const auto plain = [](auto& ctx, sm::Op op_a, sm::Op op_b, double alpha, auto a, auto b, bool accumulate, auto c) {
    using TA = std::remove_const_t<std::remove_pointer_t<decltype(a.data)>>;
    using TC = std::remove_pointer_t<decltype(c.data)>;
    const sm::PlainProduct<TA, TA, TC> f({op_a, op_b, alpha, a, b, accumulate, c}, {});
    sm::CpuSequential::for_each_index(ctx, f.size(), f);
  };
  products<sm::CpuSequential, double, double>(plain);
  products<sm::CpuSequential, sm::bf16, sm::bf16>(plain);
  products<sm::CpuSequential, sm::fp16, float>(plain);
}
TEST_CASE("batches step through every operand, and alignment counts every item") {
  const index_t m = 3, n = 5, k = 7, count = 4;
  const auto a = values<double>(count * m * k, 71), b = values<double>(k * n, 72);
  std::vector<double> c(at(count * m * n)), d(c);
  const sm::Product<double, double, double> q{sm::Op::none, sm::Op::none,    1, {a.data(), m, k}, {b.data(), k, n},
                                              false,        {c.data(), m, n}};
  const sm::BatchSteps steps{count, m * k, 0, m * n};  // one b for all
  run_column_major<double>(sm::column_major(q, steps), 1, false, c.data());
  sm::CpuSequential::Context ctx;
  auto other = q;
  other.c.data = d.data();
  const sm::PlainProduct<double, double, double> f(other, steps);
  sm::CpuSequential::for_each_index(ctx, f.size(), f);
  for (std::size_t i = 0; i < c.size(); ++i) CHECK(std::abs(c[i] - d[i]) <= 20 * 0x1p-53);

  alignas(256) static sm::bf16 room[1024];
  const auto alignment = [&](index_t first, index_t step, index_t items) {
    const sm::Matrix<const sm::bf16> x(room + first, 2, 8);
    return sm::column_major(
               sm::Product<sm::bf16, sm::bf16, sm::bf16>{sm::Op::none, sm::Op::none, 1, x, x, false, {room, 2, 2}},
               {items, step, step, 0})
        .first.alignment;
  };
  CHECK(alignment(0, 0, 1) == 256);
  CHECK(alignment(1, 0, 1) == 2);
  CHECK(alignment(8, 0, 1) == 16);
  CHECK(alignment(8, 3, 1) == 16);  // one item: its step says nothing
  CHECK(alignment(8, 4, 2) == 8);
  CHECK(alignment(0, 256, 3) == 256);
}

// --------------------------------------------------------------------------------------------------- 16-bit types
namespace {
template <class T>
bool is_nan_bits(std::uint16_t bits) {
  return std::is_same_v<T, sm::bf16> ? (bits & 0x7fff) > 0x7f80 : (bits & 0x7fff) > 0x7c00;
}
template <class T>
T from_bits(std::uint16_t bits) {
  T t;
  t.bits = bits;
  return t;
}
template <class T>
void conversions(std::uint16_t infinity) {
  std::size_t lost = 0, rounded_wrong = 0, not_nan = 0;
  for (std::uint32_t b = 0; b < 65536; ++b) {
    const auto bits = static_cast<std::uint16_t>(b);
    const T x = from_bits<T>(bits);
    const float f = static_cast<float>(x);
    if (is_nan_bits<T>(bits)) {
      not_nan += !std::isnan(f) || !is_nan_bits<T>(T(f).bits) || !is_nan_bits<T>(T(std::nan("")).bits);
      continue;
    }
    lost += T(f).bits != bits || T(static_cast<double>(x)).bits != bits;
  }
  for (std::uint16_t bits = 0; bits < infinity; ++bits) {
    const double low = static_cast<float>(from_bits<T>(bits));
    // Beyond the largest finite number the grid goes on, and rounds to infinity.
    const double high =
        bits + 1 < infinity
            ? static_cast<double>(static_cast<float>(from_bits<T>(static_cast<std::uint16_t>(bits + 1))))
            : 2 * low - static_cast<float>(from_bits<T>(static_cast<std::uint16_t>(bits - 1)));
    const auto middle = static_cast<float>((low + high) / 2);
    if (static_cast<double>(middle) != (low + high) / 2) continue;  // between the two smallest floats
    const auto up = static_cast<std::uint16_t>(bits + 1), even = bits % 2 == 0 ? bits : up;
    for (const float sign : {1.0f, -1.0f}) {
      const auto s = static_cast<std::uint16_t>(sign < 0 ? 0x8000 : 0);
      rounded_wrong += T(sign * middle).bits != (even | s);
      rounded_wrong += T(sign * std::nextafter(middle, 0.0f)).bits != (bits | s);
      rounded_wrong += T(sign * std::nextafter(middle, std::numeric_limits<float>::infinity())).bits != (up | s);
    }
  }
  CHECK(lost == 0);
  CHECK(not_nan == 0);
  CHECK(rounded_wrong == 0);
  CHECK(T(std::numeric_limits<float>::infinity()).bits == infinity);
  CHECK(T(std::numeric_limits<float>::max()).bits == infinity);
  CHECK(T(0.0f).bits == 0);
  CHECK(T(-0.0f).bits == 0x8000);
}
}  // namespace
TEST_CASE("every bf16 and fp16 survives the way to float and back, and floats round to nearest even") {
  conversions<sm::bf16>(0x7f80);
  conversions<sm::fp16>(0x7c00);
  CHECK(static_cast<float>(from_bits<sm::fp16>(1)) == 0x1p-24f);
  CHECK(static_cast<float>(from_bits<sm::fp16>(0x3c01)) == 1.0f + 0x1p-10f);
  CHECK(static_cast<float>(from_bits<sm::bf16>(0x3f81)) == 1.0f + 0x1p-7f);
}

// ------------------------------------------------------------------------------------------------- random, scalars
TEST_CASE("the generator gives the known answers of Philox4x32-10") {
  // Random123's kat_vectors: counter = (index, step, layer and purpose), key = seed.
  const auto is = [](const sm::Draw4& d, std::vector<std::uint32_t> want) {
    return std::vector<std::uint32_t>(d.v, d.v + 4) == want;
  };
  CHECK(is(sm::Random{0, 0, 0}.draw4(sm::Purpose{0}, 0), {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  CHECK(is(sm::Random{~0ull, ~0u, 0x0fffffffu}.draw4(sm::Purpose{15}, ~0ull),
           {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  CHECK(is(sm::Random{0x299f31d0a4093822ull, 0x13198a2eu, 0x0370734u}.draw4(sm::Purpose{4}, 0x85a308d3243f6a88ull),
           {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
  // Steps do not wrap: none of 2^32 and more draws what an earlier one drew.
  const auto word = [](std::uint64_t step) { return sm::Random{7, step, 3}.draw4(sm::Purpose{4}, 5).v[0]; };
  CHECK(word(0x1'0000'0000) != word(0));
  CHECK(word(0x1'0000'0005) != word(5));
  CHECK(word(0x2'0000'0005) != word(0x1'0000'0005));
  CHECK(sm::to_unit(0xffffffffu) < 1.0f);
  CHECK(sm::to_unit(0u) == 0.0f);
}
TEST_CASE("random numbers have their mean, deviation and bounds") {
  const sm::Random random{3};
  const std::uint64_t n = 20000;
  double sum = 0, square = 0, cut_square = 0, cut_top = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double z = random.normal(sm::Purpose::test, i), t = random.truncated_normal(sm::Purpose::init, i);
    sum += z, square += z * z, cut_square += t * t, cut_top = std::max(cut_top, std::abs(t));
  }
  const double count = static_cast<double>(n);
  CHECK(std::abs(sum / count) < 4 / std::sqrt(count));
  CHECK(std::abs(square / count - 1) < 4 * std::sqrt(2 / count));
  CHECK(std::abs(cut_square / count - 1) < 4 * std::sqrt(2 / count));
  CHECK(cut_top <= 2 / 0.8796);
}
TEST_CASE("exp and tanh of float are a few units in the last place from the truth") {
  double worst_exp = 0, worst_tanh = 0, worst_small = 0;
  for (std::int64_t i = 0; i <= 4000000; ++i) {
    const auto x = static_cast<float>(-104.0 + 4.81e-5 * static_cast<double>(i));  // to 88.4
    const double truth = std::exp(static_cast<double>(x)), got = sm::math::exp(x);
    if (truth >= 0x1p-126)
      worst_exp = std::max(worst_exp, std::abs(got - truth) / (truth * 0x1p-23));
    else
      worst_small = std::max(worst_small, std::abs(got - truth) / 0x1p-149);
    const auto y = static_cast<float>(-10.0 + 5e-6 * static_cast<double>(i) + 1e-7);
    const double t = std::tanh(static_cast<double>(y));
    worst_tanh = std::max(worst_tanh, std::abs(static_cast<double>(sm::math::tanh(y)) - t) / (std::abs(t) * 0x1p-23));
  }
  MESSAGE("worst error of exp: " << worst_exp << " ulp, below 2^-126: " << worst_small
                                 << " steps; of tanh: " << worst_tanh << " ulp");
  CHECK(worst_exp < 2);
  CHECK(worst_small < 1.5);  // exp is 0 below -103, where the truth is 1.33 steps
  CHECK(worst_tanh < 16);
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(sm::math::exp(0.0f) == 1.0f);
  CHECK(sm::math::exp(-infinity) == 0.0f);
  CHECK(sm::math::exp(-1e30f) == 0.0f);
  CHECK(sm::math::exp(infinity) == infinity);
  CHECK(sm::math::exp(89.0f) == infinity);
  CHECK(std::isnan(sm::math::exp(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::isnan(sm::math::tanh(std::numeric_limits<float>::quiet_NaN())));
  CHECK(sm::math::tanh(0.0f) == 0.0f);
  CHECK(sm::math::tanh(infinity) == 1.0f);
  CHECK(sm::math::tanh(-20.0f) == -1.0f);
}

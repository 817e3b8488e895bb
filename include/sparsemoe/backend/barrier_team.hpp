// SPDX-License-Identifier: Apache-2.0
// backend/barrier_team.hpp -- a team of real threads that share a row: how a warp's strided, reducing form of a functor
// runs, and is watched by ThreadSanitizer, on a CPU. For tests; Lanes4 is the CPU backend with such a team.
// A functor that lets one lane read what another writes without a reduction in between is a race here as on a GPU.
// Read next: team.hpp, tests/backend_body.hpp.
#pragma once

#include <array>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/backend/gemm/library.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What the lanes of one team have in common.
template <int Lanes>
struct TeamRoom {
  std::barrier<> barrier{Lanes};
  std::array<std::array<std::byte, 16>, Lanes> slots;
};

/// One lane's handle. A reduction gives every lane the same bits: values are combined in lane order.
template <int Lanes>
class BarrierTeam {
 public:
  static constexpr int lanes = Lanes;
  BarrierTeam(TeamRoom<Lanes>& room, int lane) : room_(&room), lane_(lane) {}

  int lane() const { return lane_; }
  template <class T>
  T sum(T v) const {
    return reduce(v, [](T a, T b) { return static_cast<T>(a + b); });
  }
  template <class T>
  T max(T v) const {
    return reduce(v, [](T a, T b) { return b > a ? b : a; });
  }

 private:
  template <class T, class Combine>
  T reduce(T v, const Combine& combine) const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
    std::memcpy(room_->slots[static_cast<std::size_t>(lane_)].data(), &v, sizeof(T));
    room_->barrier.arrive_and_wait();
    T total{}, next{};
    std::memcpy(&total, room_->slots[0].data(), sizeof(T));
    for (std::size_t i = 1; i < Lanes; ++i) {
      std::memcpy(&next, room_->slots[i].data(), sizeof(T));
      total = combine(total, next);
    }
    room_->barrier.arrive_and_wait();  // nobody may write the next value before all have read this one
    return total;
  }

  TeamRoom<Lanes>* room_;
  int lane_;
};

/// f(team, r) for r in [0, rows) by one team of four threads. The lanes drift apart between rows, as warps may.
template <class F>
void run_row_with_barrier_team(index_t rows, const F& f) {
  TeamRoom<4> room;
  std::array<std::thread, 4> threads;
  for (int lane = 0; lane < 4; ++lane)
    threads[static_cast<std::size_t>(lane)] = std::thread([&room, &f, rows, lane] {
      const BarrierTeam<4> team(room, lane);
      for (index_t r = 0; r < rows; ++r) f(team, r);
    });
  for (auto& t : threads) t.join();
}

/// The sequential CPU backend with the GPU's shape: rows by a team of four, epilogues as row functors of their own.
struct Lanes4 : CpuSequential {
  static constexpr const char* name = "lanes4";

  template <class F>
  static void for_each_row(Context&, index_t rows, const F& f, index_t = 256) {
    run_row_with_barrier_team(rows, f);
  }
  template <class TA, class TB, class TC, class Epilogue = NoEpilogue>
  static void gemm(Context& ctx, Op op_a, Op op_b, double alpha, Matrix<const TA> a, Matrix<const TB> b,
                   bool accumulate, Matrix<TC> c, const Epilogue& epilogue = {}) {
    CpuSequential::gemm(ctx, op_a, op_b, alpha, a, b, accumulate, c);
    finish(ctx, 0, c.rows, c.cols, epilogue);
  }
  template <class TA, class TB, class TC, class Epilogue = NoEpilogue>
  static void grouped_gemm(Context& ctx, Op op_b, Matrix<const TA> a, Tensor<const TB> b, const std::int32_t* offsets,
                           Matrix<TC> c, const Epilogue& epilogue = {}) {
    CpuSequential::grouped_gemm(ctx, op_b, a, b, offsets, c);
    if (b.batch > 0) finish(ctx, offsets[0], offsets[b.batch] - offsets[0], c.cols, epilogue);
  }

 private:
  template <class Epilogue>
  static void finish(Context& ctx, index_t first_row, index_t rows, index_t cols, const Epilogue& epilogue) {
    if constexpr (!std::is_same_v<Epilogue, NoEpilogue>)
      if (cols > 0) for_each_row(ctx, rows, EpilogueRow<Epilogue>{epilogue, first_row, cols});
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

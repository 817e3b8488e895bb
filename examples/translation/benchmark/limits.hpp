// SPDX-License-Identifier: Apache-2.0
// benchmark/limits.hpp -- what this machine allows: bytes a second that it reads from a buffer of a given size,
// products a second of a large expert; and from both the least time that decoding steps can take. Read next:
// benchmark.hpp.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/precision.hpp"

namespace nmt {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Sums a buffer, all threads together: element i of a run of 64 bytes is added to lane i.
struct SumRun {
  const float* data;
  float* sums;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, sparsemoe::index_t block) const {
    constexpr sparsemoe::index_t length = 4096, lanes = 32;
    if (team.lane() != 0) return;
    float part[lanes] = {};
    const float* at = data + block * length;
    for (sparsemoe::index_t i = 0; i < length; i += lanes)
      for (sparsemoe::index_t j = 0; j < lanes; ++j) part[j] += at[i + j];
    float all = 0;
    for (const float p : part) all += p;
    sums[block] = all;
  }
};

/// Measured once per size, in the process that is compared with it.
class MachineLimits {
 public:
  explicit MachineLimits(std::int64_t threads) : ctx_(static_cast<int>(threads)) {}

  /// Bytes a second that all threads read from `bytes` of memory, again and again; sizes are rounded up to powers of
  /// two between 1 MiB and 1 GiB. What fits a cache is read from it, here as in decoding.
  double read_bandwidth(double bytes) {
    std::size_t size = std::size_t(1) << 20;
    while (static_cast<double>(size) < bytes && size < (std::size_t(1) << 30)) size *= 2;
    if (const auto known = bandwidth_.find(size); known != bandwidth_.end()) return known->second;
    const sparsemoe::index_t blocks = static_cast<sparsemoe::index_t>(size / sizeof(float)) / 4096;
    std::vector<float> data(size / sizeof(float), 1.0f), sums(static_cast<std::size_t>(blocks));
    const SumRun run{data.data(), sums.data()};
    double best = 0;
    for (int round = 0; round < 5; ++round) {
      const auto repeats = static_cast<int>(std::max<std::size_t>(1, (std::size_t(1) << 28) / size));
      const double start = seconds_now();
      for (int i = 0; i < repeats; ++i) sparsemoe::Cpu::for_each_row(ctx_, blocks, run, 4096);
      best = std::max(best, static_cast<double>(size) * repeats / (seconds_now() - start));
    }
    return bandwidth_[size] = best;
  }

  /// Floating-point operations a second (two a multiply-add) of x (512, width) times w (width, hidden), P's storage.
  template <class P>
  double product_rate(sparsemoe::index_t width, sparsemoe::index_t hidden) {
    using S = typename P::storage;
    constexpr sparsemoe::index_t rows = 512;
    std::vector<S> x(static_cast<std::size_t>(rows * width), S(0.5f)),
        w(static_cast<std::size_t>(width * hidden), S(0.25f)), y(static_cast<std::size_t>(rows * hidden));
    const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(width) * static_cast<double>(hidden);
    double best = 0;
    for (int round = 0; round < 7; ++round) {
      const double start = seconds_now();
      for (int i = 0; i < 8; ++i)
        sparsemoe::Cpu::gemm(
            ctx_, sparsemoe::Op::none, sparsemoe::Op::none, 1, sparsemoe::Matrix<const S>(x.data(), rows, width),
            sparsemoe::Matrix<const S>(w.data(), width, hidden), false, sparsemoe::Matrix<S>(y.data(), rows, hidden));
      best = std::max(best, 8 * flops / (seconds_now() - start));
    }
    return best;
  }

 private:
  sparsemoe::Cpu::Context ctx_;
  std::map<std::size_t, double> bandwidth_;
};

/// Work of one kind: its bytes are read once, its operations done at the rate of large products. What is less than
/// either time cannot be.
struct Work {
  double bytes = 0, flops = 0;
  double seconds(double bandwidth, double rate) const { return std::max(bytes / bandwidth, flops / rate); }
};

}  // namespace nmt

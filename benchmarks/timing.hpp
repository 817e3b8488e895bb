// SPDX-License-Identifier: Apache-2.0
// timing.hpp -- what the benchmarks share: a clock that a busy machine disturbs little, and the median.
#pragma once

#include <time.h>

#include <algorithm>
#include <vector>

namespace benchmarks {

/// Seconds. With one thread it is that thread's own time, so that other programs disturb the numbers less.
inline double now(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace benchmarks

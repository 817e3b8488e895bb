// SPDX-License-Identifier: Apache-2.0
// test_comm.cpp -- every verb of the collectives on 1 to 4 ranks, with counts that are uneven or zero, and what happens
// when a rank fails or disagrees. Clean under ThreadSanitizer. Read next: include/sparsemoe/comm/threads.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/comm/threads.hpp"

namespace {

using namespace sparsemoe;

/// Checks on other threads than doctest's: collected, and checked at the end.
std::atomic<int> failures{0};
void expect(bool ok) {
  if (!ok) ++failures;
}

float value(int rank, std::size_t i) {
  return Random{5}.uniform(Purpose::test, std::uint64_t(rank) * 100003 + i) - 0.3f;
}

/// One body for Solo and Threads.
template <class Comm>
void exercise(Comm& comm) {
  const int size = comm.size(), rank = comm.rank();
  const auto ranks = static_cast<std::size_t>(size), me = static_cast<std::size_t>(rank);
  for (const std::size_t n : {std::size_t(0), std::size_t(1), std::size_t(3), std::size_t(64), std::size_t(1001)}) {
    // all_reduce_sum: the sum in rank order, to the bit.
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = value(rank, i);
    comm.all_reduce_sum(x.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      float sum = value(0, i);
      for (int r = 1; r < size; ++r) sum += value(r, i);
      expect(sum == x[i]);
    }
    // all_gather, in place and not.
    std::vector<int> mine(n), all(n * ranks, -1), in_place(n * ranks, -1);
    for (std::size_t i = 0; i < n; ++i) mine[i] = in_place[me * n + i] = rank * 10000 + static_cast<int>(i);
    comm.all_gather(mine.data(), all.data(), n);
    comm.all_gather(in_place.data() + me * n, in_place.data(), n);
    for (std::size_t k = 0; k < n * ranks; ++k)
      expect(all[k] == static_cast<int>(k / n) * 10000 + static_cast<int>(k % n));
    expect(all == in_place);
    // reduce_scatter_sum, in place and not.
    std::vector<double> wide(n * ranks), part(n, -1);
    for (std::size_t k = 0; k < wide.size(); ++k) wide[k] = (rank + 1) * static_cast<double>(k);
    comm.reduce_scatter_sum(wide.data(), part.data(), n);
    comm.reduce_scatter_sum(wide.data(), wide.data() + me * n, n);
    for (std::size_t i = 0; i < n; ++i) {
      expect(part[i] == size * (size + 1) / 2 * static_cast<double>(me * n + i));
      expect(part[i] == wide[me * n + i]);
    }
    // broadcast from every root.
    for (int root = 0; root < size; ++root) {
      std::vector<bf16> y(n);
      for (std::size_t i = 0; i < n; ++i) y[i] = bf16(value(rank, i));
      comm.broadcast(y.data(), n, root);
      for (std::size_t i = 0; i < n; ++i) expect(y[i].bits == bf16(value(root, i)).bits);
    }
    comm.barrier();
  }
  // all_to_all_v: rank s sends (3 s + 5 r) mod 7 values to rank r; some counts are zero.
  for (const std::size_t width : {std::size_t(0), std::size_t(1), std::size_t(50)}) {
    const auto count = [&](std::size_t s, std::size_t r) { return (3 * s + 5 * r) % 7 * width; };
    std::vector<std::size_t> out(ranks), in(ranks);
    std::vector<std::int64_t> from, expected;
    for (std::size_t r = 0; r < ranks; ++r) {
      out[r] = count(me, r), in[r] = count(r, me);
      for (std::size_t i = 0; i < out[r]; ++i) from.push_back(static_cast<std::int64_t>(me * 1000000 + r * 10000 + i));
      for (std::size_t i = 0; i < in[r]; ++i)
        expected.push_back(static_cast<std::int64_t>(r * 1000000 + me * 10000 + i));
    }
    std::vector<std::int64_t> to(expected.size() + 1, -1);
    comm.all_to_all_v(from.data(), out.data(), to.data(), in.data());
    expect(to.back() == -1);  // nothing behind the last
    to.pop_back();
    expect(to == expected);
  }
}

TEST_CASE("every verb does what it says on one to four ranks") {
  failures = 0;
  Solo solo;
  exercise(solo);
  CHECK(failures == 0);
  for (int size = 1; size <= 4; ++size) {
    CAPTURE(size);
    run_ranks(size, [](Threads comm) { exercise(comm); });
    CHECK(failures == 0);
  }
}

/// Sums last rank first, as a tree or a ring might: equal in value, not in bits.
struct Reversed : Threads {
  explicit Reversed(Threads comm) : Threads(comm) {}
  void all_reduce_sum(float* x, std::size_t n) {
    std::vector<float> all(n * static_cast<std::size_t>(size()));
    all_gather(x, all.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = 0;
      for (int r = size() - 1; r >= 0; --r) x[i] += all[static_cast<std::size_t>(r) * n + i];
    }
  }
};
struct WrongRoot : Threads {
  explicit WrongRoot(Threads comm) : Threads(comm) {}
  template <class T>
  void broadcast(T* values, std::size_t n, int root) {
    Threads::broadcast(values, n, (root + 1) % size());
  }
};

TEST_CASE("the checks notice another order of summation, and the wrong root") {
  failures = 0;
  run_ranks(3, [](Threads comm) {
    Reversed reversed(comm);
    exercise(reversed);
  });
  CHECK(failures > 0);
  failures = 0;
  run_ranks(2, [](Threads comm) {
    WrongRoot wrong(comm);
    exercise(wrong);
  });
  CHECK(failures > 0);
}

TEST_CASE("sums of 16-bit floats are rounded once") {
  failures = 0;
  run_ranks(3, [](Threads comm) {
    // 256 + 1 rounds back to 256 in bf16; 256 + 1 + 1 does not.
    bf16 x(comm.rank() == 0 ? 256.0f : 1.0f);
    comm.all_reduce_sum(&x, 1);
    expect(static_cast<float>(x) == 258.0f);
  });
  CHECK(failures == 0);
}

TEST_CASE("a verb may be called many times without a barrier between") {
  failures = 0;
  run_ranks(4, [](Threads comm) {
    for (int k = 0; k < 300; ++k) {
      int x = comm.rank() + k;
      comm.all_reduce_sum(&x, 1);
      expect(x == 6 + 4 * k);
      comm.broadcast(&x, 1, k % 4);
    }
  });
  CHECK(failures == 0);
}

TEST_CASE("a rank that throws frees the others, and its error is the one that is seen") {
  for (int bad = 0; bad < 3; ++bad) {
    std::atomic<int> freed{0};
    const auto body = [&](Threads comm) {
      int x = 1;
      comm.all_reduce_sum(&x, 1);
      if (comm.rank() == bad) throw std::out_of_range("rank gives up");
      try {
        comm.all_reduce_sum(&x, 1);
      } catch (const Aborted&) {
        ++freed;
        throw;
      }
    };
    CHECK_THROWS_WITH_AS(run_ranks(3, body), "rank gives up", std::out_of_range);
    CHECK(freed == 2);
  }
}

TEST_CASE("after an abort every wait throws") {
  ThreadsGroup group(2);
  Threads comm(group, 0);
  comm.abort();
  CHECK(group.aborted());
  CHECK_THROWS_WITH_AS(comm.barrier(), "threads: another rank has failed", Aborted);
  CHECK_THROWS_AS(comm.barrier(), Aborted);
}

TEST_CASE("ranks that disagree are told so, all of them") {
  const auto seen = [](int size, auto body) {
    std::atomic<int> told{0};
    std::string message;
    try {
      run_ranks(size, [&](Threads comm) {
        try {
          body(comm);
        } catch (const Aborted&) {
          throw;
        } catch (const Error&) {
          ++told;
          throw;
        }
      });
    } catch (const Error& e) {
      message = e.what();
    }
    CHECK(told == size);
    return message;
  };
  CHECK(seen(3, [](Threads& comm) {
          std::vector<float> x(10);
          comm.all_reduce_sum(x.data(), comm.rank() == 2 ? 9 : 10);
        }) == "threads: all_reduce_sum: rank 0 and rank 2 give different sizes or roots (10 and 9, 0 and 0)");
  CHECK(seen(2, [](Threads& comm) {
          int x = 0;
          if (comm.rank() == 0)
            comm.broadcast(&x, 1, 0);
          else
            comm.barrier();
        }) == "threads: rank 0 calls broadcast while rank 1 calls barrier");
  CHECK(seen(2, [](Threads& comm) {
          int x = 0;
          comm.broadcast(&x, 1, 2);
        }) == "threads: broadcast: there is no rank 2 among 2");
  CHECK(seen(3, [](Threads& comm) {
          const std::vector<std::size_t> out(3, 1);
          std::vector<std::size_t> in(3, 1);
          if (comm.rank() == 1) in[2] = 0;
          const std::vector<float> from(3);
          std::vector<float> to(3);
          comm.all_to_all_v(from.data(), out.data(), to.data(), in.data());
        }) == "threads: all_to_all_v: rank 2 sends 1 values to rank 1, which expects 0");
}

TEST_CASE("handles and groups refuse what does not exist") {
  CHECK_THROWS_WITH_AS(ThreadsGroup(0), "threads: a group needs at least one rank, not 0", Error);
  ThreadsGroup group(2);
  CHECK_THROWS_WITH_AS(Threads(group, 2), "threads: rank must be in [0, 2), not 2", Error);
  int x = 1, y = 0;
  const std::size_t one = 1, none = 0;
  CHECK_THROWS_WITH_AS(Solo().all_to_all_v(&x, &one, &y, &none),
                       "solo: all_to_all_v sends 1 values to itself but expects 0", Error);
  CHECK_THROWS_WITH_AS(Solo().broadcast(&x, 1, 1), "solo: there is no rank 1", Error);
}

}  // namespace

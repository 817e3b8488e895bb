// SPDX-License-Identifier: Apache-2.0
// comm/threads.hpp -- Threads: n ranks as n threads of one process, for tests and for machines with one address space.
// A verb publishes its operands, meets the other ranks, reads theirs, and meets again; sums go in rank order, so every
// rank gets the same bits. A rank that fails calls abort(), and nobody waits for it. Read next: concepts.hpp.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "sparsemoe/concepts.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Thrown in the ranks that wait for one that has failed.
class Aborted : public Error {
 public:
  using Error::Error;
};

/// What the ranks share. Create it once, and give each thread its Threads(group, rank).
class ThreadsGroup {
 public:
  explicit ThreadsGroup(int size) : size_(size) {
    require(size >= 1, "threads: a group needs at least one rank, not ", size);
    posts_.resize(static_cast<std::size_t>(size));
  }
  ThreadsGroup(const ThreadsGroup&) = delete;
  ThreadsGroup& operator=(const ThreadsGroup&) = delete;
  int size() const { return size_; }

  /// From now on every wait, of any rank, throws Aborted. There is no way back.
  void abort() {
    const std::lock_guard<std::mutex> lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }
  bool aborted() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return aborted_;
  }

 private:
  friend class Threads;
  struct Post {  // the operands of a rank in the verb that is running
    const char* verb = nullptr;
    const void* from = nullptr;
    void* to = nullptr;
    const std::size_t* counts_out = nullptr;
    const std::size_t* counts_in = nullptr;
    std::size_t n = 0;
    int root = 0;
  };

  void meet() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!aborted_ && ++arrived_ == size_) {
      arrived_ = 0;
      ++generation_;
      changed_.notify_all();
      return;
    }
    const std::uint64_t mine = generation_;
    changed_.wait(lock, [&] { return aborted_ || generation_ != mine; });
    // A meeting that was complete counts, even if a rank has failed since.
    if (generation_ == mine) throw Aborted("threads: another rank has failed");
  }

  const int size_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  std::uint64_t generation_ = 0;
  bool aborted_ = false;
  std::vector<Post> posts_;
};

/// One rank's handle, for one thread. Buffers must not overlap unless a verb says so. If ranks call different verbs, or
/// the same with sizes that do not fit, all of them throw an Error that says so, and the group is aborted.
class Threads {
 public:
  static constexpr const char* name = "threads";

  Threads(ThreadsGroup& group, int rank) : group_(&group), rank_(rank) {
    require(rank >= 0 && rank < group.size(), "threads: rank must be in [0, ", group.size(), "), not ", rank);
  }
  int rank() const { return rank_; }
  int size() const { return group_->size(); }

  /// values[i] becomes the sum over ranks, rank 0 first.
  template <class T>
  void all_reduce_sum(T* values, std::size_t n) {
    begin({"all_reduce_sum", values, values, nullptr, nullptr, n, 0});
    // Rank r owns one slice of all arrays: it reads the slice of every rank and writes the sum to every rank. Slices
    // are whole cache lines, so that two ranks do not write to one.
    const std::size_t line = 64, each = (n / static_cast<std::size_t>(size()) + line) / line * line;
    const std::size_t first = std::min(n, static_cast<std::size_t>(rank_) * each), last = std::min(n, first + each);
    T sums[run];
    for (std::size_t i = first; i < last; i += run) {
      const std::size_t count = std::min(run, last - i);
      add(i, count, sums);
      for (int r = 0; r < size(); ++r) copy(sums, static_cast<T*>(post(r).to) + i, count);
    }
    group_->meet();
  }

  /// `from` holds counts_out[r] values for each rank r, in rank order; `to` gets counts_in[r] values from each.
  template <class T>
  void all_to_all_v(const T* from, const std::size_t* counts_out, T* to, const std::size_t* counts_in) {
    begin({"all_to_all_v", from, to, counts_out, counts_in, sizeof(T), 0});
    for (int s = 0; s < size(); ++s)
      for (int r = 0; r < size(); ++r)
        if (post(s).counts_out[r] != post(r).counts_in[s])
          refuse("all_to_all_v: rank ", s, " sends ", post(s).counts_out[r], " values to rank ", r, ", which expects ",
                 post(r).counts_in[s]);
    for (int s = 0; s < size(); ++s) {
      const ThreadsGroup::Post& p = post(s);
      std::size_t offset = 0;
      for (int before = 0; before < rank_; ++before) offset += p.counts_out[before];
      copy(static_cast<const T*>(p.from) + offset, to, counts_in[s]);
      to += counts_in[s];
    }
    group_->meet();
  }

  /// all[r * n + i] = mine[i] of rank r. `mine` may be this rank's place in `all`.
  template <class T>
  void all_gather(const T* mine, T* all, std::size_t n) {
    begin({"all_gather", mine, all, nullptr, nullptr, n, 0});
    for (int r = 0; r < size(); ++r)
      copy(static_cast<const T*>(post(r).from), all + static_cast<std::size_t>(r) * n, n);
    group_->meet();
  }

  /// mine[i] = sum over ranks of all[rank() * n + i], rank 0 first. `mine` may be this rank's place in `all`.
  template <class T>
  void reduce_scatter_sum(const T* all, T* mine, std::size_t n) {
    begin({"reduce_scatter_sum", all, mine, nullptr, nullptr, n, 0});
    T sums[run];
    for (std::size_t i = 0; i < n; i += run) {
      const std::size_t count = std::min(run, n - i);
      add(static_cast<std::size_t>(rank_) * n + i, count, sums);
      copy(sums, mine + i, count);
    }
    group_->meet();
  }

  template <class T>
  void broadcast(T* values, std::size_t n, int root) {
    begin({"broadcast", values, values, nullptr, nullptr, n, root});
    if (root < 0 || root >= size()) refuse("broadcast: there is no rank ", root, " among ", size());
    copy(static_cast<const T*>(post(root).from), values, n);
    group_->meet();
  }

  void barrier() {
    begin({"barrier", nullptr, nullptr, nullptr, nullptr, 0, 0});
    group_->meet();
  }

  /// Makes every rank that waits, now or later, throw Aborted. Not for use from outside while a verb runs.
  void abort() { group_->abort(); }

 private:
  static constexpr std::size_t run = 256;  // elements added at a time

  const ThreadsGroup::Post& post(int r) const { return group_->posts_[static_cast<std::size_t>(r)]; }

  /// Publishes and meets. What is checked here is known to all, so all ranks come to the same verdict.
  void begin(const ThreadsGroup::Post& mine) {
    group_->posts_[static_cast<std::size_t>(rank_)] = mine;
    group_->meet();
    for (int r = 1; r < size(); ++r) {
      if (std::strcmp(post(r).verb, post(0).verb) != 0)
        refuse("rank 0 calls ", post(0).verb, " while rank ", r, " calls ", post(r).verb);
      if (post(r).n != post(0).n || post(r).root != post(0).root)
        refuse(post(0).verb, ": rank 0 and rank ", r, " give different sizes or roots (", post(0).n, " and ", post(r).n,
               ", ", post(0).root, " and ", post(r).root, ")");
    }
  }
  /// All ranks throw, once all have read what the others published.
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) {
    const std::string message = join("threads: ", parts...);
    group_->meet();
    group_->abort();
    throw Error(message);
  }

  /// sums[i] = the sum over ranks of element first + i; 16-bit floats are added in float and rounded once.
  template <class T>
  void add(std::size_t first, std::size_t count, T* sums) const {
    using Sum = std::conditional_t<std::is_arithmetic_v<T>, T, float>;
    Sum total[run];
    for (int r = 0; r < size(); ++r) {
      const T* from = static_cast<const T*>(post(r).from) + first;
      for (std::size_t i = 0; i < count; ++i)
        total[i] = r == 0 ? static_cast<Sum>(from[i]) : static_cast<Sum>(total[i] + static_cast<Sum>(from[i]));
    }
    for (std::size_t i = 0; i < count; ++i) sums[i] = static_cast<T>(total[i]);
  }
  template <class T>
  static void copy(const T* from, T* to, std::size_t n) {
    if (n > 0 && from != to) std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
  }

  ThreadsGroup* group_;
  int rank_;
};
static_assert(check_collective<Threads>());

/// f(rank handle) on `size` threads. A rank that throws aborts the group; the first error that is not Aborted is thrown
/// again when all have ended.
template <class F>
void run_ranks(int size, F&& f) {
  ThreadsGroup group(size);
  std::mutex mutex;
  std::exception_ptr error, aborted;
  const auto body = [&](int rank) {
    try {
      f(Threads(group, rank));
    } catch (...) {
      bool waited = false;
      try {
        throw;
      } catch (const Aborted&) {
        waited = true;
      } catch (...) {
      }
      {
        const std::lock_guard<std::mutex> lock(mutex);
        std::exception_ptr& slot = waited ? aborted : error;
        if (!slot) slot = std::current_exception();
      }
      group.abort();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(size));
  for (int rank = 0; rank < size; ++rank) {
    try {
      threads.emplace_back(body, rank);
    } catch (...) {  // no thread to be had: the ranks that run must not wait for it
      const std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
      group.abort();
      break;
    }
  }
  for (std::thread& t : threads) t.join();
  if (error) std::rethrow_exception(error);
  if (aborted) std::rethrow_exception(aborted);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// comm/solo.hpp -- Solo: the collective of a run with one rank. Every verb is a copy or nothing.
// Read next: comm/threads.hpp.
#pragma once

#include <cstddef>
#include <cstring>

#include "sparsemoe/concepts.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Works on host memory.
struct Solo {
  static constexpr const char* name = "solo";
  int rank() const { return 0; }
  int size() const { return 1; }

  template <class T>
  void all_reduce_sum(T*, std::size_t) const {}
  template <class T>
  void all_to_all_v(const T* from, const std::size_t* counts_out, T* to, const std::size_t* counts_in) const {
    require(counts_out[0] == counts_in[0], "solo: all_to_all_v sends ", counts_out[0], " values to itself but expects ",
            counts_in[0]);
    copy(from, to, counts_out[0]);
  }
  template <class T>
  void all_gather(const T* mine, T* all, std::size_t n) const {
    copy(mine, all, n);
  }
  template <class T>
  void reduce_scatter_sum(const T* all, T* mine, std::size_t n) const {
    copy(all, mine, n);
  }
  template <class T>
  void broadcast(T*, std::size_t, int root) const {
    require(root == 0, "solo: there is no rank ", root);
  }
  void barrier() const {}

 private:
  template <class T>
  static void copy(const T* from, T* to, std::size_t n) {
    if (n > 0 && from != to) std::memmove(static_cast<void*>(to), from, n * sizeof(T));
  }
};
static_assert(check_collective<Solo>());

}  // namespace sparsemoe::inline SPARSEMOE_ABI

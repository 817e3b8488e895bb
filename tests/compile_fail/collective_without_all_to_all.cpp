// SPDX-License-Identifier: Apache-2.0
// Every verb is asked for by name, with its arguments.
// expect: collective: add  void all_to_all_v(const T* from, const size_t* counts_out, T* to, const size_t* counts_in)
#include "sparsemoe/concepts.hpp"

struct Mine {
  int rank() const { return 0; }
  int size() const { return 1; }
  template <class T>
  void all_reduce_sum(T*, std::size_t) {}
#ifndef SHOULD_FAIL
  template <class T>
  void all_to_all_v(const T*, const std::size_t*, T*, const std::size_t*) {}
#endif
  template <class T>
  void all_gather(const T*, T*, std::size_t) {}
  template <class T>
  void reduce_scatter_sum(const T*, T*, std::size_t) {}
  template <class T>
  void broadcast(T*, std::size_t, int) {}
  void barrier() {}
};
static_assert(sparsemoe::check_collective<Mine>());

// SPDX-License-Identifier: Apache-2.0
// team.hpp -- a team: the lanes that share one row. One lane on a host, a warp on a GPU, threads in tests.
// A row functor asks who am I (lane), how many are we (lanes), and for the sum or maximum over the team.
// Read next: kernels/rows.hpp for functors written against it, backend/barrier_team.hpp for a team of threads.
#pragma once

#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The host's team: one lane, reductions are the identity.
struct SerialTeam {
  static constexpr int lanes = 1;
  SPARSEMOE_HD int lane() const { return 0; }
  template <class T>
  SPARSEMOE_HD T sum(T v) const {
    return v;
  }
  template <class T>
  SPARSEMOE_HD T max(T v) const {
    return v;
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// kernels/lstm.hpp -- one time step of a long short-term memory, forward and backward, a row (sequence) at a time.
// Read next: nn/lstm.hpp for the products around it.
#pragma once

#include "sparsemoe/math.hpp"
#include "sparsemoe/team.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// i, f, o = sigmoid, g = tanh of the pre-activations; c = f c' + i g; m = o tanh(c). (Hochreiter & Schmidhuber 1997,
/// with the forget gate of Gers et al. 2000, without peepholes.) The pre-activations become their activations in place.
template <class P>
struct LstmCellRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<S> gates;           // (B, 4 N): i, f, g, o side by side
  Matrix<const C> previous;  // (B, N) c'
  Matrix<C> cell;            // (B, N) c
  Matrix<S> m;               // (B, N)
  C forget_bias;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t b) const {
    const index_t n = cell.cols;
    S* gate = gates.row(b).data;
    const C* before = previous.row(b).data;
    C* now = cell.row(b).data;
    S* out = m.row(b).data;
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < n; j += Team::lanes) {
      const C i = math::sigmoid(C(gate[j])), f = math::sigmoid(C(gate[n + j]) + forget_bias);
      const C g = math::tanh(C(gate[2 * n + j])), o = math::sigmoid(C(gate[3 * n + j]));
      const C c = f * before[j] + i * g;
      gate[j] = S(i), gate[n + j] = S(f), gate[2 * n + j] = S(g), gate[3 * n + j] = S(o);
      now[j] = c;
      out[j] = S(o * math::tanh(c));
    }
  }
};
/// dm -> gradient of the pre-activations. dcell is dc of the step after on entry, and dc' on return.
template <class P>
struct LstmCellBackwardRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<const S> dm;              // (B, N)
  Matrix<const S> gates;           // (B, 4 N) activations
  Matrix<const C> previous, cell;  // (B, N)
  Matrix<C> dcell;                 // (B, N)
  Matrix<S> dgates;                // (B, 4 N)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t b) const {
    const index_t n = cell.cols;
    const S *gate = gates.row(b).data, *d = dm.row(b).data;
    const C *before = previous.row(b).data, *now = cell.row(b).data;
    C* carry = dcell.row(b).data;
    S* out = dgates.row(b).data;
    SPARSEMOE_SIMD
    for (index_t j = team.lane(); j < n; j += Team::lanes) {
      const C i = C(gate[j]), f = C(gate[n + j]), g = C(gate[2 * n + j]), o = C(gate[3 * n + j]);
      const C t = math::tanh(now[j]), dh = C(d[j]);
      const C dc = carry[j] + dh * o * (C(1) - t * t);
      out[j] = S(dc * g * i * (C(1) - i));
      out[n + j] = S(dc * before[j] * f * (C(1) - f));
      out[2 * n + j] = S(dc * i * (C(1) - g * g));
      out[3 * n + j] = S(dh * t * o * (C(1) - o));
      carry[j] = dc * f;
    }
  }
};
/// Row t = b * length + i of y is the output before it: y(t - 1), or the first state of sequence b.
template <class S>
struct OutputBeforeRow {
  Matrix<const S> outputs, first;  // (B L, N), (B, N)
  index_t length;
  Matrix<S> y;  // (B L, N)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t t) const {
    const S* from = t % length == 0 ? first.row(t / length).data : outputs.row(t - 1).data;
    S* to = y.row(t).data;
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) to[j] = from[j];
  }
};
/// y = a + b, by rows of any stride
template <class S, class C>
struct AddRows {
  Matrix<const S> a, b;
  Matrix<S> y;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    for (index_t j = team.lane(); j < y.cols; j += Team::lanes) y(r, j) = S(C(a(r, j)) + C(b(r, j)));
  }
};
/// to = from, by rows of any stride
template <class T>
struct CopyRows {
  Matrix<const T> from;
  Matrix<T> to;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    for (index_t j = team.lane(); j < to.cols; j += Team::lanes) to(r, j) = from(r, j);
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

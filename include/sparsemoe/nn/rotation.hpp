// nn/rotation.hpp -- rotary positions: queries and keys are turned by angles that grow with their position, so that
// their products depend on the distance alone (Su et al. 2021, RoFormer, section 3.4.2). Pairs are those of Llama and
// Mixtral: column j of a head with column j + width / 2. Read next: nn/attention.hpp.
#pragma once

#include <cmath>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/tokens.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// y(i) = [cos | sin] of place(i) * theta^(-2 j / d), j < d / 2, for token i's place; computed in double.
template <class C>
struct RotationRow {
  Tokens tokens;
  double theta;
  Matrix<C> y;  // (rows, d)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const index_t half = y.cols / 2;
    for (index_t j = team.lane(); j < half; j += Team::lanes) {
      const double angle = double(tokens.place(i)) * std::pow(theta, -2.0 * double(j) / double(y.cols));
      y(i, j) = C(std::cos(angle));
      y(i, half + j) = C(std::sin(angle));
    }
  }
};
/// Turns the heads of row r of x, in place, by the angles of row r mod rows of the table; by -1 times them with
/// `sign` -1: the gradient.
template <class P>
struct RotateRow {
  using S = typename P::storage;
  using C = typename P::compute;
  Matrix<S> x;            // (T, heads d)
  Matrix<const C> table;  // (L or T, d)
  C sign;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const index_t d = table.cols, half = d / 2;
    const C *cosine = table.row(r % table.rows).data, *sine = cosine + half;
    for (S* head = x.row(r).data; head < x.row(r).data + x.cols; head += d)
      for (index_t j = team.lane(); j < half; j += Team::lanes) {
        const C a = C(head[j]), b = C(head[half + j]), s = sign * sine[j];
        head[j] = S(a * cosine[j] - b * s);
        head[half + j] = S(b * cosine[j] + a * s);
      }
  }
};

/// The angles of a batch: a row for each column, or for each token where sentences have positions of their own. In
/// arena memory of the caller's scope; empty if theta is 0.
template <class C, class B>
Matrix<const C> rotation_table(typename B::Context& ctx, const Tokens& tokens, double theta, index_t head_width) {
  if (theta == 0) return {};
  require(head_width % 2 == 0, "attention: rotary positions need heads of an even width; got ", head_width);
  const Matrix<C> table =
      ctx.arena.template matrix<C>(tokens.positions != nullptr ? tokens.count() : tokens.length, head_width);
  B::for_each_row(ctx, table.rows, RotationRow<C>{tokens, theta, table}, head_width * 32);
  return table;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

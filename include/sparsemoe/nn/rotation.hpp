// SPDX-License-Identifier: Apache-2.0
// nn/rotation.hpp -- rotary positions: queries and keys are turned by angles that grow with their position, so that
// their products depend on the distance alone (Su et al. 2021, RoFormer, section 3.4.2). Pairs are those of Llama and
// Mixtral: column j of a head with column j + width / 2. Read next: nn/attention.hpp.
#pragma once

#include <cmath>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/tokens.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What changes the angles place * theta^(-2 j / d), so that a model reads longer texts than it was trained on.
struct RotaryScaling {
  std::vector<double> frequencies = {};  // (d / 2) in place of theta^(-2 j / d); empty: those
  std::vector<double> beyond = {};  // (d / 2) in place of frequencies where a sentence has more than `limit` tokens
  double growth = 0;                // where it has n > limit: theta times (growth n / limit - growth + 1)^(d / (d - 2))
  index_t limit = 0;                // tokens; of `beyond` and of `growth`
  double factor = 1;                // of cosines and sines alike

  template <class F>
  void visit(F&& f) {
    f("frequencies", frequencies, "one for each pair of a head, in place of the powers of the base; none: those");
    f("beyond", beyond, "in their place where a sentence has more tokens than the limit");
    f("growth", growth, "how the base grows with the length of such a sentence; 0: it does not");
    f("limit", limit, "tokens");
    f("factor", factor, "of cosines and sines alike");
  }
  /// True where the angles of a token depend on how long its sentence is.
  bool by_length() const { return limit > 0; }
  bool plain() const { return frequencies.empty() && !by_length() && factor == 1; }
  void check(const char* stack, index_t head_width) const {
    const auto pairs = static_cast<std::size_t>(head_width / 2);
    require(frequencies.empty() || frequencies.size() == pairs, stack, ": ", frequencies.size(),
            " rotary frequencies, expected one for each of the ", pairs, " pairs of a head");
    require(beyond.empty() || (limit > 0 && beyond.size() == pairs && !frequencies.empty()), stack,
            ": rotary frequencies of long sentences need a limit, those of short ones, and one for each of the ", pairs,
            " pairs of a head; got ", beyond.size());
    require(growth == 0 || (growth >= 1 && limit > 0 && beyond.empty() && frequencies.empty() && head_width > 2), stack,
            ": a rotary base that grows needs a factor of at least 1, a limit and heads wider than 2; got ", growth);
    require(factor > 0, stack, ": the factor of rotary positions must be positive; got ", factor);
  }
};

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
/// The same with RotaryScaling; rows are columns of the batch, or all its tokens where angles depend on the length of
/// the sentence: the place of its last valid token + 1, and what follows it (Tokens::following).
template <class C>
struct ScaledRotationRow {
  Tokens tokens;
  double theta;
  const double *frequencies, *beyond;  // (d / 2) or null
  double growth, factor;
  index_t limit;
  bool every_token;
  Matrix<C> y;  // (rows, d)
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t i) const {
    const index_t half = y.cols / 2, length = limit > 0 ? sentence_length(i) : 0;
    const double *own = limit > 0 && length > limit && beyond != nullptr ? beyond : frequencies, d = double(y.cols);
    double base = theta;
    if (growth > 0 && length > limit)
      base *= std::pow(growth * double(length) / double(limit) - growth + 1, d / (d - 2));
    for (index_t j = team.lane(); j < half; j += Team::lanes) {
      const double frequency = own != nullptr ? own[j] : std::pow(base, -2.0 * double(j) / d);
      const double angle = double(tokens.place(i)) * frequency;
      y(i, j) = C(factor * std::cos(angle));
      y(i, half + j) = C(factor * std::sin(angle));
    }
  }

 private:
  SPARSEMOE_HD index_t sentence_length(index_t i) const {
    const index_t first = every_token ? i / tokens.length * tokens.length : 0;
    for (index_t t = first + tokens.length; every_token && t-- > first;)
      if (tokens.valid == nullptr || tokens.valid[t] != 0) return tokens.place(t) + 1 + tokens.following;
    return tokens.place(i) + 1 + tokens.following;
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

/// The angles of a batch: a row for each column, or for each token where sentences have positions of their own or
/// angles depend on their lengths. In arena memory of the caller's scope; empty if theta is 0.
template <class C, class B>
Matrix<const C> rotation_table(typename B::Context& ctx, const Tokens& tokens, double theta, index_t head_width,
                               const RotaryScaling& scaling = {}) {
  if (theta == 0) return {};
  require(head_width % 2 == 0, "attention: rotary positions need heads of an even width; got ", head_width);
  const bool every_token = tokens.positions != nullptr || scaling.by_length();
  const Matrix<C> table = ctx.arena.template matrix<C>(every_token ? tokens.count() : tokens.length, head_width);
  if (scaling.plain()) {
    B::for_each_row(ctx, table.rows, RotationRow<C>{tokens, theta, table}, head_width * 32);
    return table;
  }
  const auto copied = [&](const std::vector<double>& from) -> const double* {
    if (from.empty()) return nullptr;
    double* to = ctx.arena.template take<double>(head_width / 2);
    B::copy_from_host(ctx, to, from.data(), head_width / 2);
    return to;
  };
  const double *frequencies = copied(scaling.frequencies), *beyond = copied(scaling.beyond);
  B::for_each_row(ctx, table.rows,
                  ScaledRotationRow<C>{tokens, theta, frequencies, beyond, scaling.growth, scaling.factor,
                                       scaling.limit, every_token, table},
                  head_width * 32);
  return table;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

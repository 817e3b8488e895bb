// SPDX-License-Identifier: Apache-2.0
// kernels/tokens.hpp -- the tokens of a batch, the rows a gate scores for them, and the choices seen token by token.
// Read next: kernels/routing.hpp.
#pragma once

#include "sparsemoe/concepts.hpp"
#include "sparsemoe/team.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The tokens of a batch as a stack sees them: `sentences` rows of `length`, token t = sentence * length + column.
/// Pointers are in the backend's memory.
struct Tokens {
  index_t sentences = 0, length = 0;
  const std::int32_t* ids = nullptr;        // (T) ids fed into the stack
  const std::uint8_t* valid = nullptr;      // (T) 1, or 0 for padding
  const std::int32_t* task = nullptr;       // (sentences)
  index_t position = 0;                     // of column 0: more than 0 in step-by-step decoding
  const std::int32_t* previous = nullptr;   // (T) ids before these, for a decoding step; null: the column to the left
  const std::int32_t* positions = nullptr;  // (sentences) of column 0, where they differ; `position` is the largest
  index_t following = 0;  // tokens of each sentence that the next step feeds: its length is known beyond this batch
  index_t count() const { return sentences * length; }
  /// Position of token t in its sentence.
  SPARSEMOE_HD index_t place(index_t t) const {
    return (positions != nullptr ? index_t(positions[t / length]) : position) + t % length;
  }
};

/// Which scored row a token belongs to.
struct Units {
  Level level;
  index_t length;
  const std::int32_t* task;
  SPARSEMOE_HD index_t of(index_t t) const {
    if (level == Level::sentence) return t / length;
    if (level == Level::task) return task[t / length];
    return t;
  }
};

/// chosen(unit, k) seen token by token; padding has no choice, and what is not below `last` is none.
struct Choices {
  Units units;
  const std::int32_t* chosen;  // (U, K)
  const std::uint8_t* valid;   // (T)
  index_t top_k;
  std::int32_t last = 0x7fffffff;
  SPARSEMOE_HD std::int32_t at(index_t t, index_t k) const {
    const std::int32_t v = valid[t] != 0 ? chosen[units.of(t) * top_k + k] : std::int32_t(-1);
    return Choice<1>::expert_of(v) < last ? v : std::int32_t(-1);
  }
};

SPARSEMOE_HD inline TokenInfo token_info(const Tokens& tokens, index_t t, bool training, const Random& random) {
  TokenInfo info;
  const index_t column = t % tokens.length;
  info.id = tokens.ids != nullptr ? tokens.ids[t] : 0;
  if (tokens.previous != nullptr)
    info.previous = tokens.previous[t];
  else
    info.previous = column > 0 && tokens.ids != nullptr ? tokens.ids[t - 1] : -1;
  info.position = static_cast<std::int32_t>(tokens.place(t));
  info.sentence = static_cast<std::int32_t>(t / tokens.length);
  info.task = tokens.task != nullptr ? tokens.task[t / tokens.length] : 0;
  info.unit = t;
  info.training = training;
  info.random = random;
  return info;
}

/// A mask of ones.
struct EveryToken {
  std::uint8_t* valid;  // (T)
  SPARSEMOE_HD void operator()(index_t t) const { valid[t] = 1; }
};

/// weight(u) = number of valid tokens that share row u.
struct UnitWeights {
  Units units;
  Tokens tokens;
  std::int32_t* weight;
  SPARSEMOE_HD void operator()(index_t u) const {
    if (units.level == Level::token || units.level == Level::none) {
      weight[u] = tokens.valid[u] != 0 ? 1 : 0;
      return;
    }
    std::int32_t n = 0;
    for (index_t s = 0; s < tokens.sentences; ++s) {
      if (units.level == Level::sentence ? s != u : tokens.task[s] != u) continue;
      for (index_t i = 0; i < tokens.length; ++i) n += tokens.valid[s * tokens.length + i] != 0 ? 1 : 0;
    }
    weight[u] = n;
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

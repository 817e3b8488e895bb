// SPDX-License-Identifier: Apache-2.0
// toy_task.hpp -- three tasks on strings of digits, for the examples: copy, reverse, add one to each digit (9 gives 0).
// A batch is drawn from (seed, step) alone. Ids: 0 padding, 1 begin, 2 end, 3..12 the digits, 13..15 "do task t", which
// opens the source if the batch is `told`; otherwise only Tokens::task says which task it is.
// Read next: hello_moe.cpp.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "sparsemoe/sparsemoe.hpp"

namespace toy {

using sparsemoe::index_t;

inline constexpr index_t vocabulary = 16, tasks = 3, longest = 7;
inline constexpr const char* task_names[] = {"copy", "reverse", "add one"};

/// What task `t` makes of a string of digit ids.
inline std::vector<std::int32_t> answer(std::int32_t t, std::vector<std::int32_t> digits) {
  if (t == 1) std::reverse(digits.begin(), digits.end());
  if (t == 2)
    for (auto& d : digits) d = 3 + (d - 3 + 1) % 10;
  return digits;
}

inline std::string text(const std::vector<std::int32_t>& ids) {
  std::string s;
  for (const auto id : ids) s += id >= 3 && id < 13 ? static_cast<char>('0' + id - 3) : '?';
  return s;
}

/// `rows` strings of 3 to 7 digits, padded; row r is of task r mod 3.
struct Batch {
  index_t rows, source_length, target_length = longest + 1;
  std::vector<std::vector<std::int32_t>> digits, wanted;
  std::vector<std::int32_t> source, target, labels, task;  // (B Ls), (B Lt), (B Lt), (B)
  std::vector<std::uint8_t> source_valid, target_valid;

  Batch(index_t n, std::uint64_t seed, std::uint32_t step, bool told)
      : rows(n), source_length(longest + (told ? 1 : 0)) {
    const sparsemoe::Random random{seed, step, 0};
    const auto draw = [&](index_t r, index_t i, std::uint32_t below) {
      const auto index = static_cast<std::uint64_t>(r * (longest + 1) + i);
      return static_cast<std::int32_t>(random.draw4(sparsemoe::Purpose::sampling, index).v[0] % below);
    };
    for (index_t r = 0; r < n; ++r) {
      const auto t = static_cast<std::int32_t>(r % tasks);
      task.push_back(t);
      std::vector<std::int32_t> x(static_cast<std::size_t>(3 + draw(r, longest, 5)));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = 3 + draw(r, static_cast<index_t>(i), 10);
      digits.push_back(x);
      wanted.push_back(answer(t, x));
      auto in = x, label = wanted.back(), shifted = wanted.back();
      if (told) in.insert(in.begin(), 13 + t);
      shifted.insert(shifted.begin(), 1);
      label.push_back(2);
      append(in, source_length, 0, source, &source_valid);
      append(shifted, target_length, 0, target, &target_valid);
      append(label, target_length, -1, labels, nullptr);
    }
  }
  sparsemoe::Tokens source_tokens() const {
    return {rows, source_length, source.data(), source_valid.data(), task.data(), 0, nullptr};
  }
  sparsemoe::Seq2SeqBatch view() const {
    return {source_tokens(),
            {rows, target_length, target.data(), target_valid.data(), task.data(), 0, nullptr},
            labels.data()};
  }
  /// Labels that count.
  double tokens() const { return static_cast<double>(std::count(target_valid.begin(), target_valid.end(), 1)); }

 private:
  static void append(const std::vector<std::int32_t>& ids, index_t columns, std::int32_t fill,
                     std::vector<std::int32_t>& to, std::vector<std::uint8_t>* valid) {
    for (index_t i = 0; i < columns; ++i) {
      const bool real = i < static_cast<index_t>(ids.size());
      to.push_back(real ? ids[static_cast<std::size_t>(i)] : fill);
      if (valid != nullptr) valid->push_back(real ? 1 : 0);
    }
  }
};

/// The share of whole strings that greedy decoding gets right.
template <class Model>
double accuracy(typename Model::Context& ctx, Model& model, const Batch& batch, sparsemoe::GreedyResult& result) {
  sparsemoe::Solo solo;
  sparsemoe::greedy(ctx, model, solo, batch.source_tokens(), {.max_length = longest}, result);
  double right = 0;
  for (std::size_t r = 0; r < batch.wanted.size(); ++r) right += result.tokens[r] == batch.wanted[r] ? 1 : 0;
  return right / static_cast<double>(batch.rows);
}

/// "31 20 25 24": the share of each expert, in percent.
template <class Count>
std::string percent(const Count* load, index_t experts) {
  double sum = 0;
  for (index_t e = 0; e < experts; ++e) sum += static_cast<double>(load[e]);
  std::string s;
  char cell[16];
  for (index_t e = 0; e < experts; ++e) {
    std::snprintf(cell, sizeof cell, "%4.0f", sum > 0 ? 100 * static_cast<double>(load[e]) / sum : 0.0);
    s += cell;
  }
  return s;
}

}  // namespace toy

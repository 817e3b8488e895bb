// SPDX-License-Identifier: Apache-2.0
// tests/model_body.hpp -- a small encoder-decoder and random batches for the tests of decoding and training.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"

namespace model_body {

using namespace sparsemoe;

template <class RouterType, class PrecisionType = Fp32>
struct With : SpecDefaults {
  using Router = RouterType;
  using Precision = PrecisionType;
  using Backend = Cpu;
  using Collective = Solo;
};

inline EncoderDecoderConfig model_config(index_t vocabulary, index_t width, bool relative = false) {
  EncoderDecoderConfig c;
  c.vocabulary = vocabulary;
  c.label_smoothing = 0;
  c.encoder.width = width, c.encoder.heads = 2, c.encoder.head_width = width / 2, c.encoder.hidden = 2 * width;
  c.encoder.relative_positions = relative;
  c.encoder.moe.experts = 4;
  c.encoder.moe.tasks = 3;
  c.encoder.moe.gate_deviation = c.encoder.moe.task_deviation = 0.5;
  c.decoder = c.encoder;
  return c;
}

/// `n` sentences of random ids from 3; lengths differ; task s mod 3. The target repeats the source and ends with id 2;
/// its input starts with id 1.
struct CopyBatch {
  index_t sentences, length, target_length;
  std::vector<std::int32_t> source, target, labels, task;
  std::vector<std::uint8_t> source_valid, target_valid;
  CopyBatch(index_t n, index_t columns, index_t vocabulary, std::uint64_t seed)
      : sentences(n), length(columns), target_length(columns + 1) {
    const Random random{seed};
    for (index_t s = 0; s < n; ++s) {
      const index_t real = columns - s % (columns - 1);
      task.push_back(static_cast<std::int32_t>(s % 3));
      std::int32_t previous = 1;
      for (index_t i = 0; i < target_length; ++i) {
        const auto draw = random.draw4(Purpose::test, static_cast<std::uint64_t>(s * 100 + i)).v[0];
        const auto id = static_cast<std::int32_t>(3 + draw % static_cast<std::uint32_t>(vocabulary - 3));
        if (i < columns) {
          source.push_back(i < real ? id : 0);
          source_valid.push_back(i < real ? 1 : 0);
        }
        target.push_back(i <= real ? previous : 0);
        target_valid.push_back(i <= real ? 1 : 0);
        labels.push_back(i < real ? id : i == real ? 2 : -1);
        previous = id;
      }
    }
  }
  Tokens source_tokens() const {
    return {sentences, length, source.data(), source_valid.data(), task.data(), 0, nullptr};
  }
  Tokens target_tokens() const {
    return {sentences, target_length, target.data(), target_valid.data(), task.data(), 0, nullptr};
  }
  Seq2SeqBatch view() const { return {source_tokens(), target_tokens(), labels.data()}; }
};

}  // namespace model_body

// SPDX-License-Identifier: Apache-2.0
// train/sampling.hpp -- which examples make a step: temperature sampling over corpora, length buckets, batches by token
// count. Every choice is a function of (seed, pool, index), so a run resumes on the exact next batch from two integers.
// Read next: examples/translation/train.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// q_i = n_i^(1/T) / sum n^(1/T): T = 1 is proportional, T -> infinity uniform (Kudugunta et al. 2021, 4.1: T = 5).
/// Throws Error if T is not positive or nothing has examples.
inline std::vector<double> temperature_shares(const std::vector<std::int64_t>& sizes, double temperature) {
  require(temperature > 0, "temperature sampling: the temperature must be positive, not ", temperature);
  std::vector<double> q;
  for (const auto n : sizes) q.push_back(n > 0 ? std::pow(static_cast<double>(n), 1 / temperature) : 0.0);
  const double total = std::accumulate(q.begin(), q.end(), 0.0);
  require(total > 0, "temperature sampling: no corpus has an example");
  for (double& v : q) v /= total;
  return q;
}

/// One example: which corpus, which row of it.
struct Example {
  std::int32_t corpus = 0, row = 0;
};

/// Where a run is in its stream of batches.
struct SamplerState {
  std::uint64_t pool = 0, batch = 0;
};

/// Streams batches: a pool of examples is drawn, sorted by length, cut into batches of at most `tokens` padded tokens,
/// and the batches are shuffled.
class BatchSampler {
 public:
  struct Config {
    double temperature = 5;
    index_t tokens = 2048;      // rows * longest side of a batch, at most
    index_t pool_size = 32768;  // examples sorted together: more leave less padding
    std::uint64_t seed = 1;
  };
  /// lengths[c][row] = {source length, target length} in tokens as the model sees them.
  struct Lengths {
    std::int32_t source = 0, target = 0;
  };

  BatchSampler(Config config, std::vector<std::vector<Lengths>> lengths)
      : config_(config), lengths_(std::move(lengths)) {
    std::vector<std::int64_t> sizes;
    for (const auto& l : lengths_) {
      sizes.push_back(static_cast<std::int64_t>(l.size()));
      for (const auto& row : l)
        require(std::max(row.source, row.target) <= config.tokens, "batches: an example of ",
                std::max(row.source, row.target), " tokens does not fit into a batch of ", config.tokens);
    }
    shares_ = temperature_shares(sizes, config.temperature);
  }
  const std::vector<double>& shares() const { return shares_; }
  SamplerState state() const { return state_; }
  void seek(SamplerState s) {
    state_ = s;
    filled_ = false;
  }

  /// The next batch; the reference is good until the call after.
  const std::vector<Example>& next() {
    if (!filled_) fill();
    if (state_.batch >= batches_.size()) {
      ++state_.pool;
      state_.batch = 0;
      fill();
    }
    return batches_[state_.batch++];
  }

 private:
  void fill() {
    const Random random{config_.seed, static_cast<std::uint32_t>(state_.pool),
                        static_cast<std::uint32_t>(state_.pool >> 32)};
    std::vector<Example> pool;
    pool.reserve(static_cast<std::size_t>(config_.pool_size));
    for (index_t i = 0; i < config_.pool_size; ++i) {
      const Draw4 d = random.draw4(Purpose::sampling, static_cast<std::uint64_t>(i));
      double u = (static_cast<double>(d.v[0]) + 0.5) * 0x1p-32;
      std::size_t c = 0;
      while (c + 1 < shares_.size() && (u -= shares_[c]) >= 0) ++c;
      while (lengths_[c].empty()) --c;  // rounding at the end of the shares
      pool.push_back(
          {static_cast<std::int32_t>(c), static_cast<std::int32_t>(std::uint64_t(d.v[1]) * lengths_[c].size() >> 32)});
    }
    const auto& lengths = lengths_;
    const auto of = [&](const Example& e) {
      return lengths[static_cast<std::size_t>(e.corpus)][static_cast<std::size_t>(e.row)];
    };
    std::stable_sort(pool.begin(), pool.end(), [&](const Example& a, const Example& b) {
      const Lengths x = of(a), y = of(b);
      return x.target != y.target ? x.target < y.target : x.source < y.source;
    });
    batches_.clear();
    index_t longest = 0;
    for (const Example& e : pool) {
      const index_t n = std::max(of(e).source, of(e).target);
      const index_t with = std::max(longest, n);
      const bool full = !batches_.empty() && with * (static_cast<index_t>(batches_.back().size()) + 1) > config_.tokens;
      if (batches_.empty() || full) {
        batches_.emplace_back();
        longest = 0;
      }
      batches_.back().push_back(e);
      longest = std::max(longest, n);
    }
    for (std::size_t i = batches_.size(); i > 1; --i) {
      const std::uint64_t bits = random.draw4(Purpose::sampling, (std::uint64_t(1) << 40) + i).v[0];
      std::swap(batches_[i - 1], batches_[bits * i >> 32]);
    }
    filled_ = true;
  }

  Config config_;
  std::vector<std::vector<Lengths>> lengths_;
  std::vector<double> shares_;
  std::vector<std::vector<Example>> batches_;
  SamplerState state_;
  bool filled_ = false;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// side_by_side.hpp -- models that learn from the same batches, in turn, so that steps and data are equal whatever the
// clock says; and what is printed of them. Read next: next_token.hpp, switch_pretraining.cpp.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/progress.hpp"
#include "sparsemoe/params.hpp"
#include "sparsemoe/random.hpp"

namespace pretraining {

/// A model that trains: what all of them are asked, whatever their type.
template <class Batch>
class Learner {
 public:
  virtual ~Learner() = default;
  virtual void step(const Batch& batch, double rate) = 0;
  /// Perplexity of a target token.
  virtual double perplexity(const std::vector<Batch>& batches) = 0;
  virtual std::string loads() = 0;
  virtual sparsemoe::index_t parameters() const = 0, active() const = 0;
  /// Master weights, for another model of the same shapes to go on from.
  virtual std::vector<float> weights() = 0;
  virtual void set_weights(const std::vector<float>& values) = 0;
  std::string name;
};

/// Parameters that a token meets: of the experts `chosen`.
inline sparsemoe::index_t met_by_a_token(const std::vector<sparsemoe::ParamInfo>& list, int chosen = 1) {
  sparsemoe::index_t n = 0;
  for (const auto& p : list)
    n += p.name.find(".experts.") == std::string::npos ? p.shape.size() : p.shape.size() / p.shape.batch * chosen;
  return n;
}
/// A line a sparse layer: the share of each expert, in percent.
template <class Layers>
std::string shares(const char* stack, const Layers& layers) {
  std::string text;
  for (const auto& layer : layers) {
    text += sparsemoe::join("  ", stack, " layer ", layer.layer, ":");
    double sum = 0;
    for (const auto n : layer.routing.load) sum += static_cast<double>(n);
    for (const auto n : layer.routing.load)
      text += sparsemoe::join(" ", std::llround(100 * static_cast<double>(n) / std::max(1.0, sum)));
    text += " %\n";
  }
  return text;
}
/// One of `n`, with replacement: a function of seed, stream, step and row.
inline std::size_t drawn(std::uint64_t seed, std::uint32_t stream, std::int64_t step, std::size_t row, std::size_t n) {
  const sparsemoe::Random random{seed, static_cast<std::uint32_t>(step), stream};
  return static_cast<std::size_t>((std::uint64_t(random.draw4(sparsemoe::Purpose::sampling, row).v[0]) * n) >> 32);
}

template <class Batch>
using Learners = std::vector<std::unique_ptr<Learner<Batch>>>;

/// All models learn from the same batches, in turn, for `steps` or, if that is 0, `seconds`.
template <class Batch, class NextBatch>
std::int64_t train(Learners<Batch>& learners, std::int64_t steps, double seconds, double peak, NextBatch&& next) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  sparsemoe::Progress progress(0, steps > 0 ? steps : 1000000);
  double tokens = 0;
  std::int64_t step = 0;
  for (; steps > 0 ? step < steps : elapsed() < seconds; ++step) {
    const double done = steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : elapsed() / seconds;
    // Up in the first tenth, down to nothing at the end, be it set by steps or by the clock.
    const double rate = peak * std::min({1.0, 10 * done + 0.01, (1 - done) / 0.5 + 0.01});
    const Batch batch = next(step);
    tokens += batch.tokens();
    for (auto& learner : learners) learner->step(batch, rate);
    progress.update(step + 1, tokens, std::nan(""), steps > 0 ? -1 : seconds - elapsed());
  }
  return step;
}

inline void print_header() {
  std::printf("%-34s %12s %12s %12s %12s\n", "model", "parameters", "for a token", "before", "after");
}
template <class Batch>
void print_row(const Learner<Batch>& learner, double before, double after) {
  std::printf("%-34s %12lld %12lld %12.2f %12.2f\n", learner.name.c_str(), static_cast<long long>(learner.parameters()),
              static_cast<long long>(learner.active()), before, after);
}

}  // namespace pretraining

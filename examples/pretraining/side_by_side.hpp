// SPDX-License-Identifier: Apache-2.0
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
#include "sparsemoe/train/skip_guard.hpp"

namespace pretraining {

/// A model that trains: what all of them are asked, whatever their type.
template <class Batch>
class Learner {
 public:
  virtual ~Learner() = default;
  virtual sparsemoe::UpdateResult step(const Batch& batch, double rate) = 0;
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
  for (const auto& p : list) n += p.of_experts() ? p.shape.size() / p.shape.batch * chosen : p.shape.size();
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
  const sparsemoe::Random random{seed, static_cast<std::uint64_t>(step), stream};
  return static_cast<std::size_t>((std::uint64_t(random.draw4(sparsemoe::Purpose::sampling, row).v[0]) * n) >> 32);
}

template <class Batch>
using Learners = std::vector<std::unique_ptr<Learner<Batch>>>;

/// Throws Error for a model of which nothing can be said any more.
[[noreturn]] inline void diverged(const std::string& model, const sparsemoe::SkipGuard& guard) {
  throw sparsemoe::Error(sparsemoe::join(model, ": ", guard.sentence(), "; begin again with a smaller --learning-rate"),
                         sparsemoe::Exit::diverged);
}

/// All models learn from the same batches, in turn, for `steps` or, if that is 0, `seconds`. A model that skips a step
/// warns; one that has diverged, or whose last step was skipped, ends the comparison: Error with Exit::diverged.
template <class Batch, class NextBatch>
std::int64_t train(Learners<Batch>& learners, std::int64_t steps, double seconds, double peak, NextBatch&& next) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  sparsemoe::Progress progress(0, steps > 0 ? steps : 1000000);
  double tokens = 0;
  std::int64_t step = 0;
  std::vector<sparsemoe::SkipGuard> guards(learners.size());
  for (; steps > 0 ? step < steps : elapsed() < seconds; ++step) {
    const double done = steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : elapsed() / seconds;
    // Up in the first tenth, down to nothing at the end, be it set by steps or by the clock.
    const double rate = peak * std::min({1.0, 10 * done + 0.01, (1 - done) / 0.5 + 0.01});
    const Batch batch = next(step);
    tokens += batch.tokens();
    for (std::size_t i = 0; i < learners.size(); ++i) {
      const std::string text = guards[i].note(step + 1, learners[i]->step(batch, rate));
      if (!text.empty()) progress.message("warning: " + learners[i]->name + ": " + text);
      if (guards[i].diverged()) diverged(learners[i]->name, guards[i]);
    }
    progress.update(step + 1, tokens, std::nan(""), steps > 0 ? -1 : seconds - elapsed());
  }
  for (std::size_t i = 0; i < learners.size(); ++i)
    if (guards[i].skipping()) diverged(learners[i]->name, guards[i]);
  return step;
}

/// exp of a mean loss. Throws Error if that is not finite: a perplexity of nothing would look like a result.
inline double perplexity_of(const std::string& model, double loss, double tokens) {
  const double perplexity = std::exp(loss / tokens);
  if (!std::isfinite(perplexity))
    throw sparsemoe::Error(sparsemoe::join(model, ": the perplexity of the dev rows is ",
                                           sparsemoe::not_finite(perplexity), "; training has diverged"),
                           sparsemoe::Exit::diverged);
  return perplexity;
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

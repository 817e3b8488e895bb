// SPDX-License-Identifier: Apache-2.0
// span_corruption.hpp -- the pre-training task of T5 (Raffel et al. 2020, section 3.1.4; Switch, section 2): random
// spans of a window are each replaced by a sentinel, and the target spells the spans out, each after its sentinel.
//   window  Thank you for inviting me to your party last week
//   input   Thank you <0> me to your party <1> week           target  <0> for inviting <1> last <end>
// Read next: switch_pretraining.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/random.hpp"

namespace pretraining {

using Ids = std::vector<std::int32_t>;

struct SpanCorruption {
  std::int32_t pieces = 0;  // size of the tokenizer; sentinel i is id pieces + sentinels - 1 - i
  std::int32_t sentinels = 100, end = 2;
  double density = 0.15, mean_span = 3;

  std::int32_t vocabulary() const { return pieces + sentinels; }
  std::int32_t sentinel(std::size_t span) const { return vocabulary() - 1 - static_cast<std::int32_t>(span); }
  bool is_sentinel(std::int32_t id) const { return id >= pieces && id < vocabulary(); }

  struct Example {
    Ids input, target;
  };
  /// Tokens of a window of `length` that are noise, and in how many spans.
  struct Shape {
    std::size_t noise, spans;
  };
  Shape shape(std::size_t length) const {
    sparsemoe::require(length >= 2, "span corruption: a window needs at least 2 tokens; got ", length);
    const auto rounded = [](double x) { return static_cast<std::size_t>(std::llround(std::max(0.0, x))); };
    const std::size_t noise = std::clamp<std::size_t>(rounded(static_cast<double>(length) * density), 1, length - 1);
    const std::size_t spans = std::max<std::size_t>(rounded(static_cast<double>(noise) / mean_span), 1);
    return {noise, std::min({spans, noise, length - noise, static_cast<std::size_t>(sentinels)})};
  }

  /// Corrupts a window; `random` and `number` choose the spans. A window begins with a span that is kept.
  Example operator()(const Ids& window, const sparsemoe::Random& random, std::uint64_t number) const {
    const Shape s = shape(window.size());
    const auto noise = partition(s.noise, s.spans, random, 2 * number);
    const auto kept = partition(window.size() - s.noise, s.spans, random, 2 * number + 1);
    Example e;
    auto at = window.begin();
    for (std::size_t i = 0; i < s.spans; ++i) {
      const auto hidden = at + static_cast<std::ptrdiff_t>(kept[i]);
      e.input.insert(e.input.end(), at, hidden);
      e.input.push_back(sentinel(i));
      at = hidden + static_cast<std::ptrdiff_t>(noise[i]);
      e.target.push_back(sentinel(i));
      e.target.insert(e.target.end(), hidden, at);
    }
    e.input.push_back(end);
    e.target.push_back(end);
    return e;
  }

  /// The window that gave this example.
  Ids restored(const Example& e) const {
    Ids window;
    for (auto id = e.input.begin(); id + 1 != e.input.end(); ++id) {
      if (!is_sentinel(*id)) {
        window.push_back(*id);
        continue;
      }
      auto from = std::find(e.target.begin(), e.target.end(), *id);
      while (++from + 1 != e.target.end() && !is_sentinel(*from)) window.push_back(*from);
    }
    return window;
  }

 private:
  /// `items` in `parts` runs of at least one, every such division equally likely: parts - 1 of items - 1 cuts.
  static std::vector<std::size_t> partition(std::size_t items, std::size_t parts, const sparsemoe::Random& random,
                                            std::uint64_t number) {
    std::vector<std::size_t> cuts(items - 1), lengths;
    for (std::size_t i = 0; i < cuts.size(); ++i) cuts[i] = i + 1;
    for (std::size_t i = 0; i + 1 < parts; ++i) {
      const std::uint64_t word = random.draw4(sparsemoe::Purpose::sampling, (number << 16) + i).v[0];
      std::swap(cuts[i], cuts[i + static_cast<std::size_t>((word * (cuts.size() - i)) >> 32)]);
    }
    cuts.resize(parts - 1);
    std::sort(cuts.begin(), cuts.end());
    cuts.push_back(items);
    std::size_t last = 0;
    for (const std::size_t cut : cuts) lengths.push_back(cut - last), last = cut;
    return lengths;
  }
};

}  // namespace pretraining

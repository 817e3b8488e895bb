// SPDX-License-Identifier: Apache-2.0
// optim/schedule.hpp -- learning-rate schedules as plain values: a kind, a few numbers, and at(step).
// A step counts the updates already made: the first update uses at(0). Read next: optim/adafactor.hpp, for the rule
// that a relative step must not be given an absolute schedule's value.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "sparsemoe/error.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct Schedule {
  enum class Kind {
    constant,         // peak, after the warm-up
    linear,           // down from peak to floor at step total
    cosine,           // the same along `cycles` periods of a cosine; half a period ends at floor, and rises after total
    cosine_restarts,  // `cycles` times from peak to floor
    polynomial,       // floor + (peak - floor) (1 - progress)^power
    inverse_sqrt,  // linear warm-up to peak, `hold` updates of it, then peak sqrt(timescale / (step - warmup - hold +
                   // timescale)); Shazeer et al. 2017 hold 6000 after 2000 of warm-up
    transformer,   // peak width^-0.5 min((step + 1) warmup^-1.5, (step + 1)^-0.5): Vaswani et al., Lingvo's
                   // TransformerSchedule; an absolute learning rate
    sqrt_decay,    // peak / sqrt(max(step, warmup)): Lingvo's SqrtDecay, T5's rsqrt; for relative steps
    stable_decay,  // from floor to peak in warmup, `hold` updates at peak, back to floor in the rest of total, stays:
                   // warm-up, stable, decay; the way up is `rise`, the way down `fall`
  };
  /// How much is left after x of a way down: 1 - x, (1 + cos(2 pi cycles x)) / 2, 1 - sqrt(x).
  enum class Shape { linear, cosine, one_minus_sqrt };

  Kind kind = Kind::constant;
  double peak = 1e-3;
  index_t warmup = 0;     // the first kinds rise from 0 to peak in this many updates
  index_t total = 0;      // the update at which a decay has ended
  double floor = 0;       // an absolute learning rate
  index_t width = 0;      // of the model, for transformer
  double power = 1;       // of polynomial
  double cycles = 0.5;    // of the cosines
  index_t timescale = 0;  // of inverse_sqrt; 0: warmup + hold, so that the rate falls as 1 / sqrt(step)
  index_t hold = 0;       // updates of inverse_sqrt and stable_decay at peak
  Shape rise = Shape::linear, fall = Shape::cosine;  // of stable_decay

  double at(index_t step) const {
    const double t = static_cast<double>(step), w = static_cast<double>(warmup);
    if (kind == Kind::transformer)
      return peak / std::sqrt(static_cast<double>(width)) * std::min((t + 1) * std::pow(w, -1.5), 1 / std::sqrt(t + 1));
    if (kind == Kind::sqrt_decay) return peak / std::sqrt(std::max(t, w));
    if (kind == Kind::stable_decay) return floor + (peak - floor) * stable(t);
    if (step < warmup) return peak * (t / w);
    const double n = static_cast<double>(total), progress = (t - w) / std::max(1.0, n - w);
    const double pi = 3.14159265358979323846;
    switch (kind) {
      case Kind::linear: return floor + (peak - floor) * std::max(0.0, (n - t) / std::max(1.0, n - w));
      case Kind::cosine: return floor + (peak - floor) * 0.5 * (1 + std::cos(2 * pi * cycles * progress));
      case Kind::cosine_restarts:
        return progress >= 1 ? floor
                             : floor + (peak - floor) * 0.5 * (1 + std::cos(pi * std::fmod(cycles * progress, 1.0)));
      case Kind::polynomial: return floor + (peak - floor) * std::pow(std::max(0.0, 1 - progress), power);
      case Kind::inverse_sqrt: {
        const double start = w + static_cast<double>(hold);
        const double scale = timescale > 0 ? static_cast<double>(timescale) : std::max(1.0, start);
        return peak / std::sqrt((std::max(t, start) - start + scale) / scale);
      }
      default: return peak;
    }
  }

  /// Throws Error for numbers that make no sense together.
  void check() const;

  template <class F>
  void visit(F&& f) {
    f("kind", kind, "shape of the learning rate over the updates");
    f("peak", peak, "largest learning rate, or the factor of transformer and sqrt_decay");
    f("warmup", warmup, "updates of warm-up");
    f("total", total, "update at which linear, cosine and polynomial decay end");
    f("floor", floor, "learning rate at the end of a decay");
    f("width", width, "model width, for transformer");
    f("power", power, "exponent of polynomial");
    f("cycles", cycles, "periods of cosine, or restarts");
    f("timescale", timescale, "steps of inverse_sqrt, 0: warmup and hold");
    f("hold", hold, "updates at the peak, for inverse_sqrt and stable_decay");
    f("rise", rise, "shape of stable_decay's warm-up");
    f("fall", fall, "shape of stable_decay's decay");
  }

 private:
  double left(Shape shape, double x, double periods) const {
    if (shape == Shape::linear) return 1 - x;
    if (shape == Shape::one_minus_sqrt) return 1 - std::sqrt(x);
    return 0.5 * (1 + std::cos(2 * 3.14159265358979323846 * periods * x));
  }
  double stable(double t) const {
    const double w = static_cast<double>(warmup), start = w + static_cast<double>(hold), n = static_cast<double>(total);
    if (t < w)
      return rise == Shape::linear   ? t / w
             : rise == Shape::cosine ? 1 - left(rise, t / w, 0.5)
                                     : left(rise, 1 - t / w, 0.5);
    if (t < start) return 1;
    return t < n ? left(fall, (t - start) / std::max(1.0, n - start), cycles) : 0;
  }
};

constexpr std::array<std::string_view, 9> field_names(Schedule::Kind) {
  return {"constant",     "linear",      "cosine",     "cosine_restarts", "polynomial",
          "inverse_sqrt", "transformer", "sqrt_decay", "stable_decay"};
}
constexpr std::array<std::string_view, 3> field_names(Schedule::Shape) {
  return {"linear", "cosine", "one_minus_sqrt"};
}
inline std::string_view name(Schedule::Kind kind) { return field_names(kind)[static_cast<std::size_t>(kind)]; }
/// The kind of that name; "rsqrt" is sqrt_decay. Throws Error with the list of names.
inline Schedule::Kind schedule_kind(std::string_view text) {
  if (text == "rsqrt") return Schedule::Kind::sqrt_decay;
  const auto names = field_names(Schedule::Kind::constant);
  const auto at = std::find(names.begin(), names.end(), text);
  if (at != names.end()) return static_cast<Schedule::Kind>(at - names.begin());
  std::string known;
  for (const auto n : names) known += (known.empty() ? "" : ", ") + std::string(n);
  fail("schedule: there is no kind \"", text, "\"; choose one of ", known);
}

inline void Schedule::check() const {
  const auto kind_name = name(kind);
  const auto is = [&](auto... kinds) { return ((kind == kinds) || ...); };
  require(static_cast<std::size_t>(kind) < field_names(kind).size(), "schedule: unknown kind");
  require(std::isfinite(peak) && peak > 0, "schedule: peak must be positive, not ", peak);
  require(warmup >= 0, "schedule: warmup must not be negative, but is ", warmup);
  require(floor >= 0 && floor <= peak, "schedule: floor must be between 0 and peak (", peak, "), not ", floor);
  if (is(Kind::linear, Kind::cosine, Kind::cosine_restarts, Kind::polynomial))
    require(total > warmup, "schedule: ", kind_name, " needs a total above warmup (", warmup, "), not ", total);
  if (is(Kind::transformer)) require(width > 0, "schedule: transformer needs the model's width, not ", width);
  if (is(Kind::transformer, Kind::sqrt_decay)) require(warmup > 0, "schedule: ", kind_name, " needs a warmup above 0");
  if (is(Kind::stable_decay))
    require(total >= warmup + hold, "schedule: stable_decay needs a total of at least warmup and hold (", warmup + hold,
            "), not ", total);
  if (is(Kind::cosine, Kind::cosine_restarts, Kind::stable_decay))
    require(cycles > 0, "schedule: cycles must be positive, not ", cycles);
  if (is(Kind::polynomial)) require(power > 0, "schedule: power must be positive, not ", power);
  if (is(Kind::inverse_sqrt)) require(timescale >= 0, "schedule: timescale must not be negative, but is ", timescale);
  require(hold >= 0 && (hold == 0 || is(Kind::inverse_sqrt, Kind::stable_decay)),
          "schedule: hold is for inverse_sqrt and stable_decay, and not negative, but is ", hold, " with ", kind_name);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

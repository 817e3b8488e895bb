// SPDX-License-Identifier: Apache-2.0
// progress.hpp -- how far a run is: a bar on a terminal, plain lines in a file or pipe.
// Main idea: update() is called every step and decides itself whether to print, so that the loop has no conditions.
// Read next: short_text.hpp; log.hpp, which keeps the numbers.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

#include "sparsemoe/config.hpp"
#include "sparsemoe/io/short_text.hpp"
#include "sparsemoe/io/terminal.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What one line shows. Rates and times that are not known are negative, an unknown loss is NaN.
struct ProgressState {
  std::int64_t step = 0;
  std::int64_t last_step = 0;
  double loss = 0;
  double tokens_per_second = -1;
  double seconds_left = -1;
};

/// One line of at most `columns` characters. The bar takes what the numbers leave; a narrow terminal drops first the
/// bar, then the numbers from the right. `columns` 0 means a plain line without bar or limit.
inline std::string progress_line(const ProgressState& s, int columns) {
  const double done = s.last_step > 0 ? static_cast<double>(s.step) / static_cast<double>(s.last_step) : 0;
  std::string numbers =
      detail::print_number("step %lld/%lld", static_cast<long long>(s.step), static_cast<long long>(s.last_step));
  if (std::isfinite(s.loss)) numbers += detail::print_number("  loss %.4f", s.loss);
  if (s.tokens_per_second >= 0) numbers += "  " + short_number(s.tokens_per_second) + " tokens/s";
  if (s.seconds_left >= 0) numbers += "  " + short_time(s.seconds_left) + " left";
  if (columns <= 0) return numbers;
  const auto limit = static_cast<std::size_t>(columns);
  const std::string percent = detail::print_number("%3.0f%% ", std::floor(100 * std::clamp(done, 0.0, 1.0)));
  const std::size_t used = percent.size() + numbers.size() + 3;
  if (limit < used + 8) return numbers.substr(0, limit);
  const std::size_t width = std::min<std::size_t>(limit - used, 40);
  const auto full = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * static_cast<double>(width));
  return percent + "[" + std::string(full, '=') + std::string(width - full, ' ') + "] " + numbers;
}

struct ProgressOptions {
  std::FILE* out = stderr;
  double plain_seconds = 30;     // without a terminal: a line at most every so many seconds ...
  std::int64_t plain_steps = 0;  // ... or every so many steps, if greater than 0
};

/// Draws progress from `first_step` (0, or the resumed step) to `last_step`.
class Progress {
 public:
  Progress(std::int64_t first_step, std::int64_t last_step, ProgressOptions options = {})
      : options_(options),
        terminal_(::isatty(::fileno(options.out)) == 1),
        first_step_(first_step),
        last_step_(last_step) {
    state_.step = first_step;
    state_.last_step = last_step;
    state_.loss = std::nan("");
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { finish(); }

  /// After a step. `tokens` counts those of this run so far; call it every step, it draws at most 10 times a second.
  /// A run that ends by the clock gives the `seconds_left` of it: its last step is then an estimate. Below 0: no limit.
  void update(std::int64_t step, double tokens, double loss, double seconds_left = -1) {
    const auto now = Clock::now();
    const double elapsed = seconds(start_, now);
    // The rate follows the last seconds with a memory of about 5 s; the first steps (warm-up) fade quickly.
    const double dt = seconds(rate_time_, now);
    if (dt >= 0.05) {
      const double rate = (tokens - rate_tokens_) / dt, keep = state_.tokens_per_second < 0 ? 0 : std::exp(-dt / 5);
      state_.tokens_per_second = keep * state_.tokens_per_second + (1 - keep) * rate;
      rate_time_ = now;
      rate_tokens_ = tokens;
    }
    state_.step = step;
    state_.loss = loss;
    if (step > first_step_) {
      const double per_step = elapsed / static_cast<double>(step - first_step_);
      state_.seconds_left = per_step * static_cast<double>(std::max<std::int64_t>(0, last_step_ - step));
      state_.last_step = last_step_;
      if (seconds_left >= 0 && seconds_left < state_.seconds_left) {
        state_.seconds_left = seconds_left;
        state_.last_step = step + static_cast<std::int64_t>(seconds_left / std::max(1e-9, per_step));
      }
    }
    if (due(step, now)) draw(now);
  }

  /// Prints a line of text, printable, without tearing the bar.
  void message(const std::string& text) {
    std::fprintf(options_.out, "%s%s\n", terminal_ && drawn_ ? "\r\033[K" : "", printable(text).c_str());
    if (terminal_ && drawn_) draw(Clock::now());
    std::fflush(options_.out);
  }

  /// Draws the last state and ends the line. Called by the destructor.
  void finish() {
    if (finished_) return;
    finished_ = true;
    if (state_.step > first_step_ && (terminal_ || printed_step_ != state_.step)) draw(Clock::now());
    if (terminal_ && drawn_) std::fprintf(options_.out, "\n");
    std::fflush(options_.out);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::time_point a, Clock::time_point b) {
    return std::chrono::duration<double>(b - a).count();
  }

  bool due(std::int64_t step, Clock::time_point now) const {
    if (terminal_) return !drawn_ || seconds(drawn_time_, now) >= 0.1;
    if (options_.plain_steps > 0) return step % options_.plain_steps == 0;
    return !drawn_ || seconds(drawn_time_, now) >= options_.plain_seconds;
  }

  void draw(Clock::time_point now) {
    if (terminal_) {
      winsize window{};  // asked each time: windows are resized
      const bool known = ::ioctl(::fileno(options_.out), TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
      const int columns = (known ? window.ws_col : 80) - 1;  // the last column would wrap
      std::fprintf(options_.out, "\r\033[K%s", progress_line(state_, std::max(columns, 1)).c_str());
    } else {
      std::fprintf(options_.out, "%s\n", progress_line(state_, 0).c_str());
    }
    std::fflush(options_.out);
    drawn_ = true;
    drawn_time_ = now;
    printed_step_ = state_.step;
  }

  ProgressOptions options_;
  bool terminal_;
  std::int64_t first_step_, last_step_;
  ProgressState state_;
  Clock::time_point start_ = Clock::now(), rate_time_ = start_, drawn_time_ = start_;
  double rate_tokens_ = 0;
  std::int64_t printed_step_ = -1;
  bool drawn_ = false, finished_ = false;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// short_text.hpp -- numbers and durations for people: three digits and a unit.
// Main idea: one spelling for the progress line, the tables and the axes of the report.
// Read next: progress.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

template <class... Values>
std::string print_number(const char* format, Values... values) {
  char text[64];
  const int n = std::snprintf(text, sizeof text, format, values...);
  return std::string(text, static_cast<std::size_t>(std::clamp(n, 0, 63)));
}

}  // namespace detail

/// "950", "12.3k", "4.56M": three significant digits.
inline std::string short_number(double value) {
  if (!std::isfinite(value)) return "-";
  const char* const units[] = {"", "k", "M", "G", "T"};
  int unit = 0;
  while (std::abs(value) >= 999.5 && unit < 4) value /= 1000, ++unit;
  const double size = std::abs(value);
  const int digits = unit == 0 && value == std::floor(value) ? 0 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return detail::print_number("%.*f%s", digits, value, units[unit]);
}

/// "0:07", "12:34", "3:04:05", "2d 03:04".
inline std::string short_time(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "-";
  const long long s = std::llround(seconds);
  if (s < 3600) return detail::print_number("%lld:%02lld", s / 60, s % 60);
  if (s < 86400) return detail::print_number("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  return detail::print_number("%lldd %02lld:%02lld", s / 86400, s / 3600 % 24, s / 60 % 60);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// svg.hpp -- line charts as SVG text, with no program or library behind them.
// Main idea: colours are CSS classes, so that one drawing is legible on light and dark pages; all text is escaped.
// Read next: svg_heat_map.hpp, svg_tree.hpp; html.hpp, which puts drawings on a page.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/io/short_text.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One line. Points whose y is not finite are gaps. `x` must ascend.
struct Series {
  std::string name;
  std::vector<double> x, y;
};

struct LineChart {
  std::string title;
  std::string x_label = "step", y_label;
  std::vector<Series> series;
};

/// Text for XML and HTML, in content and in quoted attributes. What is not UTF-8, or not allowed in XML, is replaced.
inline std::string escape_xml(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text, at);
    const bool allowed = step.bytes > 0 && (step.code >= 32 || step.code == '\n' || step.code == '\t') &&
                         step.code != 0x7f && step.code != 0xfffe && step.code != 0xffff;
    if (!allowed) {
      out += "\xef\xbf\xbd";
    } else if (step.bytes == 1 && std::string_view("&<>\"'").find(text[at]) != std::string_view::npos) {
      out += text[at] == '&'   ? "&amp;"
             : text[at] == '<' ? "&lt;"
             : text[at] == '>' ? "&gt;"
             : text[at] == '"' ? "&quot;"
                               : "&#39;";
    } else {
      out += text.substr(at, step.bytes);
    }
    at += std::max<std::size_t>(1, step.bytes);
  }
  return out;
}

namespace detail {

inline std::string fixed(double value, int digits = 1) { return print_number("%.*f", digits, value); }

/// A number on an axis or in a legend: enough digits to tell neighbours apart, no more.
inline std::string axis_number(double value) {
  if (!std::isfinite(value)) return "none";
  if (std::abs(value) >= 10000) {
    std::string text = short_number(value);  // "20.0k" reads better as "20k"
    const std::size_t unit = text.size() - 1, dot = text.find('.');
    if (dot != std::string::npos && text.find_first_not_of('0', dot + 1) == unit) text.erase(dot, unit - dot);
    return text;
  }
  return print_number("%.4g", value);
}

/// 0.0005 as "5e-4": short, where a column of zeros would not be.
inline std::string small_number(double value) {
  std::string text = print_number("%.2e", value);
  std::size_t e = text.find('e');
  while (text[e - 1] == '0') text.erase(--e, 1);
  if (text[e - 1] == '.') text.erase(--e, 1);
  while (text.size() > e + 3 && text[e + 2] == '0') text.erase(e + 2, 1);
  return text;
}

/// The numbers of an axis: as axis_number, with the digits that tell neighbours apart.
inline std::vector<std::string> axis_numbers(const std::vector<double>& ticks) {
  std::vector<std::string> texts;
  for (int digits = 3; digits <= 15; ++digits) {
    texts.clear();
    for (const double t : ticks) {
      texts.push_back(digits == 3 ? axis_number(t) : print_number("%.*g", digits, t));
      if (t != 0 && std::abs(t) < 0.01) texts.back() = small_number(t);
    }
    if (std::adjacent_find(texts.begin(), texts.end()) == texts.end()) break;
  }
  return texts;
}

/// The values that an axis covers: those of the data with some air, from 0 where that costs little. Values that are all
/// the same, or nearly, stand on an axis from 0; zeros on one from 0 to 1.
inline std::pair<double, double> axis_range(double low, double high) {
  const double large = std::max(std::abs(low), std::abs(high));
  if (high - low <= 1e-4 * large) return {low < 0 ? 1.25 * low : 0, high > 0 ? 1.25 * high : low < 0 ? 0 : 1};
  if (low >= 0 && low < 0.4 * high) low = 0;
  const double margin = 0.04 * (high - low);
  return {low != 0 ? low - margin : 0, high + margin};
}

/// Whether a chart can place it: sums and differences of such numbers are finite.
inline bool can_be_drawn(double v) { return std::abs(v) <= 1e100; }

/// About `count` round positions covering [low, high]: steps of 1, 2 or 5 times a power of ten, none below `least`.
inline std::vector<double> axis_ticks(double low, double high, int count, double least = 0) {
  const double raw = std::max((high - low) / count, least), power = std::pow(10.0, std::floor(std::log10(raw)));
  const double step = raw <= power ? power : raw <= 2 * power ? 2 * power : raw <= 5 * power ? 5 * power : 10 * power;
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step && ticks.size() < 50; ++i)
    ticks.push_back(i == 0 ? 0.0 : i * step);
  return ticks;
}

/// An estimate of the width of a label: its code points, those of wide scripts twice.
inline double label_width(std::string_view text, double per_character) {
  double width = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text, at);
    width += step.bytes > 0 && step.code >= 0x1100 ? 1.8 * per_character : per_character;
    at += std::max<std::size_t>(1, step.bytes);
  }
  return width;
}

inline std::string svg_text(double x, double y, const char* classes, std::string_view text) {
  return "<text x=\"" + fixed(x) + "\" y=\"" + fixed(y) + "\" class=\"" + classes + "\">" + escape_xml(text) +
         "</text>";
}

inline std::string svg_open(double width, double height, std::string_view title) {
  return "<svg viewBox=\"0 0 " + fixed(width, 0) + " " + fixed(height, 0) + "\" role=\"img\" aria-label=\"" +
         escape_xml(title) + "\">";
}

/// svg_open of a drawing that keeps its size, so that all text of a page is of one: a page that is narrower scrolls.
inline std::string svg_open_fixed(double width, double height, std::string_view title) {
  const std::string size = fixed(width, 0) + "px";
  return svg_open(width, height, title).insert(4, " style=\"min-width:" + size + ";max-width:" + size + "\"");
}

/// At most `limit` points: of each stretch its lowest and highest, so that a spike stays visible.
inline std::vector<std::size_t> thinned(const std::vector<double>& y, std::size_t limit) {
  std::vector<std::size_t> keep;
  const std::size_t n = y.size();
  if (n <= limit) {
    for (std::size_t i = 0; i < n; ++i) keep.push_back(i);
    return keep;
  }
  const std::size_t buckets = limit / 2;
  for (std::size_t b = 0; b < buckets; ++b) {
    const std::size_t begin = b * n / buckets, end = (b + 1) * n / buckets;
    std::size_t low = begin, high = begin;
    for (std::size_t i = begin; i < end; ++i) {  // a NaN is never less or greater: it is kept only if it comes first
      if (y[i] < y[low] || std::isnan(y[low])) low = i;
      if (y[i] > y[high] || std::isnan(y[high])) high = i;
    }
    keep.push_back(std::min(low, high));
    if (low != high) keep.push_back(std::max(low, high));
  }
  if (keep.back() != n - 1) keep.push_back(n - 1);
  return keep;
}

/// Whether `y` goes up and down much more than its course does.
inline bool is_noisy(const std::vector<double>& y) {
  double low = INFINITY, high = -INFINITY, travelled = 0, before = std::nan("");
  for (const double v : y) {
    if (!std::isfinite(v)) continue;
    low = std::min(low, v), high = std::max(high, v);
    if (std::isfinite(before)) travelled += std::abs(v - before);
    before = v;
  }
  return y.size() > 100 && travelled > 4 * (high - low);
}

/// Mean of `y` over up to n / 60 points on either side, as many on both, so that a slope is not bent at the ends.
inline std::vector<double> smoothed(const std::vector<double>& y) {
  const std::size_t n = y.size();
  std::vector<double> sum(n + 1, 0.0), count(n + 1, 0.0), out(n, std::nan(""));
  for (std::size_t i = 0; i < n; ++i) {
    const bool known = std::isfinite(y[i]);
    sum[i + 1] = sum[i] + (known ? y[i] : 0);
    count[i + 1] = count[i] + (known ? 1 : 0);
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t half = std::min({n / 60, i, n - 1 - i});
    if (std::isfinite(y[i])) out[i] = (sum[i + half + 1] - sum[i - half]) / (count[i + half + 1] - count[i - half]);
  }
  return out;
}

}  // namespace detail

/// The classes that drawings use. A page needs it once.
inline constexpr std::string_view kSvgCss = R"css(
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)} svg .title{font-size:14px;font-weight:600} svg .small{font-size:11px;fill:var(--muted)}
svg .end{text-anchor:end} svg .mid{text-anchor:middle}
svg .grid{stroke:var(--line);stroke-width:1} svg .axis{stroke:var(--muted);stroke-width:1}
svg .line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
svg .faint{stroke-width:1;opacity:.35} svg .cell{fill:var(--heat)} svg .none{fill:var(--line)}
svg .k0{stroke:var(--k0)} svg .k1{stroke:var(--k1)} svg .k2{stroke:var(--k2)} svg .k3{stroke:var(--k3)}
svg .k4{stroke:var(--k4)} svg .k5{stroke:var(--k5)} svg .k6{stroke:var(--k6)} svg .k7{stroke:var(--k7)}
svg .d1{stroke-dasharray:6 3} svg .d2{stroke-dasharray:2 3}
)css";

/// An <svg> element, 400 wide. A legend entry ends with the last value. Noisy series are drawn faint under their
/// running mean.
inline std::string svg_line_chart(const LineChart& chart) {
  using detail::fixed, detail::svg_text;
  constexpr double kWidth = 400, kLeft = 46, kRight = 388, kPlot = 160;
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (const Series& s : chart.series) {
    require(s.x.size() == s.y.size(), "svg_line_chart: series ", s.name, " has ", s.x.size(), " x and ", s.y.size(),
            " y");
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!detail::can_be_drawn(s.y[i]) || !detail::can_be_drawn(s.x[i])) continue;
      x0 = std::min(x0, s.x[i]), x1 = std::max(x1, s.x[i]);
      y0 = std::min(y0, s.y[i]), y1 = std::max(y1, s.y[i]);
    }
  }
  const bool empty = !(x0 <= x1);
  if (empty) x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  if (x0 == x1) {
    const double room = std::max(1.0, 1e-6 * std::abs(x0));  // 1 is lost in a number of 17 digits
    x0 = x0 >= 1 ? x0 - room : x0;
    x1 += room;
  }
  std::tie(y0, y1) = detail::axis_range(y0, y1);
  if (y1 - y0 < 1e-300) y1 = y0 + 1;

  std::string legend;
  double lx = kLeft, ly = chart.y_label.empty() ? 38 : 54;
  for (std::size_t k = 0; k < chart.series.size(); ++k) {
    const Series& s = chart.series[k];
    double last = std::nan("");
    for (const double y : s.y) last = std::isfinite(y) ? y : last;
    const std::string text = s.name + ": " + detail::axis_number(last);
    const double width = 30 + detail::label_width(text, 6.6);
    if (lx > kLeft && lx + width > kWidth) lx = kLeft, ly += 17;
    legend += "<path d=\"M" + fixed(lx) + " " + fixed(ly - 4) + "h16\" class=\"line k" + std::to_string(k % 8) + " d" +
              std::to_string(k / 8 % 3) + "\"/>" + svg_text(lx + 20, ly, "small", text);
    lx += width;
  }
  const double top = chart.series.empty() ? 44 : ly + 12, bottom = top + kPlot, height = bottom + 40;
  const auto px = [&](double x) { return kLeft + (x - x0) / (x1 - x0) * (kRight - kLeft); };
  const auto py = [&](double y) { return bottom - (y - y0) / (y1 - y0) * kPlot; };

  std::string out = detail::svg_open(kWidth, height, chart.title) + svg_text(8, 18, "title", chart.title);
  if (!chart.y_label.empty()) out += svg_text(8, 36, "small", chart.y_label);
  out += legend;
  const auto ticks = detail::axis_ticks(y0, y1, 6);
  const auto numbers = detail::axis_numbers(ticks);
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    const double y = py(ticks[i]);
    out += "<path d=\"M" + fixed(kLeft) + " " + fixed(y) + "H" + fixed(kRight) + "\" class=\"grid\"/>" +
           svg_text(kLeft - 6, y + 4, "small end", numbers[i]);
  }
  for (const double x : detail::axis_ticks(x0, x1, 5, chart.x_label == "step" ? 1 : 0)) {
    out += "<path d=\"M" + fixed(px(x)) + " " + fixed(bottom) + "v4\" class=\"axis\"/>" +
           svg_text(px(x), bottom + 17, "small mid", detail::axis_number(x));
  }
  out += "<path d=\"M" + fixed(kLeft) + " " + fixed(bottom) + "H" + fixed(kRight) + "\" class=\"axis\"/>" +
         svg_text((kLeft + kRight) / 2, height - 6, "small mid", chart.x_label);
  if (empty) out += svg_text((kLeft + kRight) / 2, top + kPlot / 2, "small mid", "no data");
  for (std::size_t k = 0; k < chart.series.size(); ++k) {
    const Series& s = chart.series[k];
    const auto draw = [&](const std::vector<double>& y, const std::string& more) {
      std::string path;
      bool pen_down = false;
      for (const std::size_t i : detail::thinned(y, 600)) {
        if (!detail::can_be_drawn(y[i]) || !detail::can_be_drawn(s.x[i])) {
          pen_down = false;
          continue;
        }
        path += (pen_down ? "L" : "M") + fixed(px(s.x[i])) + " " + fixed(py(y[i]));
        if (!pen_down) path += "h.01";  // a point with no neighbour still shows, by its round cap
        pen_down = true;
      }
      if (path.empty()) return;
      out += "<path d=\"" + path + "\" class=\"line k" + std::to_string(k % 8) + " d" + std::to_string(k / 8 % 3) +
             more + "\"/>";
    };
    const bool noisy = detail::is_noisy(s.y);
    draw(s.y, noisy ? " faint" : "");
    if (noisy) draw(detail::smoothed(s.y), "");
  }
  return out + "</svg>";
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

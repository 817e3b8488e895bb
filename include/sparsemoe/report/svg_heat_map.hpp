// SPDX-License-Identifier: Apache-2.0
// report/svg_heat_map.hpp -- a table of numbers as coloured cells. Read next: html.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "sparsemoe/report/svg.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Rows and columns with a label each; values row by row, NaN for unknown. Colour grows from 0 to the largest value.
struct HeatMap {
  std::string title;
  std::string row_label, column_label;
  std::string value_label;  // what a value is, with its unit
  std::vector<std::string> rows, columns;
  std::vector<double> values;  // (rows, columns)
};

namespace detail {

/// Where the parts of a heat map lie. Estimates are of 12px text, 11px for the labels of the columns.
struct HeatMapLayout {
  bool numbers = false;  // cells carry their value, with two decimals; elsewhere colour and tooltip say it
  bool upright = false;  // column labels, where they are wider than a cell
  double cell_width = 24, left = 40, top = 62, width = 0, height = 0;
  static constexpr double cell_height = 19, widest_numbers = 760;

  explicit HeatMapLayout(const HeatMap& map) {
    const auto columns = static_cast<double>(map.columns.size());
    double number = 0, column = 0, row = 0;
    for (const double v : map.values)
      if (std::isfinite(v)) number = std::max(number, label_width(cell_number(v), 7));
    for (const auto& text : map.columns) column = std::max(column, label_width(text, 6.6));
    for (const auto& text : map.rows) row = std::max(row, label_width(text, 7));
    numbers = columns * (number + 10) <= widest_numbers;
    if (numbers) cell_width = std::max(34.0, number + 10);
    upright = column + 4 > cell_width;
    if (upright) top = 50 + column + 6;
    left = std::max({40.0, row + 16, label_width(map.row_label, 6.6) + 16});
    const double grid = left + cell_width * columns + 12;
    const double words = std::max({label_width(map.title, 8.4) + 16, label_width(map.value_label, 6.6) + 190,
                                   left + label_width(map.column_label, 6.6) + 12});
    width = std::max({grid, words, 220.0});
    height = top + cell_height * static_cast<double>(map.rows.size()) + 26;
  }
  static std::string cell_number(double value) {
    return std::abs(value) < 1000 ? fixed(value, std::abs(value) < 100 ? 2 : 0) : axis_number(value);
  }
};

}  // namespace detail

/// An <svg> element of a fixed size. Every cell carries its labels and value as a tooltip.
inline std::string svg_heat_map(const HeatMap& map) {
  using detail::fixed, detail::svg_text;
  const std::size_t rows = map.rows.size(), columns = map.columns.size();
  require(map.values.size() == rows * columns, "svg_heat_map: ", map.values.size(), " values for ", rows, " x ",
          columns);
  double high = 0;
  for (const double v : map.values) high = std::isfinite(v) ? std::max(high, v) : high;
  const detail::HeatMapLayout at(map);
  std::string out = detail::svg_open_fixed(at.width, at.height, map.title) + svg_text(8, 18, "title", map.title);
  for (int i = 0; i < 8; ++i) {  // the scale
    out += "<rect x=\"" + fixed(24 + 12.0 * i) +
           "\" y=\"27\" width=\"12\" height=\"10\" class=\"cell\" fill-opacity=\"" + fixed((i + 0.5) / 8, 2) + "\"/>";
  }
  out += svg_text(8, 36, "small", "0") + svg_text(124, 36, "small", detail::axis_number(high) + "  " + map.value_label);
  out += svg_text(at.left - 8, at.top - 5, "small end", map.row_label);
  for (std::size_t c = 0; c < columns; ++c) {
    const double x = at.left + at.cell_width * (static_cast<double>(c) + 0.5);
    if (at.upright)
      out += "<text transform=\"translate(" + fixed(x + 4) + " " + fixed(at.top - 5) +
             ") rotate(-90)\" class=\"small\">" + escape_xml(map.columns[c]) + "</text>";
    else
      out += svg_text(x, at.top - 5, "small mid", map.columns[c]);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const double y = at.top + at.cell_height * static_cast<double>(r);
    out += svg_text(at.left - 8, y + 14, "end", map.rows[r]);
    for (std::size_t c = 0; c < columns; ++c) {
      const double v = map.values[r * columns + c], x = at.left + at.cell_width * static_cast<double>(c);
      const double depth = std::isfinite(v) && high > 0 ? std::clamp(v / high, 0.0, 1.0) : 0;
      out += "<rect x=\"" + fixed(x + 0.5) + "\" y=\"" + fixed(y + 0.5) + "\" width=\"" + fixed(at.cell_width - 1) +
             "\" height=\"" + fixed(at.cell_height - 1) + "\" class=\"";
      out += std::isfinite(v) ? "cell\" fill-opacity=\"" + fixed(0.03 + 0.97 * depth, 2) : std::string("none");
      out += "\"><title>" + escape_xml(map.rows[r] + ", " + map.columns[c] + ": " + detail::axis_number(v)) +
             "</title></rect>";
      if (at.numbers && std::isfinite(v))
        out += svg_text(x + at.cell_width / 2, y + 14, depth > 0.55 ? "mid on" : "mid",
                        detail::HeatMapLayout::cell_number(v));
    }
  }
  return out + svg_text(at.left, at.height - 8, "small", map.column_label) + "</svg>";
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

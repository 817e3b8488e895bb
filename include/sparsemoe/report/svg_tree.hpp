// SPDX-License-Identifier: Apache-2.0
// report/svg_tree.hpp -- a clustering as an SVG tree: leaves at the left, merges to the right at their distance.
// Read next: report/routing_report.hpp.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "sparsemoe/analysis/linkage.hpp"
#include "sparsemoe/report/svg.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// An <svg> element of merges over `labels`. Throws Error unless there is one merge fewer than labels.
inline std::string svg_tree(const std::string& title, const std::string& distance_label,
                            const std::vector<std::string>& labels, const std::vector<Merge>& merges) {
  using detail::fixed, detail::svg_text;
  const std::size_t n = labels.size();
  require(n >= 1 && merges.size() + 1 == n, "svg_tree: ", merges.size(), " merges for ", n, " labels");
  double label = 0, high = 0;
  for (const auto& text : labels) label = std::max(label, detail::label_width(text, 7));
  for (const auto& m : merges) high = std::max(high, m.height);
  const double left = std::max(40.0, label + 14), plot = 300, row = 18, top = 34;
  const double words = std::max(detail::label_width(title, 8.4), left + detail::label_width(distance_label, 6.6)) + 16;
  const double width = std::max(left + plot + 24, words), height = top + row * static_cast<double>(n) + 50;
  const auto px = [&](double h) { return left + (high > 0 ? h / high : 0) * plot; };
  std::vector<double> x(n + merges.size(), left), y(n + merges.size(), 0);
  std::string out = detail::svg_open_fixed(width, height, title) + svg_text(8, 18, "title", title);
  const auto order = leaf_order(merges, n);
  for (std::size_t i = 0; i < n; ++i) {
    y[order[i]] = top + row * (static_cast<double>(i) + 0.5);
    out += svg_text(left - 6, y[order[i]] + 4, "end", labels[order[i]]);
  }
  for (std::size_t k = 0; k < merges.size(); ++k) {
    const Merge& m = merges[k];
    const double at = px(m.height);
    x[n + k] = at;
    y[n + k] = (y[m.left] + y[m.right]) / 2;
    out += "<path d=\"M" + fixed(x[m.left]) + " " + fixed(y[m.left]) + "H" + fixed(at) + "V" + fixed(y[m.right]) + "H" +
           fixed(x[m.right]) + "\" class=\"line k0 d0\"/>";
  }
  const double bottom = top + row * static_cast<double>(n) + 6;
  out += "<path d=\"M" + fixed(left) + " " + fixed(bottom) + "H" + fixed(left + plot) + "\" class=\"axis\"/>" +
         svg_text(left, bottom + 16, "small mid", "0") +
         svg_text(left + plot, bottom + 16, "small mid", fixed(high, 2)) +
         svg_text(left, bottom + 32, "small", distance_label);
  return out + "</svg>";
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

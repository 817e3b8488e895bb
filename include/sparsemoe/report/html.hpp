// SPDX-License-Identifier: Apache-2.0
// html.hpp -- one self-contained HTML file from sections: key-value lists, tables, line charts, heat maps.
// Main idea: everything is inline and nothing is fetched (a content policy in the page forbids it), so that a report
// can be mailed and opened in ten years. Light and dark follow the reader's system. Read next: svg.hpp,
// training_report.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sparsemoe/io/file.hpp"
#include "sparsemoe/report/svg_heat_map.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Cells are text. A column whose filled cells are all numbers is aligned to the right.
struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
};
/// The same as a Markdown table; numbers, which every column but the first has, to the right.
inline std::string markdown(const Table& table) {
  std::string out = "|", rule = "|";
  for (std::size_t c = 0; c < table.columns.size(); ++c)
    out += " " + table.columns[c] + " |", rule += c == 0 ? "---|" : "---:|";
  out += "\n" + rule + "\n";
  for (const auto& row : table.rows) {
    out += "|";
    for (const auto& cell : row) out += " " + cell + " |";
    out += "\n";
  }
  return out;
}

using KeyValues = std::vector<std::pair<std::string, std::string>>;

/// What a page calls the directory of a run or model: its name, whatever way it was given.
inline std::string run_name(const std::filesystem::path& directory) {
  std::error_code none;
  std::filesystem::path path = std::filesystem::absolute(directory, none).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.has_filename() ? path.filename().string() : directory.string();
}

namespace detail {

inline bool looks_numeric(std::string_view text) {
  if (text == "none") return true;  // a number that is not known
  return !text.empty() && (text == "-" || text.find_first_of("0123456789") != std::string_view::npos) &&
         text.find_first_not_of("0123456789+-.:,%eE kMGTd") == std::string_view::npos;
}

inline constexpr std::string_view kPageCss = R"css(
:root{color-scheme:light dark;--page:#fff;--ink:#1d2329;--muted:#5b6570;--line:#dfe3e8;--soft:#f4f6f8;--heat:#0b5fa5;
--on:#fff;--k0:#0b5fa5;--k1:#c8501e;--k2:#1a7f4e;--k3:#8e3a9d;--k4:#a67c00;--k5:#0089a0;--k6:#b3264f;--k7:#5b6570}
@media(prefers-color-scheme:dark){:root{--page:#14181c;--ink:#e4e8ec;--muted:#9aa5b1;--line:#2f363d;--soft:#1c2126;
--heat:#58b0ff;--on:#0b1014;--k0:#58b0ff;--k1:#ff9a62;--k2:#5fd39a;--k3:#d596e2;--k4:#e6c04d;--k5:#4fd2e6;--k6:#ff7fa3;
--k7:#9aa5b1}}
*{box-sizing:border-box} body{margin:0 auto;max-width:1240px;padding:20px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif} h1{font-size:26px;line-height:1.2;margin:8px 0;overflow-wrap:anywhere}
h2{font-size:19px;margin:36px 0 10px;padding-top:10px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:18px 0 6px} p{margin:6px 0;max-width:80ch} .sub,.note{color:var(--muted)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0} a{color:var(--k0)}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,360px),1fr));gap:20px}
.wide{overflow-x:auto;margin:14px 0} .tall{max-height:34rem;overflow-y:auto}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,150px),1fr));gap:12px;margin:12px 0}
dl div{background:var(--soft);border-radius:6px;padding:8px 12px} dt{color:var(--muted);font-size:13px}
dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums} caption{text-align:left;color:var(--muted)}
th,td{padding:4px 12px;text-align:start;vertical-align:top;border-bottom:1px solid var(--line)}
th{position:sticky;top:0;background:var(--page);color:var(--muted);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap} td{max-width:80ch;overflow-wrap:break-word}
tbody tr:hover{background:var(--soft)}
svg .on{fill:var(--on)}
@media print{.tall{max-height:none} .wide{overflow:visible}}
)css";

}  // namespace detail

/// Collects sections in order, then writes one file.
class HtmlReport {
 public:
  explicit HtmlReport(std::string title, std::string subtitle = "")
      : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

  /// Starts a section with an entry in the list of contents.
  void section(const std::string& heading) {
    const std::string id = "s" + std::to_string(++sections_);
    contents_ += "<a href=\"#" + id + "\">" + escape_xml(heading) + "</a>";
    body_ += "<h2 id=\"" + id + "\">" + escape_xml(heading) + "</h2>\n";
  }
  void heading(const std::string& text) { body_ += "<h3>" + escape_xml(text) + "</h3>\n"; }
  void paragraph(const std::string& text) { body_ += "<p class=\"note\">" + escape_xml(text) + "</p>\n"; }

  void key_values(const KeyValues& pairs) {
    body_ += "<dl>";
    for (const auto& [key, value] : pairs)
      body_ += "<div><dt>" + escape_xml(key) + "</dt><dd>" + escape_xml(value) + "</dd></div>";
    body_ += "</dl>\n";
  }

  void table(const Table& table) {
    std::vector<bool> numeric(table.columns.size(), true);
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      bool filled = false;
      for (const auto& row : table.rows) {
        require(row.size() == table.columns.size(), "HtmlReport::table: a row has ", row.size(), " cells for ",
                table.columns.size(), " columns");
        if (row[c].empty()) continue;
        filled = true;
        if (!detail::looks_numeric(row[c])) numeric[c] = false;
      }
      if (!filled) numeric[c] = false;
    }
    body_ += table.rows.size() > 20 ? "<div class=\"wide tall\">" : "<div class=\"wide\">";
    body_ += "<table><thead><tr>";
    for (std::size_t c = 0; c < table.columns.size(); ++c)
      body_ += (numeric[c] ? "<th class=\"n\">" : "<th>") + escape_xml(table.columns[c]) + "</th>";
    body_ += "</tr></thead><tbody>";
    for (const auto& row : table.rows) {
      body_ += "<tr>";  // dir=auto: a translation may run from right to left
      for (std::size_t c = 0; c < row.size(); ++c)
        body_ += (numeric[c] ? "<td class=\"n\">" : "<td dir=\"auto\">") + escape_xml(row[c]) + "</td>";
      body_ += "</tr>\n";
    }
    body_ += "</tbody></table></div>\n";
  }

  /// Charts side by side where the window is wide enough. Those without any point are left out.
  void line_charts(const std::vector<LineChart>& charts) {
    std::string drawn;
    for (const LineChart& chart : charts) {
      const bool filled = std::any_of(chart.series.begin(), chart.series.end(), [](const Series& s) {
        return std::any_of(s.y.begin(), s.y.end(), [](double y) { return std::isfinite(y); });
      });
      if (filled) drawn += "<div>" + svg_line_chart(chart) + "</div>\n";
    }
    if (!drawn.empty()) body_ += "<div class=\"grid2\">" + drawn + "</div>\n";
  }

  void heat_map(const HeatMap& map) { drawing(svg_heat_map(map)); }
  /// An <svg> element, as the functions of this folder return them: put on the page as it is.
  void drawing(const std::string& svg) { body_ += "<div class=\"wide\">" + svg + "</div>\n"; }

  std::string text() const {
    std::string out =
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n";
    out += "<title>" + escape_xml(title_) + "</title>\n<style>";
    out += detail::kPageCss;
    out += kSvgCss;
    out += "</style>\n</head>\n<body>\n<h1>" + escape_xml(title_) + "</h1>\n";
    if (!subtitle_.empty()) out += "<p class=\"sub\">" + escape_xml(subtitle_) + "</p>\n";
    if (sections_ > 1) out += "<nav>" + contents_ + "</nav>\n";
    return out + body_ + "</body>\n</html>\n";
  }

  void write(const std::filesystem::path& path) const { atomic_write(path, text()); }

 private:
  std::string title_, subtitle_, contents_, body_;
  int sections_ = 0;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

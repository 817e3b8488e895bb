// SPDX-License-Identifier: Apache-2.0
// report/routing_report.hpp -- expert use by language or direction as CSV, JSON and a page: heat maps in the manner of
// Kudugunta et al. 2021 (figures 5-11), a tree of likeness for each stack, entropy, and experts nobody uses.
// Read next: analysis/expert_use.hpp for the numbers.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "sparsemoe/analysis/expert_use.hpp"
#include "sparsemoe/io/json.hpp"
#include "sparsemoe/report/html.hpp"
#include "sparsemoe/report/svg_tree.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {
namespace detail {

inline std::string use_name(const ExpertUse& use) { return use.stack + " layer " + std::to_string(use.layer); }

inline std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

inline HeatMap use_map(const ExpertUse& use, const std::string& group_label) {
  HeatMap map{use_name(use) + ", router: " + use.router,
              group_label,
              "expert",
              "times the fair share of the row's choices",
              use.groups,
              {},
              {}};
  for (index_t e = 0; e < use.experts; ++e) map.columns.push_back(std::to_string(e));
  for (std::size_t g = 0; g < use.groups.size(); ++g)
    for (const double p : use.shares(g))
      map.values.push_back(use.total(g) > 0 ? p * static_cast<double>(use.experts) : std::nan(""));
  return map;
}

}  // namespace detail

/// Rows of stack,layer,router,group,expert,count,share, with a heading; ends with a newline.
inline std::string routing_csv(const std::vector<ExpertUse>& layers) {
  std::string out = "stack,layer,router,group,expert,count,share\n";
  for (const auto& use : layers)
    for (std::size_t g = 0; g < use.groups.size(); ++g) {
      const auto p = use.shares(g);
      for (index_t e = 0; e < use.experts; ++e)
        out += join(use.stack, ",", use.layer, ",", use.router, ",", detail::csv_field(use.groups[g]), ",", e, ",",
                    use.count(g, e), ",", detail::fixed(p[static_cast<std::size_t>(e)], 6), "\n");
    }
  return out;
}

/// The same as a document: for each layer its counts, entropy in bits by group and dead experts; for each stack the
/// distances between groups and the merges of their tree.
inline Json routing_json(const std::vector<ExpertUse>& layers) {
  Json list = Json::array(), trees = Json::array();
  std::map<std::string, std::vector<ExpertUse>> stacks;
  for (const auto& use : layers) {
    Json counts = Json::array(), entropy = Json::array();
    for (std::size_t g = 0; g < use.groups.size(); ++g) {
      std::vector<std::int64_t> row;
      for (index_t e = 0; e < use.experts; ++e) row.push_back(use.count(g, e));
      counts.push_back(row);
      entropy.push_back(entropy_bits(use.shares(g)));
    }
    list.push_back({{"stack", use.stack},
                    {"layer", use.layer},
                    {"router", use.router},
                    {"experts", use.experts},
                    {"groups", use.groups},
                    {"counts", counts},
                    {"entropy_bits", entropy},
                    {"dead_experts", use.dead()}});
    stacks[use.stack].push_back(use);
  }
  for (const auto& [stack, uses] : stacks) {
    const std::size_t n = uses.front().groups.size();
    const auto distances = use_distances(uses);
    Json merges = Json::array();
    for (const auto& m : average_linkage(distances, n)) merges.push_back({m.left, m.right, m.height});
    trees.push_back({{"stack", stack}, {"groups", uses.front().groups}, {"distances", distances}, {"merges", merges}});
  }
  return {{"layers", list}, {"trees", trees}};
}

/// One page. `group_label` says what a row is: "direction" or "language".
inline HtmlReport routing_page(const std::vector<ExpertUse>& layers, const std::string& title,
                               const std::string& group_label) {
  HtmlReport page(title, "written by sparsemoe " SPARSEMOE_VERSION);
  page.section("Summary");
  Table summary{{"layer", "router", "experts", "dead experts", "least entropy, bits", "mean entropy, bits",
                 "most possible, bits"},
                {}};
  std::map<std::string, std::vector<ExpertUse>, std::greater<>> stacks;
  for (const auto& use : layers) {
    double least = INFINITY, sum = 0;
    for (std::size_t g = 0; g < use.groups.size(); ++g) {
      const double h = entropy_bits(use.shares(g));
      least = std::min(least, h);
      sum += h;
    }
    summary.rows.push_back({detail::use_name(use), use.router, std::to_string(use.experts),
                            std::to_string(use.dead().size()), detail::fixed(least, 2),
                            detail::fixed(sum / static_cast<double>(use.groups.size()), 2),
                            detail::fixed(std::log2(static_cast<double>(use.experts)), 2)});
    stacks[use.stack].push_back(use);
  }
  page.table(summary);
  for (const auto& [stack, uses] : stacks) {
    page.section("Experts of the " + stack);
    page.paragraph("Each row is one " + group_label +
                   "'s choices over the experts: 1 is an even spread. Point at a cell for its value.");
    for (const auto& use : uses) page.heat_map(detail::use_map(use, group_label));
    const auto merges = average_linkage(use_distances(uses), uses.front().groups.size());
    page.drawing(svg_tree("Likeness by expert use, " + stack, "root of the Jensen-Shannon divergence, average linkage",
                          uses.front().groups, merges));
  }
  return page;
}
inline void write_routing_report(const std::vector<ExpertUse>& layers, const std::string& title,
                                 const std::string& group_label, const std::filesystem::path& out_html) {
  routing_page(layers, title, group_label).write(out_html);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

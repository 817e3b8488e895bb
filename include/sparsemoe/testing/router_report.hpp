// SPDX-License-Identifier: Apache-2.0
// testing/router_report.hpp -- what check_router found. Read next: testing/check_router.hpp.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "sparsemoe/testing/check_layer.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct RouterReport {
  struct Property {
    std::string name;
    bool held;
    std::string detail;
    std::string option;  // how an author who does not want it turns it off
  };
  std::vector<Property> properties;
  LayerReport gradient;     // of outputs and the losses of the layer
  std::string description;  // describe_router(): what the library read

  bool passed() const {
    return std::all_of(properties.begin(), properties.end(), [](const Property& p) { return p.held; });
  }
  /// "does not hold: ..." for each property that does not, one a line, or "all N properties hold"; then the router as
  /// the library read it.
  std::string text() const {
    std::string out;
    for (const auto& p : properties)
      if (!p.held)
        out += join("does not hold: ", p.name, p.detail.empty() ? "" : ": ", p.detail,
                    p.option.empty() ? "" : "; if that is meant: ", p.option, "\n");
    if (out.empty()) out = join("all ", properties.size(), " properties hold; gradients: ", gradient.text(), "\n");
    return out + "the router as it was read:\n" + description;
  }
  void add(const std::string& name, bool held, const std::string& detail = "", const std::string& option = "") {
    properties.push_back({name, held, detail, option});
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

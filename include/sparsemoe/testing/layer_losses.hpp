// SPDX-License-Identifier: Apache-2.0
// testing/layer_losses.hpp -- the losses of a sparse layer by name, so that check_router can name a wrong one. Read
// next: testing/check_router.hpp.
#pragma once

#include <vector>

#include "sparsemoe/concepts.hpp"
#include "sparsemoe/nn/moe_config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

/// A loss of a sparse layer, by the coefficient that it is times.
struct LayerLoss {
  const char* name;
  double MoeConfig::*coefficient;
};
/// Those that a layer with this router has.
template <class Router>
std::vector<LayerLoss> layer_losses() {
  using Traits = RouterTraits<Router>;
  std::vector<LayerLoss> all;
  if (!Traits::learned) return all;
  if (Traits::balance == Balance::importance) {
    all.push_back({"importance", &MoeConfig::importance_coefficient});
    if (Traits::noisy) all.push_back({"load", &MoeConfig::load_coefficient});
  } else if (Traits::balance != Balance::none) {
    all.push_back({"balance", &MoeConfig::balance_coefficient});
  }
  if (Traits::score == Score::softmax) all.push_back({"z", &MoeConfig::z_coefficient});
  if (Traits::thresholds) all.push_back({"threshold", &MoeConfig::threshold_coefficient});
  return all;
}
inline void clear_losses(MoeConfig& c) {
  c.balance_coefficient = c.z_coefficient = c.importance_coefficient = c.load_coefficient = 0;
  c.threshold_coefficient = 0;
}

}  // namespace detail
}  // namespace sparsemoe::inline SPARSEMOE_ABI

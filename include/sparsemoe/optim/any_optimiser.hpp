// SPDX-License-Identifier: Apache-2.0
// optim/any_optimiser.hpp -- an optimiser chosen at run time among some: an optimiser itself, whose configuration is
// that of the one chosen. Read next: optim/optimiser.hpp.
#pragma once

#include <utility>
#include <variant>

#include "sparsemoe/optim/optimiser.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// One of `Optimisers`, all of one precision and backend; a Config made of nothing is that of the first.
template <class... Optimisers>
class AnyOptimiser {
  using Held = std::variant<Optimisers...>;
  using One = std::variant_alternative_t<0, Held>;

 public:
  using Precision = typename One::Precision;
  using Backend = typename One::Backend;
  using Context = typename Backend::Context;
  using Config = std::variant<typename Optimisers::Config...>;
  static constexpr const char* name = "any";
  static_assert((std::is_same_v<typename Optimisers::Precision, Precision> && ...) &&
                    (std::is_same_v<typename Optimisers::Backend, Backend> && ...),
                "any optimiser: use optimisers of one precision and one backend");

  AnyOptimiser(Context& ctx, const std::vector<ParamInfo>& list, const Config& config)
      : held_(make<0>(ctx, list, config)) {}

  void update(Context& ctx, typename Precision::master* master, const typename Precision::accumulate* gradient,
              double gradient_scale, typename Precision::storage* weights, index_t step, double learning_rate) {
    std::visit([&](auto& o) { o.update(ctx, master, gradient, gradient_scale, weights, step, learning_rate); }, held_);
  }
  template <class F>
  void visit_state(F&& f) {
    std::visit([&](auto& o) { o.visit_state(f); }, held_);
  }

 private:
  template <std::size_t At>
  static Held make(Context& ctx, const std::vector<ParamInfo>& list, const Config& config) {
    if constexpr (At + 1 < sizeof...(Optimisers))
      if (config.index() != At) return make<At + 1>(ctx, list, config);
    return Held(std::in_place_index<At>, ctx, list, std::get<At>(config));
  }
  Held held_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

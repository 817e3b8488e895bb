// SPDX-License-Identifier: Apache-2.0
// nn/check_choices.hpp -- what a router gave, looked at before it is used as an index: a wrong number would read and
// write other memory. On in debug builds (SPARSEMOE_CHECK_CHOICES of config.hpp) on the CPU, and in check_router on any
// backend. Read next: nn/routing.hpp, which calls it.
#pragma once

#include <cmath>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/tokens.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A router that does not keep its contract.
class RouterError : public Error {
 public:
  using Error::Error;
};

namespace detail {

template <class Spec>
inline constexpr bool check_choices_of = [] {
  if constexpr (requires { requires Spec::check_choices; })
    return true;
  else
    return SPARSEMOE_CHECK_CHOICES != 0 && Spec::Backend::host_memory;
}();

inline const char* unit_name(Level level) {
  return level == Level::sentence ? "sentence" : level == Level::task ? "task" : "token";
}

/// n values where the host can read them: their own place, or `copy`.
template <class B, class T>
const T* on_host(typename B::Context& ctx, const T* values, index_t n, std::vector<T>& copy) {
  if constexpr (B::host_memory) return values;
  copy.resize(static_cast<std::size_t>(n));
  if (n > 0) B::copy_to_host(ctx, copy.data(), values, n);
  B::synchronise(ctx);
  return copy.data();
}

/// Throws RouterError for a choice of a unit with tokens that is no expert. chosen (units, top_k), weight (units) are
/// on the host.
template <class Router>
void check_choices(const std::int32_t* chosen, const std::int32_t* weight, index_t units, index_t top_k,
                   index_t experts) {
  const char* const hook = RouterTraits<Router>::assigns ? "assign() gave" : "choose() returned";
  for (index_t i = 0; i < units * top_k; ++i) {
    const std::int32_t v = chosen[i];
    if (weight[i / top_k] == 0 || v == Choice<1>::none || Choice<1>::expert_of(v) < experts) continue;
    const auto unit = join(unit_name(Router::level), " ", i / top_k);
    if (v >= 0) throw RouterError(join("router: ", hook, " expert ", v, " of ", experts, " for ", unit));
    throw RouterError(join("router: ", hook, " ", v, " for ", unit, ", which is the rejected expert ",
                           Choice<1>::expert_of(v), " of ", experts));
  }
}

/// Throws RouterError for a weight (T, K) of a finite row of scores that is not finite.
template <class Router, class R>
void check_weights(const R* combine, Matrix<const R> scores, const Choices& choices, index_t tokens) {
  for (index_t i = 0; i < tokens * choices.top_k; ++i) {
    if (std::isfinite(combine[i])) continue;
    const index_t t = i / choices.top_k, u = choices.units.of(t);
    bool finite = true;  // a model that diverged is not the router's fault
    for (index_t e = 0; e < scores.cols && !scores.empty(); ++e) finite = finite && std::isfinite(scores(u, e));
    if (finite)
      throw RouterError(join("router: ", Router::gate == Gate::own ? "weigh()" : "the gate", " gave expert ",
                             choices.at(t, i % choices.top_k), " of token ", t, " the weight ", combine[i]));
  }
}

}  // namespace detail
}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// testing/router_gradients.hpp -- the part of check_router that is about slopes: of outputs and every routing loss of
// one sparse layer, and of a StackLoss over two. Read next: testing/layer_losses.hpp, testing/stack_bench.hpp.
#pragma once

#include <string>

#include "sparsemoe/testing/layer_losses.hpp"
#include "sparsemoe/testing/router_bench.hpp"
#include "sparsemoe/testing/router_report.hpp"
#include "sparsemoe/testing/stack_bench.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

/// All at once; if that fails, each alone, so that the wrong one is named.
template <class Router, class B>
void check_gradients(const RouterBench<Router, B>& bench, const MoeConfig& config, const RouterBatch& batch,
                     RouterReport& report) {
  using Traits = RouterTraits<Router>;
  MoeConfig c = config;
  c.jitter = Traits::level == Level::token ? 0.1 : 0;
  report.gradient = bench.gradient(c, batch);
  std::string names;
  for (const LayerLoss& loss : layer_losses<Router>()) names += join(names.empty() ? "" : ", ", loss.name);
  report.add("gradients of outputs, combine weights and routing losses" + (names.empty() ? "" : " (" + names + ")"),
             report.gradient.passed(), report.gradient.text());
  if (report.gradient.passed()) return;

  MoeConfig none = c;
  clear_losses(none);
  const LayerReport outputs = bench.gradient(none, batch, {.most = 40});
  report.add(Traits::gate == Gate::own
                 ? "gradient of outputs and combine weights: weigh_backward() is the slope of weigh()"
                 : "gradient of outputs and combine weights",
             outputs.passed(), outputs.text());
  if (!outputs.passed()) return;
  for (const LayerLoss& loss : layer_losses<Router>()) {
    MoeConfig one = none;
    one.*loss.coefficient = c.*loss.coefficient;
    const LayerReport alone = bench.gradient(one, batch, {.most = 40});
    report.add(join("gradient of the ", loss.name, " loss"), alone.passed(), alone.text());
  }
}

/// StackLoss over two sparse layers. One that refuses the batch's balance scope is tried with that of sequences.
template <class Router, class B>
void check_stack_loss(const Router& router, const RouterCheckOptions& options, const MoeConfig& config,
                      const RouterBatch& batch, RouterReport& report) {
  MoeConfig c = config;
  clear_losses(c);
  c.balance_coefficient = config.balance_coefficient;
  std::string refused;
  for (const LossScope scope : {LossScope::global, LossScope::sequence}) {
    c.balance_scope = scope;
    try {
      const StackBench<Router, B> bench(router, options, c);
      const LayerReport slopes = bench.slopes(batch), all = bench.gradient(batch, {.most = 40});
      report.add("StackLoss: its slopes (coefficient, dcombine) are those of its value",
                 slopes.worst <= slopes.tolerance, slopes.text());
      report.add("StackLoss: gradients of two sparse layers and the loss over both", all.passed(), all.text());
      return;
    } catch (const RouterError&) {
      throw;
    } catch (const Error& e) {
      refused += join(refused.empty() ? "" : "; ", e.what());
    }
  }
  report.add("StackLoss: it can be run over two sparse layers", false, refused);
}

}  // namespace detail

}  // namespace sparsemoe::inline SPARSEMOE_ABI

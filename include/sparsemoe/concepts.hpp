// SPDX-License-Identifier: Apache-2.0
// concepts.hpp -- the contracts of precisions, collectives and Specs, each with a check_*() list. Those of the others
// stand with what uses them: router_concept.hpp, backend/check_backend.hpp, optim/optimiser.hpp, testing/check_layer.hpp.
// A checklist is a function of static_asserts, one imperative sentence for each missing item; call it under the struct
// you write, and the compiler says what to add, on your line, on every compiler. Concepts document; checklists report.
// Read next: precision.hpp, router_concept.hpp, backend/cpu.hpp, comm/solo.hpp and optim/optimiser.hpp for one of each;
// nn/moe.hpp for what is done with a router.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "sparsemoe/precision.hpp"
#include "sparsemoe/router_traits.hpp"
#include "sparsemoe/team.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

// ------------------------------------------------------------------------------------------------ precision
template <class P>
constexpr bool check_precision() {
  static_assert(
      requires { typename P::storage; }, "precision: add  using storage = (type of weights and activations)");
  static_assert(
      requires { typename P::compute; }, "precision: add  using compute = (type of arithmetic)");
  static_assert(
      requires { typename P::accumulate; }, "precision: add  using accumulate = (type of sums and gradients)");
  static_assert(
      requires { typename P::master; }, "precision: add  using master = (type of the optimiser's copy)");
  static_assert(
      requires { typename P::router; }, "precision: add  using router = (type of gate logits and softmax)");
  if constexpr (requires {
                  typename P::storage;
                  typename P::compute;
                  typename P::accumulate;
                  typename P::router;
                }) {
    static_assert(sizeof(typename P::storage) <= sizeof(typename P::compute),
                  "precision: make compute at least as wide as storage");
    static_assert(sizeof(typename P::compute) <= sizeof(typename P::accumulate),
                  "precision: make accumulate at least as wide as compute");
    static_assert(sizeof(typename P::router) >= sizeof(float),
                  "precision: make router float or wider; selective precision keeps the router in fp32");
  }
  return true;
}

// ----------------------------------------------------------------------------------------------- collective
/// How ranks talk: one verb each, over float, double or integers in the memory of the backend.
template <class C>
constexpr bool check_collective() {
  static_assert(
      requires(C & c) {
        { c.rank() } -> std::convertible_to<int>;
      },
      "collective: add  int rank() const");
  static_assert(
      requires(C & c) {
        { c.size() } -> std::convertible_to<int>;
      },
      "collective: add  int size() const");
  static_assert(
      requires(C & c, float* p, std::size_t n) { c.all_reduce_sum(p, n); },
      "collective: add  void all_reduce_sum(T* values, size_t n)");
  static_assert(
      requires(C & c, const float* p, float* q, const std::size_t* n) { c.all_to_all_v(p, n, q, n); },
      "collective: add  void all_to_all_v(const T* from, const size_t* counts_out, T* to, const size_t* counts_in)");
  static_assert(
      requires(C & c, const float* p, float* q, std::size_t n) { c.all_gather(p, q, n); },
      "collective: add  void all_gather(const T* mine, T* all, size_t n)");
  static_assert(
      requires(C & c, const float* p, float* q, std::size_t n) { c.reduce_scatter_sum(p, q, n); },
      "collective: add  void reduce_scatter_sum(const T* all, T* mine, size_t n)");
  static_assert(
      requires(C & c, float* p, std::size_t n) { c.broadcast(p, n, 0); },
      "collective: add  void broadcast(T* values, size_t n, int root)");
  static_assert(
      requires(C & c) { c.barrier(); }, "collective: add  void barrier()");
  return true;
}

// ----------------------------------------------------------------------------------------------------- spec
/// The bundle of policies a stack is made of.
template <class S>
constexpr bool check_spec() {
  static_assert(
      requires { typename S::Activation; },
      "spec: derive from SpecDefaults, which has what a Spec may override (Activation, Norm)");
  if constexpr (requires {
                  typename S::Activation;
                  typename S::Precision;
                  typename S::Backend;
                })
    static_assert(
        requires { typename S::template Norm<typename S::Precision, typename S::Backend>; },
        "spec: derive from SpecDefaults, or add  template <class P, class B> using Norm = (sparsemoe::LayerNorm<P, "
        "B>)");
  static_assert(
      requires { typename S::Router; },
      "spec: add  using Router = (a router, for example sparsemoe::Switch, or sparsemoe::Dense)");
  static_assert(
      requires { typename S::Precision; }, "spec: add  using Precision = (sparsemoe::Fp32, Bf16, Fp16 or Fp64)");
  static_assert(
      requires { typename S::Backend; }, "spec: add  using Backend = (sparsemoe::Cpu or sparsemoe::Cuda)");
  static_assert(
      requires { typename S::Collective; }, "spec: add  using Collective = (sparsemoe::Solo)");
  return true;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

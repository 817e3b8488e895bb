// concepts.hpp -- the contracts: Precision, Backend, Router, Collective, Optimiser; each with a check_*() list.
// A checklist is a function of static_asserts, one imperative sentence for each missing item; call it under the struct
// you write, and the compiler says what to add, on your line, on every compiler. Concepts document; checklists report.
// Read next: routers/top_k.hpp for a router, nn/moe.hpp for what is done with it.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "sparsemoe/precision.hpp"
#include "sparsemoe/random.hpp"
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

// --------------------------------------------------------------------------------------------------- router
/// What a gate scores: every token, every sentence (the mean of its states), every task (a learned row of logits), or
/// nothing (the router decides from TokenInfo alone, and nothing is learned).
enum class Level { token, sentence, task, none };

/// How chosen scores become combine weights: p_e as it is (Switch: renormalising top-1 would kill the gradient), p_e
/// over the sum of the chosen before any is dropped, the same over those that were kept, or 1 / top_k.
enum class Gate { probability, normalised, normalised_after_drop, constant };

/// Which choices the balance loss counts: none, the first choice of each token (GShard), or all, divided by top_k.
enum class Balance { none, first_choice, all_choices };

/// What the gate of a token-level router scores: the token's state, or the mean of the states of its sentence up to and
/// including it (a decoder's; what was generated so far, never what comes later).
enum class GateInput { state, prefix_mean };

/// What a router may know about the token (or sentence, or task) it routes. Fields that make no sense at the router's
/// level are 0. Random draws are a function of (seed, step, layer, unit): the same in any order, on any device.
struct TokenInfo {
  std::int32_t id = 0;        // vocabulary id of the token fed into the stack
  std::int32_t previous = 0;  // id of the token before it in its sentence, or -1
  std::int32_t position = 0;  // place in the sentence, from 0
  std::int32_t sentence = 0;
  std::int32_t task = 0;
  std::int64_t unit = 0;  // index of the scored row
  bool training = false;
  Random random;

  /// Uniform in [0, 1), draw number `which` of this unit.
  SPARSEMOE_HD float uniform(int which) const {
    return random.uniform(Purpose::second_expert,
                          static_cast<std::uint64_t>(unit) * 8 + static_cast<std::uint64_t>(which));
  }
};

/// The experts of one unit, best first. An entry below 0 is no expert.
template <int K>
struct Choice {
  std::int32_t expert[K];

  static constexpr std::int32_t none = -1;
  /// Chosen but not dispatched (GShard's random second expert): its score still counts in `normalised` weights, and it
  /// takes a slot if the router says rejected_consumes_slot.
  SPARSEMOE_HD static constexpr std::int32_t rejected(std::int32_t e) { return -2 - e; }
  SPARSEMOE_HD static constexpr bool is_rejected(std::int32_t v) { return v <= -2; }
  SPARSEMOE_HD static constexpr std::int32_t expert_of(std::int32_t v) { return v <= -2 ? -2 - v : v; }
};

/// A router chooses; the MoE layer owns scoring, weights, capacity, dispatch, combine, losses and every gradient.
/// Required: top_k, level, gate, choose(scores, info). Optional, with their defaults:
///   static constexpr Balance balance = Balance::all_choices   (none for Level::none)
///   static constexpr bool causal_safe = true    // a token's choice uses nothing that comes after it
///   static constexpr GateInput gate_input = GateInput::state
///   static constexpr bool rejected_consumes_slot = false
///   static constexpr bool can_drop_tokens = level is token or none   // sentence and task routing are dropless
template <class R>
constexpr bool check_router() {
  static_assert(std::is_trivially_copyable_v<R>, "router: make it trivially copyable; hold tables by pointer");
  static_assert(
      requires { R::top_k; }, "router: add  static constexpr int top_k");
  static_assert(
      requires { R::level; }, "router: add  static constexpr Level level");
  static_assert(
      requires { R::gate; }, "router: add  static constexpr Gate gate");
  if constexpr (requires { R::top_k; }) {
    static_assert(R::top_k >= 1 && R::top_k <= 8, "router: make top_k between 1 and 8");
    static_assert(
        requires(const R r, Row<const float> p, const TokenInfo& t) { r.choose(p, t); },
        "router: add  Choice<top_k> choose(Row<const T> scores, const TokenInfo& info) const");
    if constexpr (requires(const R r, Row<const float> p, const TokenInfo& t) { r.choose(p, t); }) {
      static_assert(
          std::is_same_v<decltype(std::declval<const R&>().choose(Row<const float>{}, TokenInfo{})), Choice<R::top_k>>,
          "router: return Choice<top_k> from choose");
    }
  }
  if constexpr (requires {
                  R::level;
                  R::gate;
                }) {
    static_assert(R::level != Level::none || R::gate == Gate::constant,
                  "router: with Level::none use Gate::constant; there is no score to weigh by");
    if constexpr (requires { R::gate_input; })
      static_assert(R::level == Level::token || R::gate_input == GateInput::state,
                    "router: use GateInput::prefix_mean at Level::token only; other levels do not score tokens");
  }
  return true;
}

/// A router's traits with the defaults filled in.
template <class R>
struct RouterTraits {
  static constexpr int top_k = R::top_k;
  static constexpr Level level = R::level;
  static constexpr Gate gate = R::gate;
  static constexpr Balance balance = [] {
    if constexpr (requires { R::balance; })
      return R::balance;
    else
      return R::level == Level::none ? Balance::none : Balance::all_choices;
  }();
  static constexpr GateInput gate_input = [] {
    if constexpr (requires { R::gate_input; })
      return R::gate_input;
    else
      return GateInput::state;
  }();
  static constexpr bool causal_safe = [] {
    if constexpr (requires { R::causal_safe; })
      return static_cast<bool>(R::causal_safe);
    else
      return true;
  }();
  static constexpr bool rejected_consumes_slot = [] {
    if constexpr (requires { R::rejected_consumes_slot; })
      return static_cast<bool>(R::rejected_consumes_slot);
    else
      return false;
  }();
  static constexpr bool can_drop_tokens = [] {
    if constexpr (requires { R::can_drop_tokens; })
      return static_cast<bool>(R::can_drop_tokens);
    else
      return R::level == Level::token || R::level == Level::none;
  }();
  static constexpr bool learned = R::level != Level::none;
};

/// What a decoder asks of its router: at compile time, in one sentence.
template <class R>
constexpr bool check_causal_router() {
  static_assert(RouterTraits<R>::causal_safe,
                "decoder: use a causal-safe router; this one looks at later tokens and cannot be decoded step by step");
  return true;
}

// ----------------------------------------------------------------------------------------------- collective
/// How ranks talk: one verb each, over float, double or integers in the memory of the backend.
template <class C>
constexpr bool check_collective() {
  static_assert(
      requires(C& c) {
        { c.rank() } -> std::convertible_to<int>;
      },
      "collective: add  int rank() const");
  static_assert(
      requires(C& c) {
        { c.size() } -> std::convertible_to<int>;
      },
      "collective: add  int size() const");
  static_assert(
      requires(C& c, float* p, std::size_t n) { c.all_reduce_sum(p, n); },
      "collective: add  void all_reduce_sum(T* values, size_t n)");
  static_assert(
      requires(C& c, const float* p, float* q, const std::size_t* n) { c.all_to_all_v(p, n, q, n); },
      "collective: add  void all_to_all_v(const T* from, const size_t* counts_out, T* to, const size_t* counts_in)");
  static_assert(
      requires(C& c, const float* p, float* q, std::size_t n) { c.all_gather(p, q, n); },
      "collective: add  void all_gather(const T* mine, T* all, size_t n)");
  static_assert(
      requires(C& c, const float* p, float* q, std::size_t n) { c.reduce_scatter_sum(p, q, n); },
      "collective: add  void reduce_scatter_sum(const T* all, T* mine, size_t n)");
  static_assert(
      requires(C& c, float* p, std::size_t n) { c.broadcast(p, n, 0); },
      "collective: add  void broadcast(T* values, size_t n, int root)");
  static_assert(
      requires(C& c) { c.barrier(); }, "collective: add  void barrier()");
  return true;
}

// ----------------------------------------------------------------------------------------------------- spec
/// The bundle of policies a stack is made of.
template <class S>
constexpr bool check_spec() {
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

// concepts.hpp -- the contracts: Precision, Backend, Router, Collective, Optimiser; each with a check_*() list.
// A checklist is a function of static_asserts, one imperative sentence for each missing item; call it under the struct
// you write, and the compiler says what to add, on your line, on every compiler. Concepts document; checklists report.
// Read next: routers/top_k.hpp for a router, nn/moe.hpp for what is done with it.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "sparsemoe/backend/team.hpp"
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
/// over the sum of the chosen before any is dropped, the same over those that were kept, or 1 / top_k. `own`: the
/// router says, by  weigh(Row<const T> p, const int32_t* chosen, const bool* kept, T* w) const  and the way back
/// weigh_backward(p, chosen, kept, const T* dw, T* d) const, which adds to d(e) the gradient of p(e).
enum class Gate { probability, normalised, normalised_after_drop, constant, own };

/// How logits become scores: a softmax over the experts, or a sigmoid of each (DeepSeek-V3), whose balance loss and
/// weights are those of the scores over their sum.
enum class Score { softmax, sigmoid };

/// What the balance loss E sum f P counts as f: nothing, the first choice of each token (GShard), or all choices,
/// divided by top_k. `importance` is another loss in its place: CV(importance)^2 and, with noise, CV(load)^2 (Shazeer
/// 2017).
enum class Balance { none, first_choice, all_choices, importance };

/// top_k of a router that may give a token any number of experts; it must have an assign().
inline constexpr int any_number = 0;

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

  /// Uniform in [0, 1), draw number `which`, 0 to 7, of this unit.
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

/// A group of tokens as a router sees it that assigns them all at once. `chosen` is all Choice::none on entry, and row
/// t takes the experts of token t; a padding token gets none. Lanes of a team share the work.
template <class T>
struct Assignment {
  Matrix<const T> scores;       // (n, E)
  Matrix<const T> logits;       // (n, E) beside sigmoid scores; empty: log(scores)
  const T* thresholds;          // (E) of a router with learned_thresholds
  const std::uint8_t* valid;    // (n) 1, or 0 for padding
  Matrix<std::int32_t> chosen;  // (n, K); K is E for any_number
  std::int32_t capacity = 0;    // slots of an expert in this group; 0: no limit
  index_t first = 0;            // the group's first token, for random draws
  bool training = false;
  Random random;
  Matrix<std::int32_t> order;  // (E, n) scratch
  T* values = nullptr;         // (2 (n + E)) scratch

  SPARSEMOE_HD index_t tokens() const { return scores.rows; }
  SPARSEMOE_HD index_t experts() const { return scores.cols; }
  SPARSEMOE_HD index_t valid_tokens() const {
    index_t n = 0;
    for (index_t t = 0; t < scores.rows; ++t) n += valid[t] != 0 ? 1 : 0;
    return n;
  }
  /// The logit of (t, e), up to a number that is the same for all experts of t.
  SPARSEMOE_HD T logit(index_t t, index_t e) const {
    if (!logits.empty()) return logits(t, e);
    return scores(t, e) > T(1e-38) ? std::log(scores(t, e)) : T(-88);
  }
};

/// A router chooses; the MoE layer owns scoring, weights, capacity, dispatch, combine, losses and every gradient.
/// Required: top_k, level, gate, and choose(scores, info). Optional, with their defaults:
///   static constexpr Score score = Score::softmax
///   static constexpr Balance balance = Balance::all_choices   (none for Level::none and any_number)
///   static constexpr bool causal_safe = true    // in evaluation a token's choice uses nothing that comes after it
///   static constexpr GateInput gate_input = GateInput::state
///   static constexpr bool rejected_consumes_slot = false
///   static constexpr bool can_drop_tokens = level is token or none   // sentence and task routing are dropless
/// Hooks, found by their presence (token level):
///   void assign(Team team, const Assignment<T>& group) const    in place of choose(): a whole group at once
///   double noise_epsilon; double noise(const Random&, uint64_t index) const    learned noise: in training
///       logits + noise (softplus(x W_noise) + noise_epsilon); the gate's weights start at 0
///   static constexpr branches, first_k, second_k with top_k = first_k second_k    two levels: choose() sees the
///   probabilities
///       of the branches and then those of each branch's experts, and gives first_k times second_k leaves (with
///       Gate::own: top_k leaves, the first in the branch of the first choice)
///   double weight_scale    multiplies the combine weights
///   bool sentence_groups    without MoeConfig::group, assign() gets one sentence at a time, not the whole batch
///   index_t most_choices(tokens, experts, training) const    at most this many choices in a group
///   bool learned_thresholds    a threshold for each expert, for assign(), and the loss that moves it
///   int32_t capacity(tokens, training) const    slots of an expert in a group of tokens, in place of MoeConfig's;
///       0: no limit
///   static constexpr bool passes_dropped = true    a choice without a slot gives w x in place of nothing
///   static constexpr bool up_to_top_k = true    choose() may give fewer, so that top_k may be more than the experts
///   using StackLoss = ...    the balance loss over all sparse layers of a stack at once: joint_losses() of
///       model/stack.hpp
template <class R>
constexpr bool check_router() {
  static_assert(std::is_trivially_copyable_v<R>, "router: make it trivially copyable; hold tables by pointer");
  static_assert(
      requires { R::top_k; }, "router: add  static constexpr int top_k");
  static_assert(
      requires { R::level; }, "router: add  static constexpr Level level");
  static_assert(
      requires { R::gate; }, "router: add  static constexpr Gate gate");
  if constexpr (requires(const R r, const Assignment<float>& group) { r.assign(SerialTeam{}, group); }) {
    static_assert(R::top_k >= any_number && R::top_k <= 8, "router: make top_k between 1 and 8, or any_number");
    static_assert(R::level == Level::token, "router: use Level::token with assign(); it shares out tokens");
  } else if constexpr (requires { R::top_k; }) {
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
  if constexpr (requires {
                  R::gate;
                  requires R::passes_dropped;
                }) {
    static_assert(R::gate != Gate::normalised_after_drop && R::gate != Gate::own,
                  "router: use another gate with passes_dropped; in this one a dropped choice weighs nothing");
    static_assert(
        !requires { R::branches; } && !requires { R::noise_epsilon; },
        "router: passes_dropped is for routers of one level without learned noise");
  }
  if constexpr (requires { R::noise_epsilon; }) {
    static_assert(
        requires(const R r) {
          { r.noise(Random{}, std::uint64_t(0)) } -> std::convertible_to<double>;
        },
        "router: add  double noise(const Random& random, uint64_t index) const, beside noise_epsilon");
    static_assert(R::level == Level::token && R::gate == Gate::normalised,
                  "router: with noise use Level::token and Gate::normalised; the noise is learned for each token");
  }
  if constexpr (requires { R::branches; }) {
    static_assert(
        requires { requires R::gate == Gate::own || R::first_k* R::second_k == R::top_k; },
        "router: with branches add  static constexpr int first_k, second_k, whose product is top_k");
    static_assert(R::level == Level::token && (R::gate == Gate::normalised || R::gate == Gate::own),
                  "router: with branches use Level::token and Gate::normalised or Gate::own");
  }
  return true;
}

/// A router's traits with the defaults filled in.
template <class R>
struct RouterTraits {
  static constexpr int top_k = R::top_k;
  static constexpr Level level = R::level;
  static constexpr Gate gate = R::gate;
  static constexpr bool assigns = requires(const R r, const Assignment<float>& group) {
    r.assign(SerialTeam{}, group);
  };
  static constexpr bool noisy = requires { R::noise_epsilon; };
  static constexpr bool two_level = requires { R::branches; };
  static constexpr bool thresholds = requires { requires R::learned_thresholds; };
  static constexpr bool any_number_of_experts = R::top_k == any_number;
  static constexpr Score score = [] {
    if constexpr (requires { R::score; })
      return R::score;
    else
      return Score::softmax;
  }();
  static constexpr Balance balance = [] {
    if constexpr (requires { R::balance; })
      return R::balance;
    else
      return R::level == Level::none || R::top_k == any_number ? Balance::none : Balance::all_choices;
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
  /// y(t) gets w(t, k) x(t) of a choice that found no slot, in place of nothing.
  static constexpr bool passes_dropped = requires { requires R::passes_dropped; };
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

// SPDX-License-Identifier: Apache-2.0
// router_concept.hpp -- the contract of a router: what it may be, what it is shown, what it says, and
// check_router<R>(), which names in one imperative sentence each what is missing, or is there and would never be read.
// Read next: routers/top_k.hpp for a router, describe_router.hpp, nn/moe.hpp for what is done with it.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "sparsemoe/precision.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/team.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct Tokens;  // kernels/tokens.hpp
template <class Spec>
struct SparseLayer;  // nn/stack_loss.hpp

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

namespace detail {

/// Stands in for a Spec where only a signature is asked for.
template <class R>
struct SignatureSpec {
  struct Backend {
    struct Context;
    struct Memory;
  };
  struct Collective;
  using Router = R;
  using Precision = Fp64;
};

template <class R, class T>
inline constexpr bool chooses = requires(const R r, Row<const T> p, const TokenInfo& t) {
  r.choose(p, t);
};
template <class R, class T>
inline constexpr bool assigns = requires(const R r, const Assignment<T>& group) {
  r.assign(SerialTeam{}, group);
};
template <class R, class T>
inline constexpr bool weighs = requires(const R r, Row<const T> p, const std::int32_t* chosen, const bool* kept, T* w) {
  r.weigh(p, chosen, kept, w);
};
template <class R, class T>
inline constexpr bool weighs_backward = requires(const R r, Row<const T> p, const std::int32_t* chosen,
                                                 const bool* kept, const T* dw, T* d) {
  r.weigh_backward(p, chosen, kept, dw, d);
};
template <class R>
inline constexpr bool loses_in_stacks = requires(typename SignatureSpec<R>::Backend::Context& ctx, const Tokens& tokens,
                                                 const std::vector<SparseLayer<SignatureSpec<R>>>& layers,
                                                 typename SignatureSpec<R>::Collective& comm) {
  R::StackLoss::template apply<SignatureSpec<R>>(ctx, tokens, layers, comm);
};

/// How a router says its experts: choose() for a token, or assign() for a group.
template <class R>
constexpr bool check_choosing() {
  constexpr bool assigning = assigns<R, float> || assigns<R, double>;
  if constexpr (assigning) {
    static_assert(assigns<R, float> && assigns<R, double>,
                  "router: make assign a template over the team and T (float and double)");
    static_assert(R::top_k >= any_number && R::top_k <= 8, "router: make top_k between 1 and 8, or any_number");
    static_assert(R::level == Level::token, "router: use Level::token with assign(); it shares out tokens");
  } else if constexpr (requires { R::top_k; }) {
    static_assert(R::top_k >= 1 && R::top_k <= 8, "router: make top_k between 1 and 8");
    static_assert(chooses<R, float> || chooses<R, double>,
                  "router: add  Choice<top_k> choose(Row<const T> scores, const TokenInfo& info) const");
    static_assert(chooses<R, float> == chooses<R, double>, "router: make choose a template over T (float and double)");
    if constexpr (chooses<R, float> && chooses<R, double>) {
      static_assert(
          std::is_same_v<decltype(std::declval<const R&>().choose(Row<const float>{}, TokenInfo{})), Choice<R::top_k>>,
          "router: return Choice<top_k> from choose");
    }
  }
  return true;
}
/// Levels, and the weights of what was chosen.
template <class R>
constexpr bool check_gate() {
  static_assert(R::level != Level::none || R::gate == Gate::constant,
                "router: with Level::none use Gate::constant; there is no score to weigh by");
  if constexpr (requires { R::gate_input; })
    static_assert(R::level == Level::token || R::gate_input == GateInput::state,
                  "router: use GateInput::prefix_mean at Level::token only; other levels do not score tokens");
  if constexpr (R::gate == Gate::own) {
    static_assert(weighs<R, float> && weighs<R, double> && weighs_backward<R, float> && weighs_backward<R, double>,
                  "router: with Gate::own add weigh(...) and weigh_backward(...): templates over T, const, as  "
                  "weigh(Row<const T> p, const int32_t* chosen, const bool* kept, T* w)  and  "
                  "weigh_backward(Row<const T> p, const int32_t* chosen, const bool* kept, const T* dw, T* d)");
    static_assert(
        !requires(const R r) { r.weight_scale; }, "router: scale in weigh() and weigh_backward(), not by weight_scale");
  } else {
    static_assert(!weighs<R, float> && !weighs_backward<R, float>,
                  "router: use Gate::own with weigh() and weigh_backward(); in another gate they are never called");
  }
  if constexpr (requires { requires R::passes_dropped; }) {
    static_assert(R::gate != Gate::normalised_after_drop && R::gate != Gate::own,
                  "router: use another gate with passes_dropped; in this one a dropped choice weighs nothing");
    static_assert(
        !requires { R::branches; } && !requires { R::noise_epsilon; },
        "router: passes_dropped is for routers of one level without learned noise");
  }
  return true;
}
template <auto>
struct Constant;
/// Traits are read at compile time: a member of each object is not one.
template <class R>
constexpr bool check_constants() {
  static_assert(
      !requires { R::causal_safe; } || requires { typename Constant<R::causal_safe>; },
      "router: make causal_safe static constexpr");
  static_assert(
      !requires { R::rejected_consumes_slot; } || requires { typename Constant<R::rejected_consumes_slot>; },
      "router: make rejected_consumes_slot static constexpr");
  static_assert(
      !requires { R::can_drop_tokens; } || requires { typename Constant<R::can_drop_tokens>; },
      "router: make can_drop_tokens static constexpr");
  static_assert(
      !requires { R::passes_dropped; } || requires { typename Constant<R::passes_dropped>; },
      "router: make passes_dropped static constexpr");
  static_assert(
      !requires { R::up_to_top_k; } || requires { typename Constant<R::up_to_top_k>; },
      "router: make up_to_top_k static constexpr");
  static_assert(
      !requires { R::sentence_groups; } || requires { typename Constant<R::sentence_groups>; },
      "router: make sentence_groups static constexpr");
  static_assert(
      !requires { R::learned_thresholds; } || requires { typename Constant<R::learned_thresholds>; },
      "router: make learned_thresholds static constexpr");
  static_assert(
      !requires { R::score; } || requires { typename Constant<R::score>; }, "router: make score static constexpr");
  static_assert(
      !requires { R::balance; } || requires { typename Constant<R::balance>; },
      "router: make balance static constexpr");
  static_assert(
      !requires { R::gate_input; } || requires { typename Constant<R::gate_input>; },
      "router: make gate_input static constexpr");
  return true;
}
/// Hooks: what is there can be called, and is.
template <class R>
constexpr bool check_hooks() {
  if constexpr (requires { R::noise_epsilon; }) {
    static_assert(
        requires(const R r) {
          { r.noise(Random{}, std::uint64_t(0)) } -> std::convertible_to<double>;
        },
        "router: add  double noise(const Random& random, uint64_t index) const, beside noise_epsilon");
    static_assert(R::level == Level::token && R::gate == Gate::normalised,
                  "router: with noise use Level::token and Gate::normalised; the noise is learned for each token");
  } else {
    static_assert(
        !requires(const R r) { r.noise(Random{}, std::uint64_t(0)); },
        "router: add  double noise_epsilon, beside noise(); without it noise() is never called");
  }
  if constexpr (requires { R::branches; }) {
    static_assert(
        requires { requires R::gate == Gate::own || R::first_k* R::second_k == R::top_k; },
        "router: with branches add  static constexpr int first_k, second_k, whose product is top_k");
    static_assert(R::level == Level::token && (R::gate == Gate::normalised || R::gate == Gate::own),
                  "router: with branches use Level::token and Gate::normalised or Gate::own");
    static_assert(
        !requires(const R r) { r.weight_scale; }, "router: weight_scale is for routers of one level");
  } else {
    static_assert(
        !requires { R::first_k; } && !requires { R::second_k; },
        "router: add branches beside first_k and second_k; without it they are never read");
  }
  if constexpr (requires { &R::capacity; })
    static_assert(
        !std::is_member_function_pointer_v<decltype(&R::capacity)> ||
            requires(const R r) {
              { r.capacity(index_t(1), true) } -> std::convertible_to<std::int32_t>;
            },
        "router: write capacity as  int32_t capacity(index_t tokens, bool training) const");
  if constexpr (requires { &R::most_choices; })
    static_assert(
        !std::is_member_function_pointer_v<decltype(&R::most_choices)> ||
            requires(const R r) {
              { r.most_choices(index_t(1), index_t(1), true) } -> std::convertible_to<index_t>;
            },
        "router: write most_choices as  index_t most_choices(index_t tokens, index_t experts, bool training) "
        "const");
  if constexpr (requires { requires R::learned_thresholds; })
    static_assert(assigns<R, float>, "router: use learned_thresholds with assign(), which is what reads them");
  return true;
}
/// A loss of its own.
template <class R>
constexpr bool check_stack_loss() {
  static_assert(loses_in_stacks<R>,
                "router: StackLoss needs apply<Spec>(ctx, tokens, layers, comm), a static template as in "
                "nn/stack_loss.hpp");
  if constexpr (requires { R::level; })
    static_assert(R::level != Level::none, "router: StackLoss needs a gate that learns; with Level::none nothing does");
  if constexpr (requires { R::balance; })
    static_assert(R::balance != Balance::importance,
                  "router: use another balance with StackLoss; with Balance::importance it is never read");
  return true;
}

}  // namespace detail

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
///       nn/stack_loss.hpp
template <class R>
constexpr bool check_router() {
  static_assert(std::is_trivially_copyable_v<R>, "router: make it trivially copyable; hold tables by pointer");
  static_assert(
      requires { R::top_k; }, "router: add  static constexpr int top_k");
  static_assert(
      requires { R::level; }, "router: add  static constexpr Level level");
  static_assert(
      requires { R::gate; }, "router: add  static constexpr Gate gate");
  (void)detail::check_constants<R>();
  if constexpr (requires {
                  R::top_k;
                  R::level;
                  R::gate;
                }) {
    (void)detail::check_choosing<R>();
    (void)detail::check_gate<R>();
    (void)detail::check_hooks<R>();
  }
  if constexpr (requires { typename R::StackLoss; }) (void)detail::check_stack_loss<R>();
  return true;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

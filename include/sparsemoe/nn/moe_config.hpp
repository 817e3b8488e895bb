// SPDX-License-Identifier: Apache-2.0
// nn/moe_config.hpp -- the numbers of a sparse layer, and what a pass through one tells. Read next: nn/routing.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include "sparsemoe/error.hpp"
#include "sparsemoe/kernels/priority.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Over which tokens f and P of the balance loss are taken: the batch of all ranks; each group of tokens routed
/// together (without MoeConfig::group: the batch of this rank); or each sequence (DeepSeek-V3). Of several the loss is
/// the mean, each by its number of tokens. All are 1 where routing is uniform. Group and sequence losses are the same
/// in micro-batches that do not cut one, if the caller weighs each micro-batch by its tokens; the global loss is not a
/// sum over tokens, and counts within a micro-batch.
enum class LossScope { global, group, sequence };
constexpr std::array<std::string_view, 3> field_names(LossScope) { return {"global", "group", "sequence"}; }

enum class CapacityRounding { floor, round, ceil };
constexpr std::array<std::string_view, 3> field_names(CapacityRounding) { return {"floor", "round", "ceil"}; }

constexpr std::array<std::string_view, 4> field_names(Priority) { return {"position", "random", "batch", "score"}; }

/// Experts that cost no product (MoE++, Jin et al. 2024): they are columns of the gate behind the others, and are
/// chosen like them. A copy gives the token itself; a constant gives a0 x + a1 v, its learned vector v mixed by
/// [a0, a1] = softmax(x W); a null gives 0. None is held to a capacity. The weight of a null counts under
/// Gate::normalised, as in the paper; under normalised_after_drop the others share it, as in the authors' code. Their
/// part in the balance loss is times `balance` (the paper's tau), over the mean factor, so that uniform is still 1.
struct FreeExperts {
  index_t copies = 0, constants = 0, nulls = 0;
  double balance = 1;
  index_t count() const { return copies + constants + nulls; }
};

struct MoeConfig {
  index_t experts = 8, width = 0, hidden = 0;
  FreeExperts free;           // beside these experts
  index_t shared_hidden = 0;  // width of an expert that every token goes to, with weight 1 and outside of routing
                              // (DeepSeek; n shared experts are one n times as wide); 0: none
  index_t tasks = 1;
  bool gate_bias = false;           // of the gate's logits: learned, as in some NLLB and Switch checkpoints
  bool bias = false;                // of the experts
  double capacity_factor = 0;       // training: slots = factor * top_k-free share S / E; 0: dropless
  double eval_capacity_factor = 0;  // evaluation is dropless unless asked otherwise
  index_t min_capacity = 4;
  CapacityRounding rounding = CapacityRounding::floor;
  index_t group = 0;                       // tokens routed together (GShard's S); 0: the whole batch
  Priority priority = Priority::position;  // who gets a slot when there are too few
  LossScope balance_scope = LossScope::global;
  double balance_coefficient = 1e-2;                              // alpha of E sum f P
  double z_coefficient = 0;                                       // ST-MoE router z-loss
  double importance_coefficient = 1e-2, load_coefficient = 1e-2;  // of Balance::importance (Shazeer 2017)
  double threshold_coefficient = 1;                               // of learned thresholds (Shazeer 2017, appendix F)
  double jitter = 0;            // the router's input times U(1 - jitter, 1 + jitter), training only
  bool jitter_experts = false;  // the experts see the jittered input too
  bool route_padding = false;   // padding is routed as any token: it takes slots and is in the losses
  double expert_dropout = 0;
  double output_masking = 0;  // training: an expert's whole output for a token is left out; evaluation: times 1 - p
  double init_scale = 1;      // s of sqrt(s / fan_in); Switch recommends 0.1
  double gate_deviation = 0.02;
  double task_deviation = 0.1;                 // of a task router's table of logits
  WeightForm expert_form = WeightForm::plain;  // of the experts' matrices in memory; any other only to infer
  bool scores_ahead = false;                   // in a decoder slots may go by score all the same, as NLLB is trained
  bool causal = false;                         // in a decoder: what depends on later tokens is refused
  bool external_pool = false;  // the gate scores rows given by the caller, not x: a decoder's sentence routers

  /// The field list (io/json_config.hpp): what a user of a model may choose. Widths and biases are the stack's; the
  /// form of the matrices, causality and whose rows are scored are the caller's.
  template <class F>
  void visit(F&& f) {
    f("experts", experts, "experts of a sparse layer");
    f("copies", free.copies, "experts beside them that give the token itself, at no cost");
    f("constants", free.constants, "experts beside them that mix the token with a learned vector");
    f("nulls", free.nulls, "experts beside them that give 0");
    f("free_balance", free.balance, "their part in the load-balance loss, times this");
    f("shared_hidden", shared_hidden, "hidden width of an expert that every token goes to; 0: none");
    f("tasks", tasks, "tasks, of routers that choose by task");
    f("gate_bias", gate_bias, "a learned bias of the gate's logits");
    f("capacity_factor", capacity_factor, "slots of an expert in training, times its fair share; 0: dropless");
    f("eval_capacity_factor", eval_capacity_factor, "the same in evaluation");
    f("min_capacity", min_capacity, "least slots of an expert");
    f("rounding", rounding, "how a number of slots becomes whole");
    f("group", group, "tokens that compete for slots together; 0: the whole batch");
    f("priority", priority, "who gets a slot where there are too few");
    f("balance_scope", balance_scope, "tokens over which the load-balance loss is taken");
    f("balance_loss", balance_coefficient, "coefficient of the load-balance loss");
    f("z_loss", z_coefficient, "coefficient of the router z-loss");
    f("importance_loss", importance_coefficient, "coefficient of the importance loss");
    f("load_loss", load_coefficient, "coefficient of the load loss");
    f("threshold_loss", threshold_coefficient, "coefficient of the loss of learned thresholds");
    f("jitter", jitter, "router input noise: times U(1 - jitter, 1 + jitter) in training");
    f("jitter_experts", jitter_experts, "the experts see that noise too");
    f("route_padding", route_padding, "padding is routed as any token");
    f("expert_dropout", expert_dropout, "dropout inside experts");
    f("output_masking", output_masking, "share of expert outputs that are left out in training");
    f("init_scale", init_scale, "scale s of the initialisation sqrt(s / fan_in); Switch recommends 0.1");
    f("gate_deviation", gate_deviation, "deviation of the gate's first weights");
    f("task_deviation", task_deviation, "deviation of a task's first logits");
    f("scores_ahead", scores_ahead, "in a decoder too, slots may go by score");
  }
  /// Throws Error for what cannot work.
  void check() const {
    require(experts >= 1 && width >= 1 && hidden >= 1, "moe: experts, width and hidden must be at least 1; got ",
            experts, ", ", width, " and ", hidden);
    require(free.copies >= 0 && free.constants >= 0 && free.nulls >= 0 && shared_hidden >= 0,
            "moe: the numbers of copies, constants and nulls and the shared width must not be negative; got ",
            free.copies, ", ", free.constants, ", ", free.nulls, " and ", shared_hidden);
    require(free.balance > 0, "moe: the balance factor of free experts must be positive; got ", free.balance);
    require(tasks >= 1, "moe: tasks must be at least 1; got ", tasks);
    require(capacity_factor >= 0 && eval_capacity_factor >= 0,
            "moe: a capacity factor must not be negative (0 is dropless); got ", capacity_factor, " and ",
            eval_capacity_factor);
    require(!causal || scores_ahead || priority == Priority::position || priority == Priority::random,
            "moe: in a decoder slots go by position or at random; by score a token's place would depend on later ones");
    require(jitter >= 0 && jitter < 1, "moe: jitter must be in [0, 1); got ", jitter);
    require(output_masking >= 0 && output_masking < 1, "moe: output masking must be in [0, 1); got ", output_masking);
    require(expert_dropout >= 0 && expert_dropout < 1, "moe: expert dropout must be in [0, 1); got ", expert_dropout);
  }
  /// What a router chooses among: experts, then copies, constants and nulls.
  index_t choices() const { return experts + free.count(); }
  /// Those of them whose tokens take a slot: all but nulls.
  index_t dispatched() const { return choices() - free.nulls; }
  /// Slots of an expert for a group of `tokens` (semantics: C = clamp(round(cf S / E), min, S)); 0 is no limit.
  std::int32_t capacity(index_t tokens, bool training) const {
    const double factor = training ? capacity_factor : eval_capacity_factor;
    if (factor <= 0) return 0;
    const double share = factor * static_cast<double>(tokens) / static_cast<double>(choices());
    const double whole = rounding == CapacityRounding::floor  ? std::floor(share)
                         : rounding == CapacityRounding::ceil ? std::ceil(share)
                                                              : std::nearbyint(share);
    return static_cast<std::int32_t>(
        std::clamp<double>(whole, static_cast<double>(std::min(min_capacity, tokens)), static_cast<double>(tokens)));
  }
};

/// What a forward pass of a sparse layer did, on the host.
struct RoutingStatistics {
  double balance = 0, z = 0, entropy = 0;    // losses without coefficients; mean entropy of the gate in nats
  double threshold = 0;                      // loss of learned thresholds
  double importance = 0, expected_load = 0;  // CV^2 of importance and of load, where the router has these losses
  double tokens = 0;                         // valid tokens (of all ranks)
  double choices = 0, dropped = 0;           // of this rank
  std::vector<std::int64_t> load;            // (E) choices before dropping; E: MoeConfig::choices()
  std::vector<std::int32_t> usage;           // (tasks, E)
  index_t tasks = 0, experts = 0;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

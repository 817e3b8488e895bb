// SPDX-License-Identifier: Apache-2.0
// testing/check_router.hpp -- check_router: what must hold for every router, tried on a small sparse layer in double.
// First that its choices are experts; then padding, permutation, slots, weights, dropped choices, empty experts, ties,
// causality, threads, and the gradient of every loss, a StackLoss included.
// The layer's outputs are recomputed here in plain loops. Needs no test framework: it returns a report. Read next:
// testing/router_bench.hpp for how the layer is run, testing/router_gradients.hpp, testing/router_report.hpp;
// routers/top_k.hpp for a router.
#pragma once

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "sparsemoe/describe_router.hpp"
#include "sparsemoe/testing/check_layer.hpp"
#include "sparsemoe/testing/router_bench.hpp"
#include "sparsemoe/testing/router_gradients.hpp"
#include "sparsemoe/testing/router_report.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

template <class Router, class B>
class RouterCheck {
 public:
  using Bench = RouterBench<Router, B>;
  using Traits = RouterTraits<Router>;
  using Pick = typename Bench::Pick;

  RouterCheck(const Router& router, const RouterCheckOptions& options)
      : router_(router), bench_(router, options), o_(options) {}

  RouterReport run() {
    report_.description = describe_router<Router>();
    try {
      properties();
    } catch (const RouterError& e) {  // of the layer, before it used the number as an index; no property can be asked
      report_.add(range_name, false, e.what());
    }
    return std::move(report_);
  }

 private:
  static constexpr const char* range_name = "choices and weights are those of an expert of the layer";

  void properties() {
    const RouterBatch ragged = bench_.batch(o_.sentences, o_.length, true);
    range(ragged);
    padding(ragged);
    permutation(ragged);
    choices_and_weights(ragged);
    capacity(ragged);
    one_expert(ragged);
    empty_experts();
    nothing_to_route(ragged);
    losses(ragged);
    causality();
    same_bits(ragged);
    check_gradients(bench_, tight(), ragged, report_);
    if constexpr (requires { typename Router::StackLoss; })
      check_stack_loss<Router, B>(router_, o_, tight(), ragged, report_);
  }
  MoeConfig config() const { return bench_.config(); }
  MoeConfig tight(index_t group = 0) const {  // about half of what is asked for fits
    MoeConfig c = config();
    if (Bench::drops())
      c.capacity_factor = 0.5 * static_cast<double>(bench_.top_k()), c.min_capacity = 1, c.group = group;
    return c;
  }
  void same(const std::string& name, const std::vector<double>& a, const std::vector<double>& b, double tolerance = 0,
            const std::string& option = "") {
    const std::string difference = first_difference(a, b, tolerance);
    report_.add(name, difference.empty(), difference, option);
  }
  /// First of all: what follows would read and write other memory.
  void range(const RouterBatch& batch) {
    for (const bool training : {false, true}) (void)bench_.run(config(), batch, {.training = training});
    report_.add(range_name, true);
  }

  void padding(const RouterBatch& batch) {
    const auto reference = bench_.run(config(), batch, {});
    // Every sentence alone, cut to its real tokens.
    std::vector<double> alone(reference.y.size(), 0);
    for (index_t s = 0; s < batch.sentences; ++s) {
      const RouterBatch one = batch.sentence(s);
      const auto run = bench_.run(config(), one, {});
      std::copy(run.y.begin(), run.y.end(), alone.begin() + s * batch.length * o_.width);
    }
    same("a sentence gives the same bits alone and in a padded batch", reference.y, alone);
    // The batch with more columns of padding.
    const RouterBatch wide = batch.widened(batch.length + 3);
    const auto padded = bench_.run(config(), wide, {});
    same("more padding changes no output bit", wide.narrowed(padded.y, batch.length), reference.y);
    same("more padding changes no input gradient", wide.narrowed(padded.dx, batch.length), reference.dx);
    same("more padding changes no weight gradient", padded.dw, reference.dw, 1e-13);
    same("more padding changes no loss", {padded.loss, padded.statistics.tokens},
         {reference.loss, reference.statistics.tokens}, 1e-13);
    // Other contents of the padding, in training, with a capacity.
    RouterBatch garbage = batch;
    for (std::size_t t = 0; t < batch.valid.size(); ++t)
      if (batch.valid[t] == 0) {
        garbage.ids[t] = static_cast<std::int32_t>(o_.vocabulary - 1);
        for (index_t j = 0; j < o_.width; ++j)
          garbage.x[t * static_cast<std::size_t>(o_.width) + static_cast<std::size_t>(j)] = 1e3;
      }
    const auto a = bench_.run(tight(), batch, {.training = true}), b = bench_.run(tight(), garbage, {.training = true});
    same("what stands in the padding is never read (outputs)", a.y, b.y);
    same("what stands in the padding is never read (gradients)", a.dw, b.dw);
    same("what stands in the padding is never read (losses)", {a.loss}, {b.loss});
    bool quiet = true;
    for (std::size_t t = 0; t < batch.valid.size(); ++t)
      for (index_t j = 0; batch.valid[t] == 0 && j < o_.width; ++j) {
        const std::size_t i = t * static_cast<std::size_t>(o_.width) + static_cast<std::size_t>(j);
        quiet = quiet && b.y[i] == 0 && b.dx[i] == 0;
      }
    report_.add("padding gives 0 and gets no gradient", quiet);
  }

  void permutation(const RouterBatch& batch) {
    const auto reference = bench_.run(config(), batch, {});
    std::vector<index_t> order(static_cast<std::size_t>(batch.count()));
    for (index_t s = 0; s < batch.sentences; ++s)
      for (index_t i = 0; i < batch.length; ++i)
        order[static_cast<std::size_t>(s * batch.length + i)] = (batch.sentences - 1 - s) * batch.length + i;
    const auto moved = bench_.run(config(), batch.permuted(order, true), {});
    same("sentences in another order give their outputs in that order", moved.y,
         RouterBatch::rows(reference.y, order, o_.width));
    same("sentences in another order give their gradients in that order", moved.dx,
         RouterBatch::rows(reference.dx, order, o_.width), 1e-12);
    same("sentences in another order give the same weight gradients", moved.dw, reference.dw, 1e-12);
    if (!o_.position_free) return;
    const RouterBatch full = bench_.batch(o_.sentences, o_.length, false);
    const auto before = bench_.run(config(), full, {});
    for (index_t t = 0; t < full.count(); ++t) {
      const index_t s = t / full.length, i = t % full.length;
      order[static_cast<std::size_t>(t)] = s * full.length + (i * 5 + 1) % full.length;
    }
    if (std::set<index_t>(order.begin(), order.end()).size() != order.size())
      std::iota(order.rbegin(), order.rend(), index_t(0));
    const auto after = bench_.run(config(), full.permuted(order, false), {});
    same("tokens in another order give their outputs in that order", after.y,
         RouterBatch::rows(before.y, order, o_.width), 1e-12, "RouterCheckOptions::position_free = false");
  }

  void choices_and_weights(const RouterBatch& batch) {
    const index_t K = bench_.top_k();
    for (const bool training : {false, true}) {
      const auto run = bench_.run(config(), batch, {.training = training});
      std::string wrong;
      double worst = 0;
      for (index_t t = 0; t < batch.count(); ++t) {
        const index_t u = bench_.unit(batch, t);
        std::set<std::int32_t> distinct;
        double sum = 0;
        bool all_kept = true;
        for (index_t k = 0; k < K; ++k) {
          const std::int32_t v = run.chosen[static_cast<std::size_t>(u * K + k)], e = Pick::expert_of(v);
          const bool kept = run.slot_of(t, k) >= 0;
          if (e < -1 || e >= o_.experts) wrong = join("token ", t, " chooses expert ", e, " of ", o_.experts);
          if (v != -1 && !distinct.insert(e).second) wrong = join("token ", t, " chooses expert ", e, " twice");
          if (kept && (v < 0 || batch.valid[static_cast<std::size_t>(t)] == 0))
            wrong = join("choice ", k, " of token ", t, " is dispatched but should not be");
          if (!kept && v >= 0 && batch.valid[static_cast<std::size_t>(t)] != 0)
            wrong = join("choice ", k, " of token ", t, " is dropped without a capacity");
          all_kept = all_kept && kept;
          const double w = run.combine[static_cast<std::size_t>(t * K + k)];
          sum += w;
          const double expected = bench_.expected_weight(run, batch, t, k);
          worst = std::max(worst, std::abs(w - expected));
        }
        const bool to_one = Traits::gate == Gate::normalised || Traits::gate == Gate::normalised_after_drop ||
                            Traits::gate == Gate::constant;
        if (to_one && all_kept) worst = std::max(worst, std::abs(sum - bench_.weight_scale()));
      }
      const std::string when = training ? " (training)" : " (evaluation)";
      report_.add("choices are distinct experts, kept exactly where they should be" + when, wrong.empty(), wrong);
      report_.add("combine weights are what the gate says" + when, worst <= 1e-14, join("off by ", worst));
      same("outputs are the weighted sum of the chosen experts" + when, run.y, bench_.expected_output(run, batch),
           1e-12);
    }
  }

  void capacity(const RouterBatch& batch) {
    for (const index_t group : {index_t(0), index_t(5)}) {
      const std::string when = group > 0 ? join(" (groups of ", group, ")") : "";
      const auto run = bench_.run(tight(group), batch, {.training = true});
      const std::string wrong = bench_.slot_complaint(run, batch, tight(group).group > 0 ? group : batch.count());
      report_.add("slots are unique, sorted by expert, given in order and within capacity" + when, wrong.empty(),
                  wrong);
      same("a dropped choice contributes nothing" + when, run.y, bench_.expected_output(run, batch), 1e-12);
      report_.add("gradients are finite under capacity" + when, finite(run.dw) && finite(run.dx));
      if (Bench::drops() && group == 0)
        report_.add("the check's capacity does drop something", run.statistics.dropped > 0, "",
                    "can_drop_tokens = false in the router");
    }
    // Long enough that counting is cut into chunks, in groups that chunks and the batch's end do not fit.
    const RouterBatch many = bench_.batch(24, 40, true);
    for (const index_t group : {index_t(0), index_t(300), index_t(37)}) {
      const auto run = bench_.run(tight(group), many, {.training = true});
      const std::string wrong = bench_.slot_complaint(run, many, tight(group).group > 0 ? group : many.count());
      report_.add(join("slots of a long batch (groups of ", group, ")"), wrong.empty(), wrong);
    }
    const auto run = bench_.run(tight(), batch, {.training = false});
    report_.add("evaluation is dropless", run.statistics.dropped == 0 && run.capacity == 0);
  }

  static constexpr const char* any_expert = "RouterCheckOptions::any_expert = false";
  void one_expert(const RouterBatch& batch) {
    const index_t K = bench_.top_k();
    // Experts that are all alike: the layer is (sum of weights) times the dense block.
    auto weights = bench_.weights();
    for (const char* name : {"experts.wi", "experts.wo"}) bench_.repeat_first_expert(weights, name);
    const auto run = bench_.run(config(), batch, {.weights = &weights});
    std::vector<double> expected = bench_.dense_output(weights, 0, batch);
    for (index_t t = 0; t < batch.count(); ++t) {
      double sum = 0;
      for (index_t k = 0; k < K; ++k) sum += run.combine[static_cast<std::size_t>(t * K + k)];
      for (index_t j = 0; j < o_.width; ++j) expected[static_cast<std::size_t>(t * o_.width + j)] *= sum;
    }
    same("experts that are all alike make a dense block", run.y, expected, 1e-12);
    if constexpr (Traits::learned) {
      if (!o_.any_expert) return;
      if constexpr (Router::top_k == 1 && (Traits::score == Score::softmax || Traits::gate == Gate::normalised)) {
        MoeConfig single = config();
        single.experts = 1;
        try {
          (void)bench_.run(single, batch, {});
        } catch (const RouterError& e) {
          return report_.add("one expert is a dense block", false, e.what(), any_expert);
        }
        const auto one = bench_.run(single, batch, {});
        same("one expert has weight 1", one.combine, std::vector<double>(batch.valid.begin(), batch.valid.end()), 0,
             any_expert);
        same("one expert is a dense block", one.y, bench_.dense_output(bench_.weights(single), 0, batch, 1), 1e-12,
             any_expert);
      }
      // Everything to one expert: its logit is far above all others'.
      auto forced = bench_.weights();
      bench_.favour(forced, o_.experts - 1);
      const RouterBatch with_one = bench_.with_constant_feature(batch);
      for (const bool training : {false, true}) {
        const auto all =
            bench_.run(training ? tight() : config(), with_one, {.training = training, .weights = &forced});
        report_.add("everything to one expert: the favourite gets every token's first choice",
                    std::all_of(all.chosen.begin(), all.chosen.end(),
                                [&, i = 0](std::int32_t v) mutable {
                                  return i++ % K != 0 || v == -1 || Pick::expert_of(v) == o_.experts - 1;
                                }),
                    "", any_expert);
        report_.add("everything to one expert: numbers stay finite", finite(all.y) && finite(all.dw) && finite(all.dx));
        same("everything to one expert: outputs", all.y, bench_.expected_output(all, with_one, &forced), 1e-12);
      }
    }
  }

  void empty_experts() {
    // One token has at most K experts; the others are empty.
    RouterBatch one = bench_.batch(1, 1, false);
    const auto run = bench_.run(config(), one, {.training = true});
    bool untouched = true, seen = false;
    for (index_t e = 0; e < o_.experts; ++e) {
      if (run.offsets[static_cast<std::size_t>(e + 1)] > run.offsets[static_cast<std::size_t>(e)]) continue;
      seen = true;
      untouched = untouched && zero(bench_.expert_gradient(run, e));
    }
    report_.add("an expert without tokens has a gradient of exactly 0", untouched && (seen || !o_.idle_experts),
                seen ? "" : "every expert was used: give more experts than top_k",
                "RouterCheckOptions::idle_experts = false");
    report_.add("empty experts bring no NaN", finite(run.dw) && finite(run.y) && finite(run.dx));
  }

  void nothing_to_route(const RouterBatch& batch) {
    RouterBatch none = batch;
    std::fill(none.valid.begin(), none.valid.end(), std::uint8_t(0));
    for (const bool training : {false, true}) {
      const auto run = bench_.run(tight(), none, {.training = training});
      report_.add("a batch of nothing but padding gives 0, no gradient and no loss",
                  zero(run.y) && zero(run.dx) && zero(run.dw) && run.loss == 0 && run.statistics.tokens == 0);
      const auto empty = bench_.run(tight(), bench_.batch(0, 0, false), {.training = training});
      report_.add("a batch without tokens gives no gradient and no loss", zero(empty.dw) && empty.loss == 0);
    }
  }

  void losses(const RouterBatch& batch) {
    if constexpr (Traits::learned) {
      auto uniform = bench_.weights();
      bench_.clear_gate(uniform);
      const auto run = bench_.run(config(), batch, {.weights = &uniform});
      if constexpr (Traits::balance == Balance::first_choice || Traits::balance == Balance::all_choices)
        report_.add("uniform routing has a balance loss of 1, of each level",
                    std::abs(run.statistics.balance - bench_.uniform_balance()) <= 1e-14,
                    join("it is ", run.statistics.balance));
      const double z = std::log(static_cast<double>(bench_.first_level()));
      const double squared = Traits::score == Score::softmax ? z * z : 0;  // a sigmoid has no z-loss
      report_.add("uniform routing has a z-loss of ln(E)^2 and an entropy of ln(E)",
                  std::abs(run.statistics.z - squared) <= 1e-13 && std::abs(run.statistics.entropy - z) <= 1e-13);
      if (o_.lower_index_wins && !Traits::any_number_of_experts) {
        bool lowest = true;
        for (std::size_t i = 0; i < run.chosen.size(); ++i)
          lowest = lowest && (run.chosen[i] == -1 || run.chosen[i] == bench_.lowest(static_cast<index_t>(i)));
        report_.add("equal scores: the lower expert wins", lowest, "", "RouterCheckOptions::lower_index_wins = false");
      }
    }
  }

  void causality() {
    if (!Traits::causal_safe || (Traits::level == Level::sentence && !o_.external_pool)) return;
    const RouterBatch batch = bench_.batch(o_.sentences, o_.length, false);
    RouterBatch other = batch;
    const index_t cut = o_.length / 2;
    for (index_t t = 0; t < batch.count(); ++t) {
      if (t % batch.length < cut) continue;
      other.ids[static_cast<std::size_t>(t)] =
          static_cast<std::int32_t>((batch.ids[static_cast<std::size_t>(t)] + 7) % o_.vocabulary);
      for (index_t j = 0; j < o_.width; ++j) other.x[static_cast<std::size_t>(t * o_.width + j)] += 1;
    }
    const auto a = bench_.run(config(), batch, {}), b = bench_.run(config(), other, {});
    bool unmoved = true;
    for (index_t t = 0; t < batch.count(); ++t)
      for (index_t j = 0; t % batch.length < cut && j < o_.width; ++j)
        unmoved = unmoved &&
                  a.y[static_cast<std::size_t>(t * o_.width + j)] == b.y[static_cast<std::size_t>(t * o_.width + j)];
    report_.add("what comes later changes nothing", unmoved, "", "causal_safe = false in the router");
  }

  void same_bits(const RouterBatch& batch) {
    MoeConfig busy = tight();
    busy.jitter = Traits::level == Level::token ? 0.1 : 0;
    busy.expert_dropout = 0.2;
    const auto a = bench_.run(busy, batch, {.training = true}), b = bench_.run(busy, batch, {.training = true});
    report_.add("a second run gives the same bits", a.same_bits(b));
    const RouterBatch many = bench_.batch(24, 40, true);  // enough rows for threads to share
    const auto one = bench_.run(busy, many, {.training = true});
    for (const int threads : {2, 4})
      report_.add(join(threads, " threads give the bits of one"),
                  one.same_bits(bench_.run(busy, many, {.training = true, .threads = threads})));
  }

  Router router_;
  Bench bench_;
  RouterCheckOptions o_;
  RouterReport report_;
};

}  // namespace detail

/// Tries the properties every router must have. Tables the router points to must fit options.vocabulary and
/// options.experts, and lie in the memory of backend B.
template <class Router, class B = Cpu>
RouterReport check_router(const Router& router, const RouterCheckOptions& options = {}) {
  return detail::RouterCheck<Router, B>(router, options).run();
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

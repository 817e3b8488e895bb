// SPDX-License-Identifier: Apache-2.0
// test_router_contract.cpp -- what a wrong router or loss meets before it trains: choices that are no expert, weights
// that are no number, slopes that are not those of the value, hooks that were not found. Read next:
// include/sparsemoe/nn/check_choices.hpp, include/sparsemoe/testing/stack_bench.hpp.
#define SPARSEMOE_CHECK_CHOICES 1  // as in a build without NDEBUG
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/testing/check_router.hpp"

namespace {

using namespace sparsemoe;

/// Gives `expert`, in training alone or always.
struct Fixed : Switch {
  std::int32_t expert = 0;
  bool in_training = false;
  template <class T>
  Choice<1> choose(Row<const T>, const TokenInfo& info) const {
    return {{!in_training || info.training ? expert : 0}};
  }
};
struct FixedAssign : Switch {
  std::int32_t expert = 0;
  template <class Team, class T>
  void assign(Team team, const Assignment<T>& group) const {
    if (team.lane() != 0) return;
    for (index_t t = 0; t < group.tokens(); ++t) group.chosen(t, 0) = t == 2 ? expert : 0;
  }
};
struct OfSentences : Fixed {
  static constexpr Level level = Level::sentence;
};
/// Weighs by what is not a number, or with a slope that is not the one of its weights.
struct Weighs {
  static constexpr int top_k = 1;
  static constexpr Level level = Level::token;
  static constexpr Gate gate = Gate::own;
  double times = 1, slope = 1;
  template <class T>
  Choice<1> choose(Row<const T> p, const TokenInfo&) const {
    return best<1>(p);
  }
  template <class T>
  void weigh(Row<const T> p, const std::int32_t* chosen, const bool* kept, T* w) const {
    w[0] = kept[0] ? T(times) * p[chosen[0]] : T(0);
  }
  template <class T>
  void weigh_backward(Row<const T>, const std::int32_t* chosen, const bool* kept, const T* dw, T* d) const {
    if (kept[0]) d[chosen[0]] += T(slope) * dw[0];
  }
};

template <class RouterType>
struct Spec {
  using Router = RouterType;
  using Precision = Fp32;
  using Backend = Cpu;
  using Collective = Solo;
  using Activation = Gelu;
};
/// What a layer of 5 experts says in its first pass over 6 tokens; "" if nothing.
template <class Router>
std::string first_pass(const Router& router, bool training = false) {
  MoeConfig config;
  config.experts = 5, config.width = 4, config.hidden = 4;
  const MoE<Spec<Router>> layer(config, router);
  Cpu::Context ctx(1);
  ctx.training = training;
  auto w = layer.template params<const float>();
  index_t total = 0;
  list_params(w, &total);
  const std::vector<float> weights(static_cast<std::size_t>(total), 0.1f);
  bind_params(w, weights.data());
  const std::vector<float> x(24, 1.0f);
  std::vector<float> y(24);
  const std::vector<std::uint8_t> valid = {1, 1, 1, 1, 1, 0};
  typename MoE<Spec<Router>>::Cache cache;
  Solo solo;
  try {
    layer.forward(ctx, w, {2, 3, nullptr, valid.data(), nullptr, 0, nullptr}, {x.data(), 6, 4}, {y.data(), 6, 4}, cache,
                  solo);
  } catch (const RouterError& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("a layer says in its first pass that a choice is no expert") {
  CHECK(first_pass(Fixed{{}, 4}) == "");
  CHECK(first_pass(Fixed{{}, Choice<1>::none}) == "");
  CHECK(first_pass(Fixed{{}, Choice<1>::rejected(4)}) == "");
  CHECK(first_pass(Fixed{{}, 5}) == "router: choose() returned expert 5 of 5 for token 0");
  CHECK(first_pass(Fixed{{}, 1 << 30}) == "router: choose() returned expert 1073741824 of 5 for token 0");
  CHECK(first_pass(Fixed{{}, -7}) == "router: choose() returned -7 for token 0, which is the rejected expert 5 of 5");
  CHECK(first_pass(Fixed{{}, std::numeric_limits<std::int32_t>::min()}).find("choose() returned -2147483648") !=
        std::string::npos);
  CHECK(first_pass(Fixed{{}, 5, true}) == "");
  CHECK(first_pass(Fixed{{}, 5, true}, true) == "router: choose() returned expert 5 of 5 for token 0");
  CHECK(first_pass(OfSentences{{{}, 9}}) == "router: choose() returned expert 9 of 5 for sentence 0");
  CHECK(first_pass(FixedAssign{{}, 5}) == "router: assign() gave expert 5 of 5 for token 2");
}
TEST_CASE("and that a weight is no number, where the scores are") {
  CHECK(first_pass(Weighs{}) == "");
  CHECK(first_pass(Weighs{std::numeric_limits<double>::quiet_NaN()}) ==
        "router: weigh() gave expert 0 of token 0 the weight nan");
}
TEST_CASE("check_router tests the range first, in training too, and stops there") {
  for (const bool in_training : {false, true}) {
    const RouterReport report = check_router(Fixed{{}, 5, in_training});
    CHECK_FALSE(report.passed());
    CHECK(report.properties.size() == 1);
    CHECK(report.text().find("does not hold: choices and weights are those of an expert of the layer: router: "
                             "choose() returned expert 5 of 5 for token 0\n") == 0);
  }
}
TEST_CASE("a failed property names the option that turns it off") {
  RouterReport report;
  report.add("ties", false, "value 3", "RouterCheckOptions::lower_index_wins = false");
  report.add("others", true);
  CHECK(report.text().find(
            "does not hold: ties: value 3; if that is meant: RouterCheckOptions::lower_index_wins = false\n") == 0);
}
TEST_CASE("a slope that is not the one of the weights is named") {
  const RouterReport report = check_router(Weighs{1, 0.5});
  CHECK(report.text().find("does not hold: gradient of outputs and combine weights: weigh_backward()") !=
        std::string::npos);
}
struct Slip : TopK<2> {
  [[maybe_unused]] static constexpr bool casual_safe = false;
  static constexpr Balance balance = Balance::none;
};
TEST_CASE("traits are shown as they were read, so that a slip of the pen is seen") {
  const std::string text = describe_router<Slip>();
  CHECK(text.find("causal_safe = true (default: not declared)\n") != std::string::npos);
  CHECK(text.find("balance = none\n") != std::string::npos);
  CHECK(text.find("hooks that are called: choose\n") != std::string::npos);
}

/// The sum over layers of sum_e e p(e), with what is wrong with it.
enum class Fault { none, shifted, twice, first_layer_alone, padding };
Fault fault = Fault::none;  // not a parameter of a type: that would be five layers to compile
struct Loss {
  template <class S>
  static void apply(typename S::Backend::Context&, const Tokens& tokens, const std::vector<SparseLayer<S>>& layers,
                    typename S::Collective&) {
    for (const auto& [moe, c] : layers) {
      *c->balance = 0;
      if (fault == Fault::first_layer_alone && c != layers[0].cache) continue;
      for (index_t e = 0; e < moe->config().choices(); ++e) {
        c->coefficient[e] =
            static_cast<double>(e) * (fault == Fault::twice ? 2 : 1) - (fault == Fault::shifted ? 9 : 0);
        for (index_t t = 0; t < tokens.count(); ++t)
          if (fault == Fault::padding || tokens.valid[t] != 0) *c->balance += static_cast<double>(e) * c->scores(t, e);
      }
    }
  }
};
struct InStacks : Switch {
  using StackLoss = Loss;
};
/// Which of the two properties of a StackLoss fail.
std::pair<bool, bool> wrong(Fault which) {
  fault = which;
  const RouterCheckOptions options{.width = 4, .hidden = 3};
  const detail::RouterBench<InStacks, Cpu> bench({}, options);
  const detail::RouterBatch batch = bench.batch(4, 5, true);
  const detail::StackBench<InStacks, Cpu> stack({}, options, bench.config());
  const LayerReport slopes = stack.slopes(batch);
  INFO(slopes.text());
  return {slopes.worst > slopes.tolerance, !stack.gradient(batch, {.most = 20}).passed()};
}
TEST_CASE("a StackLoss is differentiated over two layers") {
  using Pair = std::pair<bool, bool>;
  CHECK(wrong(Fault::none) == Pair{false, false});
  CHECK(wrong(Fault::shifted) == Pair{true, false});  // a softmax does not feel it: of slopes() alone
  CHECK(wrong(Fault::twice) == Pair{true, true});
  CHECK(wrong(Fault::first_layer_alone) == Pair{true, true});
  CHECK(wrong(Fault::padding).first);
}
TEST_CASE("check_router runs the StackLoss") {
  fault = Fault::shifted;
  const RouterReport report = check_router(InStacks{});
  CHECK(report.text().find("does not hold: StackLoss: its slopes") == 0);
}

}  // namespace

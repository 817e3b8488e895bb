// SPDX-License-Identifier: Apache-2.0
// test_extract.cpp -- a task's sub-network gives the model's logits and translations, over tasks, seeds, routers,
// options and precisions; a wrong expert shows; and a model of the task-MoE paper's size shrinks to the bytes computed
// on paper. Read next: include/sparsemoe/model/extract.hpp, tests/program/extract.sh.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/extract_weights.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

constexpr index_t vocabulary = 19;

template <class RouterType, class PrecisionType, class Act = Relu>
struct Of : With<RouterType, PrecisionType> {
  using Activation = Act;
};

struct Options {
  std::uint64_t seed = 1;
  index_t experts = 4, tasks = 3, every = 2, layers = 2;
  bool bias = true, relative = false;
};

EncoderDecoderConfig config_of(const Options& o) {
  EncoderDecoderConfig c = model_config(vocabulary, 12, o.relative);
  c.sinusoidal = !o.relative;
  for (StackConfig* s : {&c.encoder, &c.decoder}) {
    s->layers = o.layers, s->bias = o.bias, s->sparse_every = o.every;
    s->moe.experts = o.experts, s->moe.tasks = o.tasks;
  }
  return c;
}

/// Biases start at 0, which would hide a bias that is folded wrongly.
template <class Model>
void randomise(Model& model, Cpu::Context& ctx, std::uint64_t seed) {
  using M = typename Model::P::master;
  model.weights.initialise(ctx, seed);
  std::vector<M> host = model.weights.get(ctx);
  const Random random{seed, 9, 0};
  for (const auto& p : model.weights.list())
    if (p.init.kind == Init::Kind::zero)
      for (index_t i = p.offset; i < p.offset + p.shape.size(); ++i)
        host[static_cast<std::size_t>(i)] = M(0.2 * random.normal(Purpose::test, static_cast<std::uint64_t>(i)));
  model.weights.set(ctx, host);
}

/// Logits of the whole batch, sentence s being of task tasks[s mod n]; rows of padding are 0.
template <class Model>
std::vector<double> logits_of(Model& model, Cpu::Context& ctx, CopyBatch batch, const std::vector<index_t>& tasks) {
  using S = typename Model::S;
  Solo solo;
  for (std::size_t s = 0; s < batch.task.size(); ++s)
    batch.task[s] = static_cast<std::int32_t>(tasks[s % tasks.size()]);
  const index_t n = batch.sentences * batch.target_length;
  std::vector<S> out(static_cast<std::size_t>(n * vocabulary));
  model.logits(ctx, batch.source_tokens(), batch.target_tokens(), solo, {out.data(), n, vocabulary});
  std::vector<double> wide;
  for (index_t t = 0; t < n; ++t)
    for (index_t v = 0; v < vocabulary; ++v)
      wide.push_back(batch.target_valid[static_cast<std::size_t>(t)] == 0
                         ? 0
                         : static_cast<double>(out[static_cast<std::size_t>(t * vocabulary + v)]));
  ctx.arena.reset();
  return wide;
}

/// The best next token, eight times.
template <class Model>
std::vector<std::int32_t> greedy_of(Model& model, Cpu::Context& ctx, CopyBatch batch,
                                    const std::vector<index_t>& tasks) {
  const index_t length = batch.target_length, n = batch.sentences;
  std::fill(batch.target_valid.begin(), batch.target_valid.end(), std::uint8_t(1));
  std::fill(batch.target.begin(), batch.target.end(), 0);
  std::vector<std::int32_t> out;
  for (index_t s = 0; s < n; ++s) batch.target[static_cast<std::size_t>(s * length)] = 1;
  for (index_t i = 0; i < length; ++i) {
    const std::vector<double> logits = logits_of(model, ctx, batch, tasks);
    for (index_t s = 0; s < n; ++s) {
      const auto row = logits.begin() + (s * length + i) * vocabulary;
      out.push_back(static_cast<std::int32_t>(std::max_element(row, row + vocabulary) - row));
      if (i + 1 < length) batch.target[static_cast<std::size_t>(s * length + i + 1)] = out.back();
    }
  }
  return out;
}

/// What two models differ by on the same batch.
struct Difference {
  double relative = 0;  // largest difference of a logit over the largest logit
  bool tokens = true;   // greedy outputs agree
  std::size_t equal = 0, compared = 0;
  void add(const Difference& d) {
    if (!(d.relative <= relative)) relative = d.relative;
    tokens = tokens && d.tokens;
    equal += d.equal, compared += d.compared;
  }
};
template <class A, class B>
Difference difference(A& a, B& b, Cpu::Context& ctx, const std::vector<index_t>& of_a, const std::vector<index_t>& of_b,
                      std::uint64_t seed) {
  const CopyBatch batch(4, 5, vocabulary, seed);
  const auto x = logits_of(a, ctx, batch, of_a), y = logits_of(b, ctx, batch, of_b);
  Difference d;
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::abs(x[i]));
    if (!(std::abs(x[i] - y[i]) <= worst)) worst = std::abs(x[i] - y[i]);
    d.equal += x[i] == y[i] ? 1 : 0;
  }
  d.compared = x.size();
  d.relative = worst / largest;
  d.tokens = greedy_of(a, ctx, batch, of_a) == greedy_of(b, ctx, batch, of_b);
  return d;
}

template <class Router>
constexpr bool by_task() {
  if constexpr (std::is_same_v<Router, Dense>)
    return false;
  else
    return routed_by_task<Router>;
}
/// Dense where the stack is routed by task, the same router elsewhere.
template <class Spec, class P, class Act>
using Folded = Of<std::conditional_t<by_task<typename Spec::Router>(), Dense, typename Spec::Router>, P, Act>;
template <class Router>
struct LearnedOf {
  using type = Router;
};
template <int K>
struct LearnedOf<StaticTaskTopK<K>> {
  using type = TaskTopK<K>;
};
template <class Spec, class P, class Act>
using Learned = Of<typename LearnedOf<typename Spec::Router>::type, P, Act>;

enum class Fault { none, expert, weight };

/// Extracts `tasks` from the model into a new one of SubModel's type.
template <class SubModel, class E, class D, class Model>
SubModel extract(Model& model, Cpu::Context& ctx, const std::vector<index_t>& tasks, Fold fold,
                 SubRouting* routing = nullptr, Fault fault = Fault::none) {
  using P = typename Model::P;
  EncoderDecoderConfig config = model.config();
  const auto count = static_cast<index_t>(tasks.size());
  std::vector<StackPlan> plans;
  if constexpr (by_task<typename E::Router>()) {
    plans.push_back(
        plan_stack<typename E::Router, P, Cpu>(ctx, model.weights, InStack::encoder, config.encoder, tasks, fold));
    config.encoder = extracted_config(config.encoder, plans.back(), count);
  }
  if constexpr (by_task<typename D::Router>()) {
    plans.push_back(
        plan_stack<typename D::Router, P, Cpu>(ctx, model.weights, InStack::decoder, config.decoder, tasks, fold));
    config.decoder = extracted_config(config.decoder, plans.back(), count);
  }
  config.encoder.moe.tasks = config.decoder.moe.tasks = count;
  if (routing != nullptr) *routing = plans.back().routing;
  LayerPlan& last = plans.back().layers.back();
  if (fault == Fault::expert) {  // the lowest expert the task does not use, in place of one that it does
    index_t other = 0;
    while (std::find(last.kept.begin(), last.kept.end(), other) != last.kept.end()) ++other;
    last.kept[0] = other;
  }
  if (fault == Fault::weight) last.weight[0] += 0.01;
  SubModel small(ctx, config, false);
  extract_weights(ctx, model.weights, plans, small.weights);
  return small;
}

/// The worst difference over tasks one by one, two at a time, and all: as experts, and folded.
struct Worst {
  Difference kept, folded;
};
template <class E, class D, class P, class Act = Relu>
Worst compare(const Options& o) {
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  EncoderDecoder<E, D> model(ctx, config_of(o), true);
  randomise(model, ctx, o.seed);
  std::vector<std::vector<index_t>> sets;
  for (index_t t = 0; t < o.tasks; ++t) sets.push_back({t});
  sets.push_back({o.tasks - 1, 0});
  sets.emplace_back();
  for (index_t t = 0; t < o.tasks; ++t) sets.back().push_back(t);
  Worst worst;
  for (const auto& tasks : sets) {
    std::vector<index_t> renamed(tasks.size());
    for (std::size_t i = 0; i < renamed.size(); ++i) renamed[i] = static_cast<index_t>(i);
    SubRouting routing = SubRouting::table;
    const auto count = [&](Difference& total, auto&& small) {
      total.add(difference(model, small, ctx, tasks, renamed, o.seed + 10));
    };
    using Rule = EncoderDecoder<E, D>;
    using Table = EncoderDecoder<Learned<E, P, Act>, Learned<D, P, Act>>;
    if constexpr (std::is_same_v<typename D::Router, typename Learned<D, P, Act>::Router>) {
      count(worst.kept, extract<Rule, E, D>(model, ctx, tasks, Fold::no));
    } else {
      bool rule = false;
      try {
        count(worst.kept, extract<Rule, E, D>(model, ctx, tasks, Fold::no, &routing));
        rule = true;
      } catch (const Error&) {  // a table where this type has none
        count(worst.kept, extract<Table, E, D>(model, ctx, tasks, Fold::no));
      }
      CHECK(rule == (routing == SubRouting::rule));
    }
    if (tasks.size() == 1)
      count(worst.folded,
            extract<EncoderDecoder<Folded<E, P, Act>, Folded<D, P, Act>>, E, D>(model, ctx, tasks, Fold::yes));
    else
      CHECK_THROWS_AS((extract<Rule, E, D>(model, ctx, tasks, Fold::yes)), Error);
  }
  return worst;
}

/// All options in turn, each with another seed.
template <class EncoderRouter, class DecoderRouter, class P, class Act = Relu>
Worst sweep(std::initializer_list<Options> options) {
  Worst worst;
  for (const Options& o : options) {
    const Worst w = compare<Of<EncoderRouter, P, Act>, Of<DecoderRouter, P, Act>, P, Act>(o);
    worst.kept.add(w.kept);
    worst.folded.add(w.folded);
  }
  MESSAGE(std::string(P::name), ": experts ", worst.kept.relative, ", ", worst.kept.equal, " of ", worst.kept.compared,
          " logits equal to the bit; folded ", worst.folded.relative);
  return worst;
}
const std::initializer_list<Options> few = {{1}, {2, 7, 5, 1, 2, false, true}};
const std::initializer_list<Options> many = {{1},
                                             {2, 7, 5, 1, 2, false, true},
                                             {3, 3, 4, 2, 4, true, true},
                                             {4, 16, 3, 3, 3, false, false},
                                             {5, 5, 3, 1, 1},
                                             {6, 2, 2}};

// Folding changes the order of sums: of K hidden widths in one product in place of K products that are added. The
// largest sums here have 72 terms.
template <class P>
void check_worst(const Worst& w, double tolerance) {
  CHECK(w.kept.relative < tolerance);
  CHECK(w.kept.tokens);
  CHECK(w.folded.relative < tolerance);
  CHECK(w.folded.tokens);
}

TEST_CASE("a sub-network gives the model's logits and translations: learned tasks") {
  check_worst<Fp64>(sweep<TopK<2>, Task, Fp64>(many), 1e-14);
  check_worst<Fp32>(sweep<TopK<2>, Task, Fp32>(many), 1e-6);
  check_worst<Fp32>(sweep<Task, Switch, Fp32>(few), 1e-6);
  check_worst<Fp32>(sweep<Task, Task, Fp32>(many), 1e-6);
}
TEST_CASE(
    "a sub-network gives the model's logits and translations: fixed tasks, one and three experts, gated activation") {
  check_worst<Fp32>(sweep<StaticTask, StaticTask, Fp32>(many), 1e-6);
  check_worst<Fp32>(sweep<Dense, TaskTopK<3>, Fp32>({{1}, {2, 9, 4, 1, 2, false}}), 1e-6);
  check_worst<Fp32>(sweep<TaskTopK<1>, Dense, Fp32>(few), 1e-6);
  check_worst<Fp32>(sweep<TopK<2>, Task, Fp32, Gated<Silu>>(few), 1e-6);
}
TEST_CASE(
    "in bf16 a sub-network of experts is close to the last place, and a folded one rounds its weights once more") {
  const Worst w = sweep<TopK<2>, Task, Bf16>(few);
  CHECK(w.kept.relative < 1.0 / 256);
  // w wo is rounded to 8 bits: an error of at most 2^-9 of a term, in each of the layers.
  CHECK(w.folded.relative < 4.0 / 256);
}

TEST_CASE("the comparison sees a wrong expert and a weight that is off by 0.01") {
  using E = Of<TopK<2>, Fp32>;
  using D = Of<Task, Fp32>;
  using Small = EncoderDecoder<E, D>;
  using Plain = EncoderDecoder<E, Of<Dense, Fp32>>;
  Cpu::Context ctx(1);
  Small model(ctx, config_of({}), true);
  randomise(model, ctx, 1);
  for (index_t t = 0; t < 3; ++t) {
    auto right = extract<Small, E, D>(model, ctx, {t}, Fold::no);
    auto wrong = extract<Small, E, D>(model, ctx, {t}, Fold::no, nullptr, Fault::expert);
    auto folded = extract<Plain, E, D>(model, ctx, {t}, Fold::yes, nullptr, Fault::expert);
    auto weighed = extract<Plain, E, D>(model, ctx, {t}, Fold::yes, nullptr, Fault::weight);
    CHECK(difference(model, right, ctx, {t}, {0}, 1).relative < 1e-6);
    CHECK(difference(model, wrong, ctx, {t}, {0}, 1).relative > 1e-2);
    CHECK(difference(model, folded, ctx, {t}, {0}, 1).relative > 1e-2);
    CHECK(difference(model, weighed, ctx, {t}, {0}, 1).relative > 1e-4);
  }
}

TEST_CASE("what cannot be extracted is one sentence") {
  StackConfig stack = config_of({}).decoder;
  const auto none = [](index_t, index_t, double*) {};
  const auto plan = [&](const std::vector<index_t>& tasks, Fold fold = Fold::no) {
    return plan_stack<StaticTask, double>(InStack::decoder, stack, tasks, fold, none);
  };
  CHECK_THROWS_WITH_AS(plan({}), "extract: name a task", Error);
  CHECK_THROWS_WITH_AS(plan({3}), "extract: there is no task 3; the model has 3", Error);
  CHECK_THROWS_WITH_AS(plan({1, 1}), "extract: task 1 is named twice", Error);
  CHECK_THROWS_WITH_AS(plan({1, 2}, Fold::yes),
                       "extract: only the experts of one task fold into a dense block; got 2 tasks", Error);
  stack.sparse_every = 0;
  CHECK_THROWS_WITH_AS(plan({1}), "extract: the stack has no sparse layer", Error);
  stack.experts_of_layer = {4};
  CHECK_THROWS_WITH_AS(stack.check("decoder"),
                       "decoder: give the number of experts for each of the 2 layers or for none; got 1", Error);
  stack.experts_of_layer = {0, 4};
  stack.hidden_of_layer = {24, 0};
  CHECK_THROWS_WITH_AS(stack.check("decoder"), "decoder: the hidden width of a layer must be at least 1; got 0", Error);
}

/// Leaves of a model without room for its weights.
template <class E, class D>
std::vector<ParamInfo> leaves_of(const EncoderDecoderConfig& c) {
  std::vector<ParamInfo> list;
  index_t offset = 0;
  const auto add = [&](const std::string& name, auto& t, const Leaf& leaf = {}) {
    list.push_back(param_info(name, offset, t, leaf));
    offset += reserved(t, leaf.init);
  };
  auto table = Embedding<Bf16, Cpu>{c.vocabulary, c.encoder.width}.template params<const bf16>();
  table.visit("shared.", add);
  Encoder<E>(c.encoder).visit_weights("encoder.", add);
  Decoder<D>(c.decoder).visit_weights("decoder.", add);
  return list;
}
struct Size {
  index_t parameters = 0, experts = 0, bytes = 0;  // bytes as they are served: bf16, and fp32 for the gates
};
Size size_of(const std::vector<ExtractedLeaf>& leaves, const std::string& prefix) {
  Size s;
  for (const auto& l : leaves)
    if (l.info.name.starts_with(prefix)) {
      s.parameters += l.info.shape.size();
      s.experts += l.of_experts() ? l.info.shape.size() : 0;
      s.bytes += l.info.shape.size() * (l.info.init.wide ? 4 : 2);
    }
  return s;
}

TEST_CASE("a model of the paper's WMT size extracts to the bytes computed on paper") {
  using Token = Of<TopK<2>, Bf16>;
  using Tasks = Of<Task, Bf16>;
  EncoderDecoderConfig c;
  c.vocabulary = 64000;
  c.encoder.layers = 6, c.encoder.width = 512, c.encoder.heads = 8, c.encoder.head_width = 64, c.encoder.hidden = 2048;
  c.encoder.moe.tasks = 18;
  // By hand: attention a = 4 (512^2 + 512), norm n = 2 * 512, feed-forward or expert f = 2 * 512 * 2048 + 2048 + 512;
  //   encoder = 6 (a + 2 n) + 3 f + 3 (E f + 512 E) + n,  decoder = 6 (2 a + 3 n) + 3 f + 3 (E f + 18 E) + n,
  // and of one task, decoder = 6 (2 a + 3 n) + 3 f + 3 (2 f + 2) + n, or folded 6 (2 a + 3 n) + 3 f + 3 (2 f - 512) +
  // n. The paper's 533M count three embedding tables (source, target, output) where this model ties them into one.
  struct Paper {
    index_t experts, encoder, decoder, bytes, small_bytes, folded_bytes;
  };
  for (const Paper& paper : {Paper{32, 214237696, 220500160, 935113472, 557158424, 557155328},
                             Paper{128, 819102208, 825222400, 3354592256, 1767182360, 1767179264}}) {
    c.encoder.moe.experts = paper.experts;
    c.decoder = c.encoder;
    const auto list = leaves_of<Token, Tasks>(c);
    const Size before = size_of(extracted_leaves(list, {}), ""),
               decoder = size_of(extracted_leaves(list, {}), "decoder.");
    CHECK(size_of(extracted_leaves(list, {}), "encoder.").parameters == paper.encoder);
    CHECK(decoder.parameters == paper.decoder);
    CHECK(before.parameters == paper.encoder + paper.decoder + 64000 * 512);
    CHECK(before.bytes == paper.bytes);
    if (paper.experts == 32) CHECK((before.parameters + 2 * 64000 * 512) / 1000000 == 533);
    const auto logits = [](index_t layer, index_t count, float* to) {
      for (index_t i = 0; i < count; ++i)
        to[i] = static_cast<float>(
            Random{static_cast<std::uint64_t>(layer), 1, 0}.normal(Purpose::test, static_cast<std::uint64_t>(i)));
    };
    for (const index_t task : {0, 17}) {
      const auto check = [&](Fold fold, index_t bytes, auto&& list_of_type) {
        const auto plan = plan_stack<Task, float>(InStack::decoder, c.decoder, {task}, fold, logits);
        const auto leaves = extracted_leaves(list, {plan});
        CHECK(size_of(leaves, "").bytes == bytes);
        const double share =
            static_cast<double>(size_of(leaves, "decoder.").experts) / static_cast<double>(decoder.experts);
        CHECK(std::abs(share - 2 / static_cast<double>(paper.experts)) < 1e-5);  // 6.3 % and 1.6 % in the paper
        EncoderDecoderConfig small = c;
        small.decoder = extracted_config(c.decoder, plan, 1);
        const std::vector<ParamInfo> expected = list_of_type(small);
        REQUIRE(expected.size() == leaves.size());
        for (std::size_t i = 0; i < expected.size(); ++i) {
          CHECK(expected[i].name == leaves[i].info.name);
          CHECK(expected[i].shape.size() == leaves[i].info.shape.size());
          CHECK(expected[i].role == leaves[i].info.role);
          CHECK(expected[i].stack == leaves[i].info.stack);
          CHECK(expected[i].layer == leaves[i].info.layer);
        }
      };
      check(Fold::no, paper.small_bytes, [](const auto& s) { return leaves_of<Token, Tasks>(s); });
      check(Fold::yes, paper.folded_bytes, [](const auto& s) { return leaves_of<Token, Of<Dense, Bf16>>(s); });
    }
  }
}

}  // namespace

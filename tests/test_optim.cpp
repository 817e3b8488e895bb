// SPDX-License-Identifier: Apache-2.0
// test_optim.cpp -- optimisers and clipping against reference trajectories, and what the references do not show:
// experts kept apart, idle experts, equal bits on any number of threads. Read next:
// include/sparsemoe/optim/adafactor.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/any_optimiser.hpp"
#include "sparsemoe/optim/basic.hpp"
#include "sparsemoe/optim/clip.hpp"
#include "sparsemoe/optim/factored_adam.hpp"

namespace {

using namespace sparsemoe;
using nlohmann::json;
using TestBackend = Cpu;
using Context = TestBackend::Context;

static_assert(check_optimiser<Adafactor<Fp32, TestBackend>>());
static_assert(check_optimiser<Adafactor<Bf16, TestBackend>>());
static_assert(check_optimiser<AdamW<Fp64, TestBackend>>());
static_assert(check_optimiser<FactoredAdam<Fp64, TestBackend>>());
static_assert(check_optimiser<AnyOptimiser<AdamW<Fp32, TestBackend>, FactoredAdam<Fp32, TestBackend>>>());
static_assert(check_optimiser<Sgd<Fp16, TestBackend>>());
static_assert(check_optimiser<Adagrad<Fp32, TestBackend>>());

const std::string folder = std::string(SPARSEMOE_TEST_DATA) + "/goldens/";

std::vector<double> read(const SafetensorsReader& file, const std::string& name) {
  const TensorInfo& info = file.at(name);
  std::vector<double> values(info.bytes() / dtype_bytes(info.dtype));
  if (info.dtype == DType::kF64) {
    file.read(info, values.data());
  } else {
    std::vector<float> narrow(values.size());
    file.read(info, narrow.data());
    values.assign(narrow.begin(), narrow.end());
  }
  return values;
}

std::vector<ParamInfo> make_list(const std::vector<std::pair<std::string, std::vector<index_t>>>& shapes) {
  std::vector<ParamInfo> list;
  index_t offset = 0;
  for (const auto& [name, shape] : shapes) {
    const Tensor<float> t = shape.size() == 1   ? vector_of<float>(shape[0])
                            : shape.size() == 2 ? matrix_of<float>(shape[0], shape[1])
                                                : stack_of<float>(shape[0], shape[1], shape[2]);
    const Role role = t.batch > 1 ? Role::expert : Role::dense;  // stacks stand for experts here
    list.push_back({name, offset, t, Init::zero(), role});
    offset += (t.size() + param_alignment - 1) / param_alignment * param_alignment;
  }
  return list;
}
index_t flat_size(const std::vector<ParamInfo>& list) {
  return list.back().offset + (list.back().shape.size() + param_alignment - 1) / param_alignment * param_alignment;
}

// ------------------------------------------------------------------------------------------------- golden cases
/// max |difference| over the pass mark of each compared tensor: above 1 fails.
struct Marks {
  const json& tensors;
  bool wide;
  double worst = 0, worst_difference = 0;
  std::string at;
  void compare(const std::string& name, const std::vector<double>& mine, const std::vector<double>& reference) {
    REQUIRE(mine.size() == reference.size());
    const json& entry = tensors.contains("f32/" + name) ? tensors.at("f32/" + name) : tensors.at("f64/" + name);
    const double mark = entry.at(wide ? "atol_f64" : "atol_f32").get<double>();
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const double difference = std::abs(mine[i] - reference[i]);
      if (!(difference / mark <= worst)) worst = difference / mark, worst_difference = difference, at = name;
    }
  }
};

template <class P, class O>
double run_case(const json& c, typename O::Config config, double lr, double fault = 0) {
  using M = typename P::master;
  const SafetensorsReader file(folder + c.at("file").get<std::string>());
  const auto list = make_list({{"matrix", {6, 5}}, {"vector", {9}}, {"tensor3", {2, 4, 3}}, {"row", {1, 7}}});
  const auto total = static_cast<std::size_t>(flat_size(list));
  Context ctx(1);
  O optimiser(ctx, list, config);
  std::vector<M> theta(total), gradient(total);
  for (const ParamInfo& p : list) {
    const auto start = read(file, "in/param/" + p.name);
    std::transform(start.begin(), start.end(), theta.begin() + p.offset, [](double v) { return static_cast<M>(v); });
  }
  Marks marks{c.at("tensors"), std::is_same_v<M, double>, 0, 0, ""};
  const index_t steps = c.at("params").at("steps");
  for (index_t step = 1; step <= steps; ++step) {
    for (const ParamInfo& p : list) {
      const auto all = read(file, "in/grads/" + p.name);
      for (index_t i = 0; i < p.shape.size(); ++i)  // halved here and doubled by gradient_scale
        gradient[static_cast<std::size_t>(p.offset + i)] =
            static_cast<M>(0.5 * all[static_cast<std::size_t>((step - 1) * p.shape.size() + i)]);
    }
    optimiser.update(ctx, theta.data(), gradient.data(), 2 + fault, theta.data(), step, lr);
    ctx.arena.reset();
    for (const ParamInfo& p : list) {
      const auto all = read(file, "f64/param_after_step/" + p.name);
      const auto size = static_cast<std::ptrdiff_t>(p.shape.size());
      const auto first = all.begin() + (step - 1) * size;
      const auto mine = theta.begin() + p.offset;
      marks.compare("param_after_step/" + p.name, {mine, mine + size}, {first, first + size});
    }
    if constexpr (requires { optimiser.effective_learning_rates(ctx); }) {
      const auto expected = read(file, "f64/effective_lr");
      const auto rates = optimiser.effective_learning_rates(ctx);
      const auto& items = optimiser.plan().items();
      for (std::size_t i = 0; i < items.size(); ++i)
        marks.compare("effective_lr", {rates[i]},
                      {expected[static_cast<std::size_t>(step - 1) * 4 + static_cast<std::size_t>(items[i].tensor)]});
    }
  }
  // The final state: flat buffers of ours against tensors of theirs.
  std::map<std::string, std::vector<double>> state;
  optimiser.visit_state([&](const std::string& name, M* data, index_t n) { state[name].assign(data, data + n); });
  const auto compare = [&](const std::string& ours, index_t offset, const std::string& theirs) {
    if (file.find("f64/final_state/" + theirs) == nullptr || state.find(ours) == state.end()) return;
    const auto expected = read(file, "f64/final_state/" + theirs);
    const auto first = state[ours].begin() + offset;
    marks.compare("final_state/" + theirs, {first, first + static_cast<std::ptrdiff_t>(expected.size())}, expected);
  };
  for (const ParamInfo& p : list) {
    compare("adamw.first", p.offset, p.name + "/exp_avg");
    compare("adamw.second", p.offset, p.name + "/exp_avg_sq");
    compare("adamw.largest", p.offset, p.name + "/max_exp_avg_sq");
    compare("sgd.momentum", p.offset, p.name + "/momentum_buffer");
    compare("adagrad.sum", p.offset, p.name + "/sum");
    compare("adafactor.momentum", p.offset, p.name + "/exp_avg");
  }
  if constexpr (requires { optimiser.plan(); }) {
    std::int32_t tensor = -1;
    for (const UpdateItem& m : optimiser.plan().items()) {
      if (m.tensor == tensor) continue;  // the items of a tensor lie one behind the other, as in the reference
      tensor = m.tensor;
      const std::string& name = list[static_cast<std::size_t>(tensor)].name;
      if (m.factored) {
        compare("adafactor.row", m.row_state, name + "/exp_avg_sq_row");
        compare("adafactor.col", m.col_state, name + "/exp_avg_sq_col");
      } else {
        compare("adafactor.full", m.row_state, name + "/exp_avg_sq");
      }
    }
  }
  if (fault == 0)
    CHECK_MESSAGE(marks.worst <= 1, P::name, " is at ", marks.worst, " of the mark, |difference| ",
                  marks.worst_difference, " in ", marks.at);
  return marks.worst;
}

template <class P>
std::optional<double> run_golden(const json& c, double fault = 0) {
  const std::string kind = c.at("kind");
  if (!c.at("tensors").contains("in/param/matrix")) return std::nullopt;  // other parameters: sparsemoe-conformance's
  const json& p = c.at("params");
  const double lr = p.value("lr", 0.0);
  if (kind == "optimizer/adafactor") {
    typename Adafactor<P, TestBackend>::Config config;
    config.relative_step = p.value("relative_step", false);
    config.scale_parameter = p.value("scale_parameter", true);
    config.warmup_init = p.value("warmup_init", false);
    config.clip_threshold = p.value("clip_threshold", 1.0);
    config.decay_rate = p.value("decay_rate", -0.8);
    config.beta1 = p.value("beta1", 0.0);
    config.weight_decay = p.value("weight_decay", 0.0);
    if (p.contains("eps")) config.eps1 = p.at("eps")[0], config.eps2 = p.at("eps")[1];
    config.norms = NormScope::tensor;
    return run_case<P, Adafactor<P, TestBackend>>(c, config, lr, fault);
  }
  if (kind == "optimizer/adamw" || kind == "optimizer/adam" || kind == "optimizer/hf_adamw") {
    typename AdamW<P, TestBackend>::Config config;
    if (p.contains("betas")) config.beta1 = p.at("betas")[0], config.beta2 = p.at("betas")[1];
    config.eps = p.value("eps", 1e-8);
    config.weight_decay = p.value("weight_decay", kind == "optimizer/adamw" ? 0.01 : 0.0);  // torch's defaults
    config.decay = kind == "optimizer/adam" ? Decay::l2 : kind == "optimizer/adamw" ? Decay::before : Decay::after;
    config.correct_bias = p.value("correct_bias", true);
    config.amsgrad = p.value("amsgrad", false);
    return run_case<P, AdamW<P, TestBackend>>(c, config, lr, fault);
  }
  if (kind == "optimizer/sgd") {
    typename Sgd<P, TestBackend>::Config config;
    config.momentum = p.value("momentum", 0.0);
    config.weight_decay = p.value("weight_decay", 0.0);
    config.nesterov = p.value("nesterov", false);
    return run_case<P, Sgd<P, TestBackend>>(c, config, lr, fault);
  }
  if (kind == "optimizer/adagrad") return run_case<P, Adagrad<P, TestBackend>>(c, {}, lr, fault);
  return std::nullopt;
}

TEST_CASE("Adafactor, Adam, AdamW, SGD and Adagrad follow the reference trajectories") {
  const json manifest = json::parse(std::ifstream(folder + "manifest.json"));
  int cases = 0;
  for (const json& c : manifest.at("cases")) {
    CAPTURE(c.at("id").get<std::string>());
    if (run_golden<Fp64>(c)) {
      ++cases;
      run_golden<Fp32>(c);
    }
  }
  CHECK(cases == 16);
}

TEST_CASE("a gradient that is off by a millionth fails the comparison") {
  const json manifest = json::parse(std::ifstream(folder + "manifest.json"));
  for (const json& c : manifest.at("cases"))
    if (const auto worst = run_golden<Fp64>(c, 2e-6)) CHECK(*worst > 1);
}

TEST_CASE("clipping scales by the global norm") {
  const json manifest = json::parse(std::ifstream(folder + "manifest.json"));
  int cases = 0;
  for (const json& c : manifest.at("cases")) {
    if (c.at("kind") != "optimizer/clip_grad_norm") continue;
    if (c.at("id").get<std::string>().starts_with("more/")) continue;  // parameters of any name: sparsemoe-conformance
    ++cases;
    CAPTURE(c.at("id").get<std::string>());
    const SafetensorsReader file(folder + c.at("file").get<std::string>());
    const auto list = make_list({{"matrix", {6, 5}}, {"vector", {9}}, {"tensor3", {2, 4, 3}}, {"row", {1, 7}}});
    std::vector<double> gradient(static_cast<std::size_t>(flat_size(list)));
    for (const ParamInfo& p : list) {
      const auto values = read(file, "in/grad/" + p.name);
      std::copy(values.begin(), values.end(), gradient.begin() + p.offset);
    }
    Context ctx(1);
    const GradientNorm norm = gradient_norm<TestBackend>(ctx, gradient.data(), flat_size(list));
    const double factor = clip_factor(norm.norm(), c.at("params").at("max_norm").get<double>());
    Marks marks{c.at("tensors"), true, 0, 0, ""};
    marks.compare("total_norm", {norm.norm()}, read(file, "f64/total_norm"));
    for (const ParamInfo& p : list) {
      std::vector<double> mine(gradient.begin() + p.offset, gradient.begin() + p.offset + p.shape.size());
      for (double& v : mine) v *= factor;
      marks.compare("grad/" + p.name, mine, read(file, "f64/grad/" + p.name));
    }
    CHECK(marks.worst <= 1);
    CHECK(norm.finite());
  }
  CHECK(cases == 2);
}

// ------------------------------------------------------------------------------------- what references do not show
double noise(std::uint64_t stream, std::size_t i) { return Random{stream}.normal(Purpose::test, i); }

TEST_CASE("a norm is that of a plain sum, and finds what is not finite") {
  Context ctx(2);
  for (const std::size_t n : {std::size_t(0), std::size_t(1), std::size_t(16384), std::size_t(50001)}) {
    std::vector<float> x(n);
    double square = 0;
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(noise(1, i)), square += double(x[i]) * double(x[i]);
    const auto size = static_cast<index_t>(n);
    CHECK(gradient_norm<TestBackend>(ctx, x.data(), size, 0.5).norm() ==
          doctest::Approx(0.5 * std::sqrt(square)).epsilon(1e-13));
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      if (n == 0) continue;
      x[n - 1] = bad;
      CHECK_FALSE(gradient_norm<TestBackend>(ctx, x.data(), size).finite());
    }
    if (n > 0) x[n - 1] = 3e38f;
    CHECK(gradient_norm<TestBackend>(ctx, x.data(), size).finite());
  }
  CHECK(clip_factor(10, INFINITY) == 1);
  CHECK(clip_factor(10, 0) == 0);  // as torch
  CHECK(clip_factor(0, 1) == 1);
}

TEST_CASE("the vectorised root is within two units in the last place") {
  double worst = 0;
  for (std::uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 4099) {
    const float x = bits_as<float>(bits);
    worst = std::max(worst, std::abs(double(detail::vector_sqrt(x)) / std::sqrt(double(x)) - 1));
  }
  CHECK(worst < 2 * 5.97e-8);
  CHECK(detail::vector_sqrt(0.0f) == 0.0f);
}

/// Adafactor of one matrix in plain loops, per the paper; `theta` after `gradients`.
std::vector<double> plain_adafactor(index_t rows, index_t cols, std::vector<double> theta,
                                    const std::vector<std::vector<double>>& gradients, double lr) {
  const auto n = static_cast<std::size_t>(rows), m = static_cast<std::size_t>(cols);
  std::vector<double> row(n), col(m), u(n * m);
  for (std::size_t step = 1; step <= gradients.size(); ++step) {
    const auto& g = gradients[step - 1];
    const double keep = std::pow(double(step), -0.8), b2 = 1 - keep;
    double square = 0;
    for (const double v : theta) square += v * v;
    const double alpha = lr * std::max(1e-3, std::sqrt(square / double(n * m)));
    for (double& r : row) r *= b2;
    for (double& c : col) c *= b2;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < m; ++j) {
        const double q = g[i * m + j] * g[i * m + j] + 1e-30;
        row[i] += keep * q / double(m), col[j] += keep * q / double(n);
      }
    const double mean = std::accumulate(row.begin(), row.end(), 0.0) / double(n);
    double norm = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < m; ++j) {
        u[i * m + j] = g[i * m + j] / std::sqrt(row[i] * col[j] / mean);
        norm += u[i * m + j] * u[i * m + j];
      }
    const double clip = std::max(1.0, std::sqrt(norm / double(n * m)));
    for (std::size_t k = 0; k < n * m; ++k) theta[k] -= alpha * u[k] / clip;
  }
  return theta;
}

template <class P>
struct Problem {
  using M = typename P::master;
  using S = typename P::storage;
  std::vector<ParamInfo> list;
  std::size_t n;
  std::vector<M> theta, gradient;
  std::vector<S> weights;
  explicit Problem(std::vector<ParamInfo> l)
      : list(std::move(l)), n(static_cast<std::size_t>(flat_size(list))), theta(n), gradient(n), weights(n) {
    for (std::size_t i = 0; i < n; ++i)
      theta[i] = static_cast<M>(noise(7, i)), gradient[i] = static_cast<M>(noise(8, i));
  }
};

TEST_CASE("every expert is updated as if it were alone, in blocks of any shape") {
  // Several blocks an item: tall, wide, and one with a single column; and a lively neighbour that must not matter.
  const std::vector<std::vector<index_t>> shapes = {{3, 700, 100}, {2, 65, 1500}, {2, 40000, 1}, {2, 7, 13}, {2, 1, 9}};
  for (const auto& shape : shapes) {
    CAPTURE(shape[1]);
    Problem<Fp64> p(make_list({{"experts", shape}}));
    Context ctx(2);
    Adafactor<Fp64, TestBackend> optimiser(ctx, p.list, {});
    const auto size = static_cast<std::size_t>(shape[1] * shape[2]);
    std::vector<std::vector<std::vector<double>>> gradients(static_cast<std::size_t>(shape[0]));
    std::vector<double> start(p.theta);
    for (index_t step = 1; step <= 3; ++step) {
      for (std::size_t i = 0; i < p.n; ++i)
        p.gradient[i] = noise(10 + static_cast<std::uint64_t>(step), i) * (i < size ? 1e3 : 1);
      for (std::size_t e = 0; e < gradients.size(); ++e) {
        const auto first = p.gradient.begin() + static_cast<std::ptrdiff_t>(e * size);
        gradients[e].emplace_back(first, first + static_cast<std::ptrdiff_t>(size));
      }
      optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.theta.data(), step, 0.1);
      ctx.arena.reset();
    }
    double worst = 0;
    for (std::size_t e = 0; e < gradients.size(); ++e) {
      const auto first = start.begin() + static_cast<std::ptrdiff_t>(e * size);
      const auto expected =
          plain_adafactor(shape[1], shape[2], {first, first + static_cast<std::ptrdiff_t>(size)}, gradients[e], 0.1);
      for (std::size_t i = 0; i < size; ++i) worst = std::max(worst, std::abs(expected[i] - p.theta[e * size + i]));
    }
    CHECK(worst < 1e-12);
  }
}

TEST_CASE("a spike in one expert leaves the clip of the others alone, unless norms are per tensor") {
  for (const NormScope scope : {NormScope::batch_item, NormScope::tensor}) {
    const auto second_expert = [&](double spike) {
      Problem<Fp64> p(make_list({{"experts", {2, 8, 16}}}));
      Context ctx(1);
      Adafactor<Fp64, TestBackend>::Config config;
      config.norms = scope;
      Adafactor<Fp64, TestBackend> optimiser(ctx, p.list, config);
      for (index_t step = 1; step <= 2; ++step) {
        if (step == 2)
          for (std::size_t i = 0; i < 128; ++i) p.gradient[i] *= spike;
        optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.theta.data(), step, 0.1);
      }
      return std::vector<double>(p.theta.begin() + 128, p.theta.end());
    };
    CHECK((second_expert(1) == second_expert(1e4)) == (scope == NormScope::batch_item));
  }
}

TEST_CASE("an idle expert moves nothing and keeps its state only when told to skip") {
  for (const bool skip : {false, true}) {
    Problem<Fp32> p(make_list({{"experts", {3, 8, 16}}, {"bias", {3, 1, 16}}}));
    Context ctx(1);
    Adafactor<Fp32, TestBackend>::Config config;
    config.skip_idle = skip;
    config.weight_decay = 0.1;
    config.min_factored = 2;  // the bias keeps the full moment
    p.weights = p.theta;
    Adafactor<Fp32, TestBackend> optimiser(ctx, p.list, config);
    const auto state = [&] {
      std::map<std::string, std::vector<float>> all;
      optimiser.visit_state([&](const char* name, float* data, index_t n) { all[name].assign(data, data + n); });
      return all;
    };
    optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.weights.data(), 1, 0.1);
    CHECK(p.weights == p.theta);
    const auto theta = p.theta;
    const auto before = state();
    REQUIRE(before.at("adafactor.row").size() == 24);
    REQUIRE(before.at("adafactor.full").size() == 48);
    std::fill(p.gradient.begin() + 128, p.gradient.begin() + 256, 0.0f);             // expert 1
    std::fill(p.gradient.begin() + 384 + 16, p.gradient.begin() + 384 + 32, -0.0f);  // its bias
    optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.weights.data(), 2, 0.1);
    CHECK(p.weights == p.theta);
    const auto after = state();
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b, int first, int count) {
      return std::equal(a.begin() + first, a.begin() + first + count, b.begin() + first);
    };
    CHECK(same(p.theta, theta, 128, 128) == skip);  // weight decay moves it otherwise
    CHECK(same(p.theta, theta, 384 + 16, 16) == skip);
    CHECK(same(after.at("adafactor.row"), before.at("adafactor.row"), 8, 8) == skip);
    CHECK(same(after.at("adafactor.col"), before.at("adafactor.col"), 16, 16) == skip);
    CHECK(same(after.at("adafactor.full"), before.at("adafactor.full"), 16, 16) == skip);
    CHECK_FALSE(same(p.theta, theta, 0, 128));
    CHECK_FALSE(same(p.theta, theta, 256, 128));
    // It comes back, to finite values.
    std::fill(p.gradient.begin(), p.gradient.end(), 1e-3f);
    optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.weights.data(), 3, 0.1);
    CHECK(std::all_of(p.theta.begin(), p.theta.end(), [](float v) { return std::isfinite(v); }));
  }
}

TEST_CASE("an expert that never had a gradient stays put") {
  Problem<Fp32> p(make_list({{"experts", {2, 40, 16}}}));
  std::fill(p.gradient.begin(), p.gradient.begin() + 640, 0.0f);
  const auto theta = p.theta;
  Context ctx(1);
  Adafactor<Fp32, TestBackend> optimiser(ctx, p.list, {});
  for (index_t step = 1; step <= 100; ++step)
    optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.theta.data(), step, 0.1);
  CHECK(std::equal(theta.begin(), theta.begin() + 640, p.theta.begin()));
}

// ------------------------------------------------------------------------------------------------ Shazeer et al. 2017
/// Parameters after `steps` updates with gradients that differ from step to step.
template <class P, class O>
std::vector<typename P::master> trained(const std::vector<ParamInfo>& list, const typename O::Config& config,
                                        index_t steps) {
  Problem<P> p(list);
  Context ctx(1);
  O optimiser(ctx, p.list, config);
  for (index_t step = 1; step <= steps; ++step) {
    for (std::size_t i = 0; i < p.n; ++i)
      p.gradient[i] = static_cast<typename P::master>(noise(20 + static_cast<std::uint64_t>(step), i));
    optimiser.update(ctx, p.theta.data(), p.gradient.data(), 0.5, p.theta.data(), step, 0.1);
    ctx.arena.reset();
  }
  return p.theta;
}
template <class P>
void check_plain_adam(double beta1) {
  // One expert is a dense block, and a stack of vectors (biases) has nothing to factor.
  const auto list = make_list({{"w", {33, 50}}, {"b", {70001}}, {"ffn", {1, 40, 64}}, {"bias", {5, 1, 64}}});
  typename FactoredAdam<P, TestBackend>::Config mine;
  mine.beta1 = beta1, mine.beta2 = 0.98, mine.weight_decay = 0.1, mine.decay_vectors = false;
  typename AdamW<P, TestBackend>::Config adam;
  adam.beta1 = beta1, adam.beta2 = 0.98, adam.weight_decay = 0.1, adam.decay_vectors = false;
  const auto expected = trained<P, AdamW<P, TestBackend>>(list, adam, 4);
  CHECK(trained<P, FactoredAdam<P, TestBackend>>(list, mine, 4) == expected);
  mine.beta1 += 1e-6;
  CHECK(trained<P, FactoredAdam<P, TestBackend>>(list, mine, 4) != expected);
}
TEST_CASE("the Adam of 2017 is Adam, to the bit, where nothing is factored") {
  for (const double beta1 : {0.0, 0.9}) {
    check_plain_adam<Fp64>(beta1);
    check_plain_adam<Fp32>(beta1);
  }
}

/// Adam without a first moment whose second is the outer product of its row and column means over their mean.
std::vector<double> plain_factored_adam(index_t rows, index_t cols, std::vector<double> theta,
                                        const std::vector<std::vector<double>>& gradients, double lr, double eps,
                                        bool eps_in_root) {
  const auto n = static_cast<std::size_t>(rows), m = static_cast<std::size_t>(cols);
  std::vector<double> row(n), col(m);
  for (std::size_t step = 1; step <= gradients.size(); ++step) {
    const auto& g = gradients[step - 1];
    for (double& r : row) r *= 0.98;
    for (double& c : col) c *= 0.98;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < m; ++j) {
        const double q = 0.02 * g[i * m + j] * g[i * m + j];
        row[i] += q / double(m), col[j] += q / double(n);
      }
    const double mean = std::accumulate(row.begin(), row.end(), 0.0) / double(n);
    const double correct = 1 - std::pow(0.98, double(step));
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < m; ++j) {
        const double v = row[i] * col[j] / mean / correct;
        theta[i * m + j] -= lr * g[i * m + j] / (eps_in_root ? std::sqrt(v + eps * eps) : std::sqrt(v) + eps);
      }
  }
  return theta;
}
TEST_CASE("the Adam of 2017 factors each expert's matrix as the plain reference does, whatever its neighbours do") {
  // Several blocks an expert: tall and wide ones; expert 0 is lively, expert 1 is idle in the first two steps.
  for (const auto& shape : std::vector<std::vector<index_t>>{{3, 700, 100}, {3, 65, 1500}, {2, 7, 13}}) {
    CAPTURE(shape[1]);
    for (const double eps : {1e-8, 0.3}) {
      Problem<Fp64> p(make_list({{"experts", shape}}));
      Context ctx(2);
      FactoredAdam<Fp64, TestBackend>::Config config;
      config.beta1 = 0.9, config.beta2 = 0.98, config.eps = eps;  // experts have no first moment, whatever others have
      FactoredAdam<Fp64, TestBackend> optimiser(ctx, p.list, config);
      const auto size = static_cast<std::size_t>(shape[1] * shape[2]);
      std::vector<std::vector<std::vector<double>>> gradients(static_cast<std::size_t>(shape[0]));
      const std::vector<double> start(p.theta);
      for (index_t step = 1; step <= 4; ++step) {
        for (std::size_t i = 0; i < p.n; ++i)
          p.gradient[i] =
              i / size == 1 && step <= 2 ? 0 : noise(30 + static_cast<std::uint64_t>(step), i) * (i < size ? 1e3 : 1);
        for (std::size_t e = 0; e < gradients.size(); ++e) {
          const auto first = p.gradient.begin() + static_cast<std::ptrdiff_t>(e * size);
          gradients[e].emplace_back(first, first + static_cast<std::ptrdiff_t>(size));
        }
        optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.theta.data(), step, 0.1);
        ctx.arena.reset();
        if (step == 2) CHECK(std::equal(start.begin() + 1, start.begin() + 9, p.theta.begin() + 1) == false);
        if (step == 2)
          CHECK(std::equal(start.begin() + static_cast<std::ptrdiff_t>(size),
                           start.begin() + static_cast<std::ptrdiff_t>(2 * size),
                           p.theta.begin() + static_cast<std::ptrdiff_t>(size)));
      }
      double worst = 0, other = 0;
      for (std::size_t e = 0; e < gradients.size(); ++e) {
        auto g = gradients[e];
        const auto first = start.begin() + static_cast<std::ptrdiff_t>(e * size);
        const std::vector<double> theta(first, first + static_cast<std::ptrdiff_t>(size));
        if (e == 1)  // the reference divides 0 by 0 there
          for (int step = 0; step < 2; ++step)
            std::fill(g[static_cast<std::size_t>(step)].begin(), g[static_cast<std::size_t>(step)].end(), 1e-150);
        const auto expected = plain_factored_adam(shape[1], shape[2], theta, g, 0.1, eps, false);
        const auto in_root = plain_factored_adam(shape[1], shape[2], theta, g, 0.1, eps, true);
        for (std::size_t i = 0; i < size; ++i) {
          worst = std::max(worst, std::abs(expected[i] - p.theta[e * size + i]));
          other = std::max(other, std::abs(in_root[i] - p.theta[e * size + i]));
        }
      }
      CHECK(worst < 1e-12);
      if (eps > 0.1) CHECK(other > 1e-3);
    }
  }
}
TEST_CASE("the Adam of 2017 keeps a row and a column of an expert's matrix, and no first moment of it") {
  const auto list =
      make_list({{"embedding", {100, 64}}, {"experts", {8, 64, 256}}, {"bias", {8, 1, 256}}, {"b", {64}}});
  const index_t full = 100 * 64 + 8 * 256 + 64, factored = 8 * (64 + 256);
  Context ctx(1);
  for (const double beta1 : {0.0, 0.9}) {
    FactoredAdam<Fp32, TestBackend>::Config config;
    config.beta1 = beta1;
    FactoredAdam<Fp32, TestBackend> optimiser(ctx, list, config);
    index_t values = 0;
    optimiser.visit_state([&](const char*, float*, index_t n) { values += n; });
    CHECK(values == factored + (beta1 > 0 ? 2 : 1) * full);
  }
  index_t adam = 0;
  AdamW<Fp32, TestBackend>(ctx, list, {}).visit_state([&](const char*, float*, index_t n) { adam += n; });
  CHECK(adam == 2 * (full + 8 * 64 * 256));
}
TEST_CASE("an optimiser chosen at run time is the one chosen, and goes on from its saved state") {
  using Lean = FactoredAdam<Fp32, TestBackend>;
  using Any = AnyOptimiser<AdamW<Fp32, TestBackend>, Lean>;
  const auto list = make_list({{"w", {33, 50}}, {"experts", {4, 64, 256}}, {"b", {64}}});
  Lean::Config config;
  config.beta1 = 0.9;
  const auto expected = trained<Fp32, Lean>(list, config, 4);
  CHECK(trained<Fp32, Any>(list, config, 4) == expected);
  CHECK(trained<Fp32, Any>(list, {}, 4) == trained<Fp32, AdamW<Fp32, TestBackend>>(list, {}, 4));
  Problem<Fp32> p(list);
  Context ctx(1);
  std::map<std::string, std::vector<float>> saved;
  for (const bool again : {false, true}) {
    Any optimiser(ctx, p.list, config);
    if (again)
      optimiser.visit_state([&](const char* name, float* data, index_t n) {
        REQUIRE(saved.at(name).size() == static_cast<std::size_t>(n));
        std::copy_n(saved.at(name).begin(), n, data);
      });
    for (index_t step = again ? 3 : 1; step <= (again ? 4 : 2); ++step) {
      for (std::size_t i = 0; i < p.n; ++i)
        p.gradient[i] = static_cast<float>(noise(20 + static_cast<std::uint64_t>(step), i));
      optimiser.update(ctx, p.theta.data(), p.gradient.data(), 0.5, p.theta.data(), step, 0.1);
      ctx.arena.reset();
    }
    optimiser.visit_state([&](const char* name, float* data, index_t n) { saved[name].assign(data, data + n); });
  }
  CHECK(saved.size() == 4);
  CHECK(p.theta == expected);
}

TEST_CASE("gaps between parameters are neither read nor written, and vectors can be spared decay") {
  Problem<Fp32> p(make_list({{"w", {5, 7}}, {"b", {3}}}));
  for (std::size_t i = 0; i < p.n; ++i)
    if ((i >= 35 && i < 64) || i >= 67) p.theta[i] = p.gradient[i] = NAN;
  std::fill(p.gradient.begin() + 64, p.gradient.begin() + 67, 0.0f);
  const auto theta = p.theta;
  Context ctx(1);
  AdamW<Fp32, TestBackend>::Config config;
  config.weight_decay = 0.5;
  config.decay_vectors = false;
  AdamW<Fp32, TestBackend> adamw(ctx, p.list, config);
  adamw.update(ctx, p.theta.data(), p.gradient.data(), 1, nullptr, 1, 0.1);
  adamw.visit_state([](const char*, float* data, index_t n) {
    CHECK(std::all_of(data, data + n, [](float v) { return std::isfinite(v); }));
  });
  CHECK(std::equal(theta.begin() + 64, theta.begin() + 67, p.theta.begin() + 64));
  CHECK(std::isnan(p.theta[40]));
  CHECK(p.theta[0] != theta[0]);
}

template <class P, class O>
std::vector<std::byte> bits_with(int threads, typename O::Config config, index_t* grown = nullptr) {
  Problem<P> p(make_list({{"embedding", {3001, 64}},
                          {"scale", {64}},
                          {"experts", {4, 64, 256}},
                          {"wide", {64, 3001}},
                          {"long", {70001}}}));
  Context ctx(threads);
  O optimiser(ctx, p.list, config);
  std::size_t peak = 0;
  for (index_t step = 1; step <= 3; ++step) {
    optimiser.update(ctx, p.theta.data(), p.gradient.data(), 0.5, p.weights.data(), step, 0.01);
    const GradientNorm norm = gradient_norm<TestBackend>(ctx, p.gradient.data(), static_cast<index_t>(p.n));
    p.gradient[0] += static_cast<typename P::master>(norm.norm() * 1e-3);
    ctx.arena.reset();
    if (grown != nullptr && step > 1) *grown += static_cast<index_t>(ctx.arena.peak_bytes() - peak);
    peak = ctx.arena.peak_bytes();
  }
  std::vector<std::byte> bits;
  const auto keep = [&](const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    bits.insert(bits.end(), first, first + bytes);
  };
  keep(p.theta.data(), p.n * sizeof(typename P::master));
  keep(p.weights.data(), p.n * sizeof(typename P::storage));
  optimiser.visit_state(
      [&](const char*, auto* data, index_t n) { keep(data, static_cast<std::size_t>(n) * sizeof *data); });
  return bits;
}

TEST_CASE("one, two and four threads give the same bits") {
  Adafactor<Bf16, TestBackend>::Config config;
  config.skip_idle = true;
  config.beta1 = 0.9;
  index_t grown = 0;
  const auto one = bits_with<Bf16, Adafactor<Bf16, TestBackend>>(1, config, &grown);
  CHECK(grown == 0);
  CHECK(one == bits_with<Bf16, Adafactor<Bf16, TestBackend>>(2, config));
  CHECK(one == bits_with<Bf16, Adafactor<Bf16, TestBackend>>(4, config));
  const auto lean = bits_with<Bf16, FactoredAdam<Bf16, TestBackend>>(1, {}, &grown);
  CHECK(grown == 0);
  CHECK(lean == bits_with<Bf16, FactoredAdam<Bf16, TestBackend>>(2, {}));
  CHECK(lean == bits_with<Bf16, FactoredAdam<Bf16, TestBackend>>(4, {}));
  const auto adam = bits_with<Fp16, AdamW<Fp16, TestBackend>>(1, {});
  CHECK(adam == bits_with<Fp16, AdamW<Fp16, TestBackend>>(2, {}));
  CHECK(adam == bits_with<Fp16, AdamW<Fp16, TestBackend>>(4, {}));
}

TEST_CASE("the stored weights are the rounded master") {
  Problem<Bf16> p(make_list({{"w", {33, 50}}, {"b", {3}}}));
  Context ctx(1);
  Adafactor<Bf16, TestBackend> optimiser(ctx, p.list, {});
  optimiser.update(ctx, p.theta.data(), p.gradient.data(), 1, p.weights.data(), 1, 0.01);
  for (const ParamInfo& info : p.list)
    for (index_t k = 0; k < info.shape.size(); ++k) {
      const auto i = static_cast<std::size_t>(info.offset + k);
      REQUIRE(p.weights[i].bits == bf16(p.theta[i]).bits);
    }
}

TEST_CASE("configurations that make no sense are refused in words") {
  const auto list = make_list({{"w", {2, 2}}});
  Context ctx(1);
  Adafactor<Fp32, TestBackend>::Config a;
  a.clip_threshold = 0;
  CHECK_THROWS_WITH_AS((Adafactor<Fp32, TestBackend>(ctx, list, a)),
                       "adafactor: clip_threshold must be positive, not 0", Error);
  AdamW<Fp32, TestBackend>::Config b;
  b.beta2 = 1;
  CHECK_THROWS_WITH_AS((AdamW<Fp32, TestBackend>(ctx, list, b)), "adamw: beta2 must be in [0, 1), not 1", Error);
  FactoredAdam<Fp32, TestBackend>::Config c;
  c.eps = 0;
  CHECK_THROWS_WITH_AS((FactoredAdam<Fp32, TestBackend>(ctx, list, c)), "factored_adam: eps must be positive, not 0",
                       Error);
}

}  // namespace

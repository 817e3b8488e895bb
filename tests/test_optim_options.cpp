// SPDX-License-Identifier: Apache-2.0
// test_optim_options.cpp -- the options of torch's SGD, Adagrad and Adam against plain loops of what they mean, resumed
// half way; norms of other orders; values that make no sense. Read next: include/sparsemoe/optim/basic.hpp; the
// trajectories of the references themselves are in tests/data/goldens/optim.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/optim/basic.hpp"
#include "sparsemoe/optim/clip.hpp"

namespace {

using namespace sparsemoe;
using List = std::vector<double>;

constexpr index_t n = 6, steps = 5;
double gradient_at(index_t step, index_t i) { return std::sin(static_cast<double>(step * 7 + i * 3)); }
List start() {
  List theta;
  for (index_t i = 0; i < n; ++i) theta.push_back(0.3 * static_cast<double>(i) - 0.7);
  return theta;
}

/// Five steps of ours; another optimiser goes on from the saved state after the second.
template <class O>
List trained(const typename O::Config& config, double rate = 0.1) {
  const std::vector<ParamInfo> list = {{"w", 0, vector_of<float>(n), Init::zero()}};
  Cpu::Context ctx(1);
  List theta = start(), gradient(n);
  std::map<std::string, List> saved;
  for (const index_t first : {index_t(1), index_t(3)}) {
    O optimiser(ctx, list, config);
    if (first > 1)
      optimiser.visit_state([&](const char* name, double* data, index_t count) {
        REQUIRE(saved.at(name).size() == static_cast<std::size_t>(count));
        std::copy(saved.at(name).begin(), saved.at(name).end(), data);
      });
    for (index_t step = first; step <= (first == 1 ? 2 : steps); ++step) {
      for (index_t i = 0; i < n; ++i) gradient[static_cast<std::size_t>(i)] = gradient_at(step, i);
      optimiser.update(ctx, theta.data(), gradient.data(), 1, nullptr, step, rate);
    }
    optimiser.visit_state(
        [&](const char* name, double* data, index_t count) { saved[name] = List(data, data + count); });
  }
  return theta;
}
/// The same of a rule(theta, gradient, element, step) that keeps what it needs.
template <class Rule>
List by_rule(Rule&& rule) {
  List theta = start();
  for (index_t step = 1; step <= steps; ++step)
    for (index_t i = 0; i < n; ++i) rule(theta[static_cast<std::size_t>(i)], gradient_at(step, i), i, step);
  return theta;
}
void check_near(const List& mine, const List& expected) {
  REQUIRE(mine.size() == expected.size());
  for (std::size_t i = 0; i < mine.size(); ++i) CHECK(mine[i] == doctest::Approx(expected[i]).epsilon(1e-13));
}

TEST_CASE("SGD's dampening spares the first gradient") {
  Sgd<Fp64, Cpu>::Config config;
  config.momentum = 0.9, config.dampening = 0.4, config.weight_decay = 0.05, config.maximize = true;
  List mean(n, 0);
  check_near(trained<Sgd<Fp64, Cpu>>(config), by_rule([&](double& theta, double g, index_t i, index_t step) {
               g = -g + 0.05 * theta;
               double& m = mean[static_cast<std::size_t>(i)];
               m = step == 1 ? g : 0.9 * m + 0.6 * g;
               theta -= 0.1 * m;
             }));
}

TEST_CASE("Adagrad's rate decays, and its sums start where they are told") {
  Adagrad<Fp64, Cpu>::Config config;
  config.lr_decay = 0.3, config.initial_accumulator_value = 0.2, config.weight_decay = 0.05, config.eps = 1e-3;
  for (const bool up : {false, true}) {
    config.maximize = up;
    List sum(n, 0.2);
    check_near(trained<Adagrad<Fp64, Cpu>>(config), by_rule([&](double& theta, double g, index_t i, index_t step) {
                 g = (up ? -g : g) + 0.05 * theta;
                 double& s = sum[static_cast<std::size_t>(i)];
                 s += g * g;
                 theta -= 0.1 / (1 + 0.3 * static_cast<double>(step - 1)) * g / (std::sqrt(s) + 1e-3);
               }));
  }
}

TEST_CASE("Adam goes up, and adds eps where it is told") {
  AdamW<Fp64, Cpu>::Config config;
  config.eps = 1e-2, config.maximize = true, config.weight_decay = 0.1, config.decay = Decay::after;
  for (const bool kept : {false, true}) {
    config.eps_added_to = kept ? EpsAddedTo::kept : EpsAddedTo::corrected;
    List first(n, 0), second(n, 0);
    check_near(trained<AdamW<Fp64, Cpu>>(config), by_rule([&](double& theta, double g, index_t i, index_t step) {
                 double &m = first[static_cast<std::size_t>(i)], &v = second[static_cast<std::size_t>(i)];
                 m = 0.9 * m - 0.1 * g;
                 v = 0.999 * v + 0.001 * g * g;
                 const double t = static_cast<double>(step), c1 = 1 - std::pow(0.9, t), c2 = 1 - std::pow(0.999, t);
                 theta -= kept ? 0.1 * std::sqrt(c2) / c1 * m / (std::sqrt(v) + 1e-2)
                               : 0.1 * (m / c1) / (std::sqrt(v / c2) + 1e-2);
                 theta *= 1 - 0.1 * 0.1;
               }));
  }
}

TEST_CASE("a norm of any order") {
  Cpu::Context ctx(1);
  List x(40000);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<double>(i));
  x[20000] = -3;
  double one = 0, cubes = 0;
  for (const double v : x) one += std::abs(v), cubes += std::pow(std::abs(v), 3.0);
  const auto norm = [&](double p) { return gradient_p_norm<Cpu>(ctx, x.data(), 40000, p, 0.5); };
  CHECK(norm(1) == doctest::Approx(0.5 * one).epsilon(1e-13));
  CHECK(norm(3) == doctest::Approx(0.5 * std::cbrt(cubes)).epsilon(1e-13));
  CHECK(norm(2) == gradient_norm<Cpu>(ctx, x.data(), 40000, 0.5).norm());
  CHECK(norm(std::numeric_limits<double>::infinity()) == 1.5);
  x[3] = NAN;
  CHECK(std::isnan(norm(std::numeric_limits<double>::infinity())));
  CHECK_THROWS_WITH_AS(norm(0), "the order of a norm must be positive, not 0", Error);
}

template <class O>
std::string refused(const typename O::Config& config) {
  try {
    config.check();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
TEST_CASE("options that make no sense are refused in words") {
  using Plain = Sgd<Fp64, Cpu>;
  using Sums = Adagrad<Fp64, Cpu>;
  Plain::Config nesterov;
  nesterov.nesterov = true;
  CHECK(refused<Plain>(nesterov) == "sgd: nesterov needs momentum, and no dampening");
  nesterov.momentum = 0.9, nesterov.dampening = 0.1;
  CHECK(refused<Plain>(nesterov) == "sgd: nesterov needs momentum, and no dampening");
  Sums::Config sums;
  sums.lr_decay = -1;
  CHECK(refused<Sums>(sums) == "adagrad: lr_decay must not be negative, but is -1");
  sums.lr_decay = 0, sums.eps = 0;
  CHECK(refused<Sums>(sums) ==
        "adagrad: with eps 0 give a positive initial_accumulator_value: a gradient of 0 would divide by 0");
  sums.initial_accumulator_value = 0.1;
  CHECK(refused<Sums>(sums).empty());
}

}  // namespace

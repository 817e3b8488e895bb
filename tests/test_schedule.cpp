// SPDX-License-Identifier: Apache-2.0
// test_schedule.cpp -- learning-rate schedules against the reference values, their formulas, and their complaints.
// Read next: include/sparsemoe/optim/schedule.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/optim/schedule.hpp"

namespace {

using namespace sparsemoe;
using nlohmann::json;
using Kind = Schedule::Kind;

const std::string folder = std::string(SPARSEMOE_TEST_DATA) + "/goldens/";

Schedule from_golden(const std::string& kind, const json& p) {
  Schedule s;
  s.peak = p.value("lr_init", 1.0);
  s.warmup = p.value("num_warmup_steps", p.value("warmup", index_t(0)));
  s.total = p.value("num_training_steps", index_t(0));
  s.floor = p.value("lr_end", 0.0);
  s.power = p.value("power", 1.0);
  s.cycles = p.value("num_cycles", 0.5);
  s.timescale = p.value("timescale", index_t(0));
  s.kind = kind == "constant_with_warmup" ? Kind::constant : schedule_kind(kind == "t5_rsqrt" ? "rsqrt" : kind);
  s.check();
  return s;
}

/// Largest difference to the golden values.
double difference(const Schedule& s, const std::vector<double>& expected) {
  double worst = 0;
  for (std::size_t t = 0; t < expected.size(); ++t)
    worst = std::max(worst, std::abs(s.at(static_cast<index_t>(t)) - expected[t]));
  return worst;
}

TEST_CASE("schedules give the reference's values") {
  const json manifest = json::parse(std::ifstream(folder + "manifest.json"));
  int cases = 0;
  for (const json& c : manifest.at("cases")) {
    const std::string kind = c.at("kind");
    if (kind.rfind("schedule/", 0) != 0) continue;
    if (c.at("id").get<std::string>().rfind("more/", 0) == 0) continue;  // other options: sparsemoe-conformance's
    ++cases;
    CAPTURE(kind);
    std::vector<double> expected(c.at("params").at("steps").get<std::size_t>());
    SafetensorsReader(folder + c.at("file").get<std::string>())
        .read("f64/lr", DType::kF64, {static_cast<std::int64_t>(expected.size())}, expected.data());
    const Schedule s = from_golden(kind.substr(9), c.at("params"));
    CHECK(difference(s, expected) <= 1e-12);
    Schedule wrong = s;  // the comparison can fail
    wrong.warmup += 1;
    CHECK(difference(wrong, expected) > 1e-6);
  }
  CHECK(cases == 7);
}

TEST_CASE("the Lingvo transformer schedule peaks at the end of its warm-up") {
  Schedule s{.kind = Kind::transformer, .peak = 3, .warmup = 40000, .width = 512};
  s.check();
  CHECK(s.at(0) == doctest::Approx(3 / std::sqrt(512.0) * std::pow(40000, -1.5)).epsilon(1e-14));
  CHECK(s.at(39999) == doctest::Approx(6.629126073623882e-4).epsilon(1e-13));
  CHECK(s.at(39998) < s.at(39999));
  CHECK(s.at(40000) < s.at(39999));
  CHECK(s.at(159999) == doctest::Approx(s.at(39999) / 2).epsilon(1e-13));
}

TEST_CASE("the square-root decay is flat, then falls") {
  Schedule s{.kind = Kind::sqrt_decay, .peak = 3, .warmup = 40000};
  s.check();
  CHECK(s.at(0) == doctest::Approx(1.5e-2).epsilon(1e-14));
  CHECK(s.at(40000) == s.at(0));
  CHECK(s.at(160000) == doctest::Approx(0.75e-2).epsilon(1e-14));
}

TEST_CASE("the schedule of Shazeer et al. 2017: warm-up, a plateau, then as one over the root of the step") {
  Schedule s{.kind = Kind::inverse_sqrt, .peak = 2, .warmup = 2000, .hold = 6000};
  s.check();
  CHECK(s.at(1000) == doctest::Approx(1));
  for (const index_t step : {2000, 5000, 8000}) CHECK(s.at(step) == 2);
  for (const index_t step : {8001, 32000, 200000})
    CHECK(s.at(step) == doctest::Approx(2 * std::sqrt(8000.0 / static_cast<double>(step))).epsilon(1e-14));
}

TEST_CASE("decays end at the floor, and warm-ups start at zero") {
  for (const Kind kind : {Kind::linear, Kind::cosine, Kind::cosine_restarts, Kind::polynomial}) {
    CAPTURE(name(kind));
    const Schedule s{
        .kind = kind, .peak = 2, .warmup = 10, .total = 110, .floor = 0.5, .cycles = kind == Kind::cosine ? 0.5 : 1};
    s.check();
    CHECK(s.at(0) == 0);
    CHECK(s.at(5) == doctest::Approx(1));
    CHECK(s.at(10) == doctest::Approx(2));
    CHECK(s.at(60) == doctest::Approx(1.25));
    CHECK(s.at(110) == doctest::Approx(0.5));
  }
  CHECK(Schedule{.peak = 0.25}.at(0) == 0.25);
}

TEST_CASE("warm-up, stable, decay goes from the floor to the peak and back, by the shapes it is given") {
  Schedule s{.kind = Kind::stable_decay, .peak = 2, .warmup = 4, .total = 20, .floor = 0.5, .hold = 8};
  using Shape = Schedule::Shape;
  CHECK(s.at(0) == 0.5);
  CHECK(s.at(2) == doctest::Approx(1.25));
  CHECK(s.at(4) == 2);
  CHECK(s.at(11) == 2);
  CHECK(s.at(16) == doctest::Approx(1.25));  // half a period of the cosine
  CHECK(s.at(20) == 0.5);
  CHECK(s.at(1000) == 0.5);
  s.rise = Shape::cosine, s.fall = Shape::linear;
  CHECK(s.at(1) == doctest::Approx(0.5 + 1.5 * 0.5 * (1 - std::cos(3.14159265358979 / 4))));
  CHECK(s.at(14) == doctest::Approx(0.5 + 1.5 * 0.75));
  s.rise = Shape::one_minus_sqrt, s.fall = Shape::one_minus_sqrt;
  CHECK(s.at(3) == doctest::Approx(0.5 + 1.5 * 0.5));
  CHECK(s.at(14) == doctest::Approx(0.5 + 1.5 * 0.5));
  s.total = 11;
  CHECK_THROWS_WITH_AS(s.check(), "schedule: stable_decay needs a total of at least warmup and hold (12), not 11",
                       Error);
}

TEST_CASE("numbers that make no sense are refused in words") {
  const auto message = [](const Schedule& s) -> std::string {
    try {
      s.check();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(message({}) == "");
  CHECK(message({.peak = -1}) == "schedule: peak must be positive, not -1");
  CHECK(message({.warmup = -2}) == "schedule: warmup must not be negative, but is -2");
  CHECK(message({.kind = Kind::linear, .warmup = 5, .total = 5}) ==
        "schedule: linear needs a total above warmup (5), not 5");
  CHECK(message({.peak = 1, .floor = 2}) == "schedule: floor must be between 0 and peak (1), not 2");
  CHECK(message({.kind = Kind::transformer, .warmup = 5}) == "schedule: transformer needs the model's width, not 0");
  CHECK(message({.kind = Kind::sqrt_decay}) == "schedule: sqrt_decay needs a warmup above 0");
  CHECK(message({.kind = Kind::linear, .total = 5, .hold = 1}) ==
        "schedule: hold is for inverse_sqrt and stable_decay, and not negative, but is 1 with linear");
  CHECK(schedule_kind("linear") == Kind::linear);
  CHECK(schedule_kind("rsqrt") == Kind::sqrt_decay);
  CHECK_THROWS_WITH_AS(schedule_kind("step"),
                       "schedule: there is no kind \"step\"; choose one of constant, linear, cosine, cosine_restarts, "
                       "polynomial, inverse_sqrt, transformer, sqrt_decay, stable_decay",
                       Error);
}

}  // namespace

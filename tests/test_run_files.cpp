// SPDX-License-Identifier: Apache-2.0
// test_run_files.cpp -- what a run of the translator believes and refuses: settings, changes of them when it goes on,
// the numbers of a checkpoint, the lock of its directory, and the kept encoding. Read
// next: examples/translation/run_files.hpp, examples/translation/training_data.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "examples/translation/encoding_cache.hpp"
#include "examples/translation/run_files.hpp"
#include "examples/translation/setting_changes.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace nmt;

template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const moe::Error& error) {
    return error.what();
  }
  return "";
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// --- settings

TEST_CASE("every number of the settings has a range, and products do not overflow") {
  CHECK(refusal([] { TrainSettings{}.check(); }) == "");
  const moe::Json defaults = moe::to_json(TrainSettings{});
  int numbers = 0;
  for (const auto& [key, value] : defaults.items()) {
    if (!value.is_number() || key == "seed") continue;
    ++numbers;
    std::vector<moe::Json> bad = {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()};
    if (value.is_number_float()) bad = {1e308, -1.0, std::nan(""), INFINITY};
    for (const auto& number : bad) {
      TrainSettings s;
      s.visit([&](const char* name, auto& field, const char*) {
        if constexpr (std::is_arithmetic_v<std::remove_reference_t<decltype(field)>>)
          if (key == name) field = number.get<std::remove_reference_t<decltype(field)>>();
      });
      CAPTURE(key);
      CAPTURE(number);
      CHECK(has(refusal([&] { s.check(); }), key));
    }
  }
  CHECK(numbers > 35);
  TrainSettings s;
  s.steps = 100000000, s.accumulate = 65536;
  CHECK(has(refusal([&] { s.check(); }), "steps times accumulate"));
  s = {};
  s.model.stack.moe.experts = 1;
  CHECK(has(refusal([&] { s.check(); }), "experts must be at least 2 for token routing in the encoder"));
  s.model.encoder_router = s.model.decoder_router = "switch";
  CHECK(refusal([&] { s.check(); }) == "");
}

TEST_CASE("config.json: languages and tasks once each, and of each other") {
  const auto file = [](std::vector<std::string> languages, std::vector<std::string> tasks,
                       const char* task = "target") {
    ModelFile f{{}, 400, std::move(languages), std::move(tasks)};
    f.model.task = task;
    return refusal([&] { f.check(); });
  };
  CHECK(file({"en", "da"}, {"en", "da"}) == "");
  CHECK(file({"en", "da", "fi"}, {"da"}) == "");
  CHECK(file({"en", "da"}, {"en-da"}, "pair") == "");
  CHECK(file({"en", "zh-Hant"}, {"en-zh-Hant", "zh-Hant-en"}, "pair") == "");
  CHECK(file({"en", "da", "en"}, {"da"}) == "languages has 'en' twice");
  CHECK(file({"en", "da"}, {"da", "da"}) == "tasks has 'da' twice");
  CHECK(has(file({"en", "da"}, {"fi"}), "'fi' is no language of the model"));
  CHECK(has(file({"en", "da"}, {"en-fi"}, "pair"), "'en-fi' is no pair"));
}

TEST_CASE("resume: what may change is told, what may not is refused") {
  TrainSettings before, now;
  now.learning_rate = 0.1, now.steps = 7, now.threads = 2;
  auto changes = setting_changes(before, now, "run/settings.json");
  REQUIRE(changes.size() == 3);
  CHECK(changes[0].sentence() == "learning_rate is 0.1 now; it was 0.002");
  CHECK(changes[1].key == "steps");
  for (const char* key :
       {"seed", "kinds", "directions", "max_length", "optimiser", "width", "dropout", "upcycle_from"}) {
    moe::Json json = moe::to_json(before);
    json[key] = json[key].is_string() ? moe::Json("x") : moe::Json(64);
    if (std::string(key) == "optimiser") json[key] = "adafactor";
    if (std::string(key) == "directions") json[key] = "en2xx";
    if (std::string(key) == "dropout") json[key] = 0.5;
    TrainSettings other;
    moe::from_json(other, json, "x");
    CAPTURE(key);
    CHECK(has(refusal([&] { setting_changes(before, other, "run/settings.json"); }),
              std::string("run/settings.json: ") + key + " was "));
  }
}

// --- files

TEST_CASE("trainer.json: only what a trainer wrote") {
  const ScratchDirectory scratch;
  const fs::path path = scratch.path / "trainer.json";
  TrainerState s;
  s.step = 12, s.tokens = 900, s.seconds = 1.5, s.sampler = {1, 7}, s.numbers = {10, 2, 5, 1}, s.data = "abc";
  const moe::Json good = to_json(s);
  const auto with = [&](const char* key, const moe::Json& value) {
    moe::Json json = good;
    json[key] = value;
    moe::write_json(path, json);
    return refusal([&] { trainer_state(path); });
  };
  CHECK(with("step", 12) == "");
  CHECK(trainer_state(path).data == "abc");
  CHECK(trainer_state(path).sampler.batch == 7);
  for (const moe::Json& value : {moe::Json(-1), moe::Json(1.5), moe::Json("1"), moe::Json(), moe::Json(1e30)})
    for (const char* key : {"step", "tokens", "pool", "batch", "updates", "skipped", "good"}) {
      CAPTURE(key);
      CHECK(has(with(key, value), std::string("\"") + key + "\""));
    }
  CHECK(has(with("loss_scale", 0.5), "loss_scale"));
  CHECK(has(with("seconds", -1), "seconds"));
  CHECK(has(with("updates", 11), "do not make 12 steps"));
  CHECK(has(with("pool", std::numeric_limits<std::uint64_t>::max()), "pool"));
  moe::atomic_write(path, "[]");
  CHECK(has(refusal([&] { trainer_state(path); }), "not a trainer's state"));
}

TEST_CASE("a directory that was replaced is no longer the one that was locked") {
  const ScratchDirectory scratch;
  const fs::path run = scratch.path / "run";
  fs::create_directory(run);
  const RunLock lock(run);
  CHECK(refusal([&] { lock.require_in_place(); }) == "");
  CHECK(has(refusal([&] { RunLock other(run); }), "another process is training here"));
  fs::rename(run, scratch.path / "moved");
  CHECK(has(refusal([&] { lock.require_in_place(); }), "removed or replaced"));
  fs::create_directory(run);
  CHECK(has(refusal([&] { lock.require_in_place(); }), "removed or replaced"));
}

// --- the kept encoding

std::vector<EncodedDirection> some_pairs() {
  std::vector<EncodedDirection> pairs = {{{"en", "da"}, 1, {}, {}, 3}, {{"da", "en"}, 0, {}, {}, 0}};
  for (std::int32_t i = 0; i < 40; ++i) {
    pairs[0].source.push_back(Ids(static_cast<std::size_t>(i % 7), i));
    pairs[0].target.push_back(Ids(static_cast<std::size_t>(i % 5), 39 - i));
  }
  return pairs;
}
std::vector<EncodedDirection> directions() { return {{{"en", "da"}, 1, {}, {}, 0}, {{"da", "en"}, 0, {}, {}, 0}}; }

TEST_CASE("a kept encoding is read back, or not believed") {
  const ScratchDirectory scratch;
  const fs::path path = scratch.path / "encoded.safetensors";
  const auto loads = [&](const std::string& key, std::int64_t vocabulary = 40, std::int64_t longest = 6) {
    auto read = directions();
    const bool good = EncodingCache(path, key).load(read, vocabulary, longest);
    const auto expected = good ? some_pairs() : directions();
    for (std::size_t i = 0; i < read.size(); ++i) {
      CHECK(read[i].source == expected[i].source);
      CHECK(read[i].target == expected[i].target);
      CHECK(read[i].too_long == expected[i].too_long);
    }
    return good;
  };
  CHECK(!loads("k"));
  CHECK(EncodingCache(path, "k").save(some_pairs()) == "");
  CHECK(loads("k"));
  CHECK(!loads("other"));
  CHECK(!loads("k", 39));     // an id beyond the vocabulary
  CHECK(!loads("k", 40, 5));  // a row beyond the length
  const std::string bytes = moe::read_file(path);
  for (std::size_t at = 0; at < bytes.size(); at += 7) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << at % 8));
    moe::atomic_write(path, damaged);
    loads("k");  // true at most where the header says the same in other letters
  }
  moe::atomic_write(path, bytes.substr(0, bytes.size() - 1));
  CHECK(!loads("k"));
  moe::atomic_write(path, "");
  CHECK(!loads("k"));
  fs::remove(path);
  fs::create_directory(path);
  CHECK(!loads("k"));
  CHECK(has(EncodingCache(scratch.path / "none" / "x", "k").save(some_pairs()), "none"));
}

}  // namespace

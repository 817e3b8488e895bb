// SPDX-License-Identifier: Apache-2.0
// cuda_search.cu -- greedy and beam search on a GPU find what they find on the CPU, in double: the same tokens, scores
// within 1e-9. Compiled and linked wherever nvcc is; without a device it says so and is skipped (status 77).
// Read next: tests/search_body.hpp, tests/test_search.cpp for the rules.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <limits>

#include "sparsemoe/backend/cuda.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "tests/search_body.hpp"

namespace {

using namespace search_body;

template <class RouterType, class BackendType>
struct On : SpecDefaults {
  using Router = RouterType;
  using Precision = Fp64;
  using Backend = BackendType;
  using Collective = Solo;
};

/// A host array in the memory of backend B.
template <class B, class T>
class Copied {
 public:
  Copied(typename B::Context& ctx, const std::vector<T>& host) : room_(host.size() * sizeof(T)) {
    B::copy_from_host(ctx, room_.template as<T>(), host.data(), static_cast<index_t>(host.size()));
  }
  const T* data() const { return room_.template as<T>(); }

 private:
  Buffer<typename B::Memory> room_;
};

template <class B, class Router>
SearchResult run(SearchOptions options, const CopyBatch& b) {
  typename B::Context ctx;
  EncoderDecoder<On<TopK<2>, B>, On<Router, B>> model(ctx, search_config(), false);
  model.weights.initialise(ctx, 3);
  std::vector<std::uint8_t> unwanted(vocabulary, 0);
  unwanted[0] = unwanted[4] = 1;
  const Copied<B, std::int32_t> source(ctx, b.source), task(ctx, b.task);
  const Copied<B, std::uint8_t> valid(ctx, b.source_valid), banned(ctx, unwanted);
  options.banned = banned.data();
  Solo solo;
  return search(ctx, model, solo, {b.sentences, b.length, source.data(), valid.data(), task.data(), 0, nullptr},
                options);
}

/// Every kind of rule that changes scores.
ScoreRules all_rules() {
  ScoreRules rules;
  rules.repetition_penalty = 1.3, rules.source_penalty = 1.2, rules.source_ngram = 3, rules.min_total = 3;
  rules.biases = {{{5}, 0.5}, {{6, 7}, -1.0}, {{8}, -std::numeric_limits<double>::infinity()}};
  rules.suppressed = {9}, rules.suppressed_first = {3};
  rules.decay_start = 4, rules.decay = 1.1;
  rules.remove_invalid = rules.renormalise = true;
  return rules;
}

template <class Router>
void agrees() {
  const CopyBatch batch(9, 7, vocabulary, 1);
  for (const index_t beams : {1, 4})
    for (const index_t ngram : {0, 2, 3}) {
      CAPTURE(beams);
      CAPTURE(ngram);
      SearchOptions options = options_of(beams, beams, 12);
      options.no_repeat_ngram = ngram;
      if (ngram == 3) options.rules = all_rules();
      const SearchResult host = run<Cpu, Router>(options, batch), device = run<Cuda, Router>(options, batch);
      REQUIRE(device.size() == host.size());
      for (std::size_t s = 0; s < host.size(); ++s) {
        REQUIRE(device[s].size() == host[s].size());
        for (std::size_t i = 0; i < host[s].size(); ++i) {
          CHECK(device[s][i].tokens == host[s][i].tokens);
          CHECK(device[s][i].ended == host[s][i].ended);
          CHECK(std::fabs(device[s][i].score - host[s][i].score) < 1e-9);
        }
      }
    }
}

TEST_CASE("search on the GPU agrees with the CPU: task routing") { agrees<Task>(); }
TEST_CASE("search on the GPU agrees with the CPU: sentence routing") { agrees<Sentence>(); }
TEST_CASE("search on the GPU agrees with the CPU: switch routing") { agrees<Switch>(); }

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("SKIPPED: no CUDA device");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}

// SPDX-License-Identifier: Apache-2.0
// test_allocations.cpp -- a steady step allocates nothing: every malloc of the process is counted while a small model
// trains (loss, backward, update) and decodes (every step of a search). The first steps measure and may allocate.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/nllb_router.hpp"
#include "sparsemoe/hf/switch_router.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/optim/adafactor.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/update.hpp"
#include "tests/model_body.hpp"

// The allocator of glibc behind functions that count; operator new ends here too. A sanitizer brings its own allocator.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
#else
#define COUNTS_ALLOCATIONS 0
#endif

namespace {
std::atomic<long> allocations{0};
}

#if COUNTS_ALLOCATIONS
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);

void* malloc(std::size_t n) {
  ++allocations;
  return __libc_malloc(n);
}
void* calloc(std::size_t n, std::size_t size) {
  ++allocations;
  return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t n) {
  ++allocations;
  return __libc_realloc(p, n);
}
void* memalign(std::size_t alignment, std::size_t n) {
  ++allocations;
  return __libc_memalign(alignment, n);
}
void* aligned_alloc(std::size_t alignment, std::size_t n) { return memalign(alignment, n); }
int posix_memalign(void** p, std::size_t alignment, std::size_t n) {
  *p = memalign(alignment, n);
  return *p == nullptr ? ENOMEM : 0;
}
void free(void* p) { __libc_free(p); }
}
#endif

namespace {

using namespace model_body;

/// How many allocations `f` makes.
template <class F>
long count(F&& f) {
  const long before = allocations;
  f();
  return allocations - before;
}

struct alignas(256) Aligned {
  char bytes[256];
};

TEST_CASE("the counter sees every way to allocate") {
  if (!COUNTS_ALLOCATIONS) return;
  void* volatile sink = nullptr;  // or the compiler leaves the pair out
  CHECK(count([&] { sink = std::malloc(8), std::free(sink); }) == 1);
  CHECK(count([&] { sink = std::calloc(2, 8), std::free(sink); }) == 1);
  CHECK(count([&] { sink = std::aligned_alloc(64, 64), std::free(sink); }) == 1);
  CHECK(count([&] { sink = new int, delete static_cast<int*>(sink); }) == 1);
  CHECK(count([&] { sink = new Aligned, delete static_cast<Aligned*>(sink); }) == 1);
  CHECK(count([&] { std::vector<double> v(100), w = v; }) == 2);
  CHECK(count([&] { Buffer<HostMemory> buffer(100); }) == 1);
  CHECK(count([] {}) == 0);
}

template <class P, template <class, class> class Optimiser, class E, class D>
void check_steps(const char* what, int threads) {
  if (!COUNTS_ALLOCATIONS) {
    MESSAGE("skipped: a sanitizer's allocator is not counted");
    return;
  }
  CAPTURE(what);
  CAPTURE(std::string(P::name));
  CAPTURE(threads);
  using Model = EncoderDecoder<With<E, P>, With<D, P>>;
  Cpu::Context ctx(threads);
  EncoderDecoderConfig config = model_config(60, 64);
  config.encoder.dropout = config.decoder.dropout = 0.1;
  if (!std::is_same_v<E, Dense>) config.encoder.moe.jitter = 0.01;
  if (std::is_same_v<E, hf::SwitchRouter438>) config.encoder.moe.balance_scope = LossScope::sequence;
  Model model(ctx, config);
  model.weights.initialise(ctx, 5);
  Optimiser<P, Cpu> optimiser(ctx, model.weights.list(), {});
  Updater<P, Cpu> updater;
  Solo solo;
  std::vector<CopyBatch> batches;
  for (std::uint64_t i = 0; i < 12; ++i) batches.emplace_back(12, 21, 60, i);

  // Training: other words in the same shape, so that experts get other numbers of tokens in every step.
  const auto step = [&](std::size_t i) {
    ctx.training = true;
    ctx.random = {1, static_cast<std::uint32_t>(i), 0};
    model.loss(ctx, batches[i].view(), solo, updater.loss_scale() / 200, updater.loss_scale());
    updater(ctx, model.weights, optimiser, 1e-2, solo);
    ctx.arena.reset();
  };
  CHECK(count([&] { step(0); }) > 0);  // the arena's blocks
  for (std::size_t i = 1; i < 4; ++i) step(i);
  for (std::size_t i = 4; i < 12; ++i) {
    CAPTURE(i);
    CHECK(count([&] { step(i); }) == 0);
  }

  // Decoding: sentences leave the batch one after the other. A second search finds the arena large enough.
  SearchOptions options;
  options.max_length = 30;
  options.no_repeat_ngram = 2;
  std::vector<std::uint8_t> banned(60, 0);
  banned[static_cast<std::size_t>(options.end)] = 1;
  options.banned = banned.data();
  std::vector<index_t> lengths;
  for (index_t s = 0; s < 12; ++s) lengths.push_back(8 + 2 * s);
  options.lengths = lengths.data();
  for (const index_t beams : {1, 4}) {
    CAPTURE(beams);
    options.beams = options.nbest = beams;
    for (std::size_t i = 0; i < 4; ++i) {
      long steps = 0, least = 12 * beams, counted = 0;
      {
        Search<Model> run(ctx, model, solo, batches[i].source_tokens(), options);
        bool more = true;
        while (more) {
          counted += count([&] { more = run.step(); });
          ++steps;
          least = run.rows() > 0 ? std::min<long>(least, run.rows()) : least;
        }
      }
      ctx.arena.reset();
      CHECK(steps == 30);
      CHECK(least == beams);
      if (i >= 2) CHECK(counted == 0);
    }
  }
}
template <class P, template <class, class> class Optimiser>
void check_all() {
  for (const int threads : {1, 2}) {
    check_steps<P, Optimiser, TopK<2>, Task>("token and task", threads);
    check_steps<P, Optimiser, Dense, Dense>("dense", threads);
  }
}
TEST_CASE("a steady step allocates nothing, fp32, adamw") { check_all<Fp32, AdamW>(); }
TEST_CASE("a steady step allocates nothing, losses over all sparse layers") {
  check_steps<Fp32, AdamW, hf::SwitchRouter438, hf::NllbRouter>("switch and nllb", 1);
}
TEST_CASE("a steady step allocates nothing, bf16, adafactor") { check_all<Bf16, Adafactor>(); }

}  // namespace

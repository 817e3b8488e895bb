// SPDX-License-Identifier: Apache-2.0
// test_data_parallel.cpp -- n ranks with a share of the batch each give the gradient, and the update, of one rank with
// all of it; the balance loss is that of the global batch. Read next: include/sparsemoe/comm/threads.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/comm/threads.hpp"
#include "sparsemoe/optim/adamw.hpp"
#include "sparsemoe/routers/task.hpp"
#include "sparsemoe/routers/top_k.hpp"
#include "sparsemoe/train/update.hpp"
#include "tests/model_body.hpp"

namespace {

using namespace model_body;

template <class RouterType, class Comm>
struct Over : SpecDefaults {
  using Router = RouterType;
  using Precision = Fp64;
  using Backend = Cpu;
  using Collective = Comm;
};

EncoderDecoderConfig config() {
  EncoderDecoderConfig c = model_config(40, 16);
  c.encoder.moe.balance_coefficient = c.decoder.moe.balance_coefficient = 0.5;
  c.encoder.moe.z_coefficient = c.decoder.moe.z_coefficient = 0.1;
  return c;
}

/// Weights after one update of sentences [first, first + count) of the batch, of which `tokens` count in all ranks.
template <class Comm>
std::vector<double> updated(const CopyBatch& batch, index_t first, index_t count, double tokens, Comm& comm) {
  Cpu::Context ctx(1);
  EncoderDecoder<Over<TopK<2>, Comm>, Over<Task, Comm>> model(ctx, config());
  model.weights.initialise(ctx, 3);
  ctx.training = true;
  const auto part = [&](Tokens t) {
    return Tokens{count, t.length, t.ids + first * t.length, t.valid + first * t.length, t.task + first, 0, nullptr};
  };
  const Seq2SeqBatch view{part(batch.source_tokens()), part(batch.target_tokens()),
                          batch.labels.data() + first * batch.target_length};
  model.loss(ctx, view, comm, 1 / tokens, 1);
  AdamW<Fp64, Cpu> optimiser(ctx, model.weights.list(), {});
  Updater<Fp64, Cpu> update;
  const UpdateResult result = update(ctx, model.weights, optimiser, 1e-2, comm);
  CHECK_FALSE(result.skipped);
  return model.weights.get(ctx);
}

double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

double tokens_of(const CopyBatch& batch) {
  return static_cast<double>(std::count_if(batch.labels.begin(), batch.labels.end(), [](auto l) { return l >= 0; }));
}

std::vector<double> updated_on_ranks(const CopyBatch& batch, int ranks, double tokens) {
  std::vector<std::vector<double>> all(static_cast<std::size_t>(ranks));
  const index_t share = batch.sentences / ranks;
  run_ranks(ranks, [&](Threads comm) {
    const index_t first = comm.rank() * share, end = comm.rank() + 1 == ranks ? batch.sentences : first + share;
    all[static_cast<std::size_t>(comm.rank())] = updated(batch, first, end - first, tokens, comm);
  });
  for (const auto& other : all) CHECK(other == all[0]);  // every rank holds the same bits
  return all[0];
}

TEST_CASE("two, three and four ranks make the update of one") {
  const CopyBatch batch(7, 6, 40, 11);
  Solo solo;
  const auto one = updated(batch, 0, batch.sentences, tokens_of(batch), solo);
  for (const int ranks : {2, 3, 4})
    CHECK(worst_difference(one, updated_on_ranks(batch, ranks, tokens_of(batch))) < 1e-10);
}

TEST_CASE("a gradient normalised by a rank's own tokens is noticed") {
  const CopyBatch batch(7, 6, 40, 11);
  Solo solo;
  const auto one = updated(batch, 0, batch.sentences, tokens_of(batch), solo);
  CHECK(worst_difference(one, updated_on_ranks(batch, 2, tokens_of(batch) / 2)) > 1e-6);
}

}  // namespace

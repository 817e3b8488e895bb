// SPDX-License-Identifier: Apache-2.0
// tests/decoding_body.hpp -- decoding step by step against the full forward pass: shared by the tests of each router
// family.
#pragma once

#include "sparsemoe/routers/switch.hpp"
#include "tests/model_body.hpp"

namespace decoding_body {

using namespace model_body;

inline constexpr index_t vocabulary = 17;

/// Step-by-step logits (sentences, length, V) of the given sentences of the batch.
template <class Model>
std::vector<double> decode(Model& model, Cpu::Context& ctx, const CopyBatch& all, const std::vector<index_t>& which) {
  using S = typename Model::S;
  Solo solo;
  const auto n = static_cast<index_t>(which.size()), ls = all.length, lt = all.target_length;
  std::vector<std::int32_t> source, task;
  std::vector<std::uint8_t> valid, on(which.size(), 1);
  for (const index_t s : which) {
    source.insert(source.end(), all.source.begin() + s * ls, all.source.begin() + (s + 1) * ls);
    valid.insert(valid.end(), all.source_valid.begin() + s * ls, all.source_valid.begin() + (s + 1) * ls);
    task.push_back(all.task[static_cast<std::size_t>(s)]);
  }
  std::vector<double> out(static_cast<std::size_t>(n * lt * vocabulary));
  const typename Arena<HostMemory>::Scope scope(ctx.arena);
  const auto memory = model.encode(ctx, {n, ls, source.data(), valid.data(), task.data(), 0, nullptr}, solo);
  model.begin(ctx, memory, n, lt);
  std::vector<std::int32_t> previous(which.size(), -1);
  for (index_t t = 0; t < lt; ++t) {
    std::vector<std::int32_t> ids;
    for (const index_t s : which) ids.push_back(all.target[static_cast<std::size_t>(s * lt + t)]);
    std::vector<S> logits(static_cast<std::size_t>(n * vocabulary));
    model.step(ctx, {n, 1, ids.data(), on.data(), task.data(), t, previous.data()}, solo,
               {logits.data(), n, vocabulary});
    for (index_t s = 0; s < n; ++s)
      for (index_t v = 0; v < vocabulary; ++v)
        out[static_cast<std::size_t>((s * lt + t) * vocabulary + v)] =
            static_cast<double>(logits[static_cast<std::size_t>(s * vocabulary + v)]);
    previous = ids;
  }
  return out;
}

template <class E, class D>
double worst_difference(bool relative, const typename D::Router& router = {}) {
  using S = typename D::Precision::storage;
  Cpu::Context ctx(1);
  ctx.arena.poison(true);
  EncoderDecoder<E, D> model(ctx, model_config(vocabulary, 12, relative), false);
  model.weights.initialise(ctx, 3);
  model.decoder().set_router(router);
  const CopyBatch batch(4, 5, vocabulary, 1);
  Solo solo;
  const index_t n = batch.sentences * batch.target_length;
  std::vector<S> full(static_cast<std::size_t>(n * vocabulary));
  model.logits(ctx, batch.source_tokens(), batch.target_tokens(), solo, {full.data(), n, vocabulary});
  const std::vector<double> stepped = decode(model, ctx, batch, {0, 1, 2, 3});
  double worst = 0;
  for (index_t t = 0; t < n; ++t)
    for (index_t v = 0; v < vocabulary && batch.target_valid[static_cast<std::size_t>(t)] != 0; ++v) {
      const auto i = static_cast<std::size_t>(t * vocabulary + v);
      const double difference = std::abs(stepped[i] - static_cast<double>(full[i]));
      if (!(difference <= worst)) worst = difference;
    }
  // One sentence alone, and in another company, gives the same bits.
  const auto row = [&](const std::vector<double>& all, index_t s) {
    const auto size = static_cast<std::ptrdiff_t>(batch.target_length * vocabulary);
    return std::vector<double>(all.begin() + s * size, all.begin() + (s + 1) * size);
  };
  for (index_t s = 0; s < 4; ++s) CHECK(decode(model, ctx, batch, {s}) == row(stepped, s));
  CHECK(row(decode(model, ctx, batch, {3, 1, 0}), 0) == row(stepped, 3));
  return worst;
}
template <class Router>
void check_decoding(const Router& router = {}) {
  CHECK(worst_difference<With<Switch, Fp64>, With<Router, Fp64>>(true, router) < 1e-12);
  CHECK(worst_difference<With<Switch>, With<Router>>(false, router) < 1e-5);
}

}  // namespace decoding_body

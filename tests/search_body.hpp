// SPDX-License-Identifier: Apache-2.0
// tests/search_body.hpp -- a small random model that ends some sentences early, and searches over parts of a batch:
// shared by the tests of the search's rules and of its independence from the batch.
#pragma once

#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/routers/switch.hpp"
#include "tests/model_body.hpp"

namespace search_body {

using namespace model_body;

inline constexpr index_t vocabulary = 11;
inline constexpr std::int32_t begin_id = 1, end_id = 2;

inline SearchOptions options_of(index_t beams, index_t nbest, index_t max_length) {
  SearchOptions o;
  o.begin = begin_id, o.end = end_id;
  o.beams = beams, o.nbest = nbest, o.max_length = max_length;
  return o;
}

inline bool same(const std::vector<Hypothesis>& a, const std::vector<Hypothesis>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Hypothesis& x, const Hypothesis& y) {
    return x.tokens == y.tokens && x.score == y.score && x.ended == y.ended;
  });
}
inline bool same(const SearchResult& a, const SearchResult& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return same(x, y); });
}

/// Some sentences of a batch as a batch of their own; `columns` 0: as wide as the whole one.
struct Part {
  index_t length;
  std::vector<std::int32_t> source, task;
  std::vector<std::uint8_t> valid;
  Part(const CopyBatch& all, const std::vector<index_t>& which, index_t columns = 0)
      : length(columns > 0 ? columns : all.length) {
    for (const index_t s : which) {
      const auto from = s * all.length;
      source.insert(source.end(), all.source.begin() + from, all.source.begin() + from + length);
      valid.insert(valid.end(), all.source_valid.begin() + from, all.source_valid.begin() + from + length);
      task.push_back(all.task[static_cast<std::size_t>(s)]);
    }
  }
  Tokens tokens() const {
    return {static_cast<index_t>(task.size()), length, source.data(), valid.data(), task.data(), 0, nullptr};
  }
};

inline EncoderDecoderConfig search_config() {
  EncoderDecoderConfig c = model_config(vocabulary, 16, true);
  c.output_scale = 2;  // some continuations are much better than others
  return c;
}

template <class Router, class P>
struct Sample {
  Cpu::Context ctx{1};
  EncoderDecoder<With<Switch, P>, With<Router, P>> model;
  Solo solo;
  CopyBatch batch;

  explicit Sample(index_t sentences, const Router& router = {}, std::uint64_t seed = 3, index_t columns = 7)
      : model(ctx, search_config(), false), batch(sentences, columns, vocabulary, 1) {
    ctx.arena.poison(true);
    model.weights.initialise(ctx, seed);
    model.decoder().set_router(router);
  }
  SearchResult run(const SearchOptions& options, const Part& part) {
    return search(ctx, model, solo, part.tokens(), options);
  }
  std::vector<index_t> all() const {
    std::vector<index_t> which;
    for (index_t s = 0; s < batch.sentences; ++s) which.push_back(s);
    return which;
  }
};

}  // namespace search_body

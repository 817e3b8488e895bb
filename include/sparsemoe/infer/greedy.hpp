// infer/greedy.hpp -- batched greedy decoding with kept keys and values: encode once, then one token a sentence a step.
// Works on any model with encode(), begin() and step(). Memory is the arena's: a steady step allocates nothing.
// Read next: model/decoder.hpp for the step itself.
#pragma once

#include <algorithm>
#include <vector>

#include "sparsemoe/kernels/routing.hpp"
#include "sparsemoe/model/decoder.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// best(r) = index of the largest logit that is not banned; ties to the lower index; NaN never wins.
template <class S, class C>
struct ArgMaxRow {
  Matrix<const S> logits;
  const std::uint8_t* banned;  // (V) or null
  std::int32_t* best;
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    const S* x = logits.row(r).data;
    C top = C(-3e38);
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes) {
      const C v = banned == nullptr || banned[j] == 0 ? C(x[j]) : C(-3e38);
      top = v > top ? v : top;
    }
    top = team.max(top);
    C first = C(3e38);  // the lowest index that has it, as a minimum over lanes
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes)
      if ((banned == nullptr || banned[j] == 0) && C(x[j]) == top) {
        first = C(j);
        break;
      }
    first = -team.max(-first);
    if (team.lane() == 0) best[r] = first < C(3e38) ? static_cast<std::int32_t>(first) : 0;
  }
};

struct GreedyOptions {
  std::int32_t begin = 1, end = 2;
  index_t max_length = 128;                  // tokens of an output, without the end
  const std::uint8_t* banned = nullptr;      // (V) ids never produced, in the backend's memory
};

/// Outputs of one batch, without begin and end, and whether each ended by itself.
struct GreedyResult {
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<bool> ended;
};

/// Decodes source's sentences. ctx.training is off while it runs. `task` of the source is the task of the target.
template <class Model>
void greedy(typename Model::Context& ctx, Model& model, typename Model::Collective& comm, const Tokens& source,
            const GreedyOptions& options, GreedyResult& result) {
  using B = typename Model::B;
  using S = typename Model::S;
  using C = typename Model::P::compute;
  typename Arena<typename B::Memory>::Scope scope(ctx.arena);
  const bool training = ctx.training;
  ctx.training = false;
  const index_t n = source.sentences, vocabulary = model.config().vocabulary;
  result.tokens.resize(static_cast<std::size_t>(n));
  result.ended.assign(static_cast<std::size_t>(n), false);
  for (auto& t : result.tokens) t.clear();
  const auto memory = model.encode(ctx, source, comm);
  model.begin(ctx, memory, n, options.max_length + 1);
  std::int32_t* now = ctx.arena.template take<std::int32_t>(n);
  std::int32_t* before = ctx.arena.template take<std::int32_t>(n);
  std::uint8_t* valid = ctx.arena.template take<std::uint8_t>(n);
  const Matrix<S> logits = ctx.arena.template matrix<S>(n, vocabulary);
  std::vector<std::int32_t> host(static_cast<std::size_t>(n), options.begin), previous(static_cast<std::size_t>(n), -1);
  std::vector<std::uint8_t> live(static_cast<std::size_t>(n), 1);
  for (index_t t = 0; t <= options.max_length; ++t) {
    B::copy_from_host(ctx, now, host.data(), n);
    B::copy_from_host(ctx, before, previous.data(), n);
    B::copy_from_host(ctx, valid, live.data(), n);
    Tokens tokens{n, 1, now, valid, source.task, t, before};
    model.step(ctx, tokens, memory, comm, logits);
    previous = host;
    std::int32_t* best = now;  // read by the step, free now
    B::for_each_row(ctx, n, ArgMaxRow<S, C>{logits, options.banned, best}, vocabulary);
    B::copy_to_host(ctx, host.data(), best, n);
    bool any = false;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      if (live[i] == 0) continue;
      if (host[i] == options.end) {
        live[i] = 0;
        result.ended[i] = true;
      } else if (t == options.max_length) {
        live[i] = 0;
      } else {
        result.tokens[i].push_back(host[i]);
        any = true;
      }
    }
    if (!any) break;
  }
  ctx.training = training;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

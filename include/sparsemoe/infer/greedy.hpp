// SPDX-License-Identifier: Apache-2.0
// infer/greedy.hpp -- batched greedy decoding: the search of one beam, for those who want a token list and no scores.
// Read next: infer/search.hpp.
#pragma once

#include <utility>
#include <vector>

#include "sparsemoe/infer/search.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

struct GreedyOptions {
  std::int32_t begin = 1, end = 2;
  index_t max_length = 128;              // tokens of an output, without the end
  const std::uint8_t* banned = nullptr;  // (V) ids never produced, in the backend's memory
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
  SearchOptions o;
  o.begin = options.begin, o.end = options.end;
  o.max_length = options.max_length + 1;  // an output of max_length tokens may still end
  o.banned = options.banned;
  SearchResult found = search(ctx, model, comm, source, o);
  result.tokens.assign(found.size(), {});
  result.ended.assign(found.size(), false);
  for (std::size_t s = 0; s < found.size(); ++s) {
    auto& best = found[s].front();
    result.ended[s] = best.ended;
    if (!best.ended && static_cast<index_t>(best.tokens.size()) > options.max_length) best.tokens.pop_back();
    result.tokens[s] = std::move(best.tokens);
  }
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// tools/conformance/without_cache.hpp -- generation as with use_cache=false: every step runs the decoder over all that
// was generated. Where routing looks at a whole sequence, as Switch Transformers' capacity does, its output differs
// from that of steps with kept keys and values.
#pragma once

#include "sparsemoe/kernels/tokens.hpp"
#include "sparsemoe/view.hpp"

namespace conformance {

/// An encoder-decoder as a search wants it. Host memory.
template <class Model>
class WithoutCache {
 public:
  using B = typename Model::B;
  using P = typename Model::P;
  using S = typename Model::S;
  using Context = typename Model::Context;
  using Collective = typename Model::Collective;

  explicit WithoutCache(Model& model) : model_(model) {}
  const auto& config() const { return model_.config(); }
  int encode(Context&, const Tokens& source, Collective&) {
    source_ = source;
    return 0;
  }
  void begin(Context&, int, index_t sentences, index_t, index_t beams) {
    rows_.clear();
    for (index_t r = 0; r < sentences * beams; ++r) rows_.push_back({r / beams, {}});
  }
  void select(Context&, const std::int32_t* rows, index_t n) {
    std::vector<Row> next;
    for (index_t i = 0; i < n; ++i) next.push_back(rows_[static_cast<std::size_t>(rows[i])]);
    rows_ = std::move(next);
  }
  void step(Context& ctx, const Tokens& tokens, Collective& comm, Matrix<S> out) {
    const index_t n = tokens.sentences, length = static_cast<index_t>(rows_[0].ids.size()) + 1;
    std::vector<std::int32_t> source, target, task(static_cast<std::size_t>(n), 0);
    std::vector<std::uint8_t> source_valid, target_valid(static_cast<std::size_t>(n * length), 1);
    for (index_t r = 0; r < n; ++r) {
      Row& row = rows_[static_cast<std::size_t>(r)];
      row.ids.push_back(tokens.ids[r]);
      target.insert(target.end(), row.ids.begin(), row.ids.end());
      const index_t at = row.sentence * source_.length;
      source.insert(source.end(), source_.ids + at, source_.ids + at + source_.length);
      source_valid.insert(source_valid.end(), source_.valid + at, source_.valid + at + source_.length);
    }
    std::vector<S> all(static_cast<std::size_t>(n * length * out.cols));
    model_.logits(ctx, {n, source_.length, source.data(), source_valid.data(), task.data(), 0, nullptr},
                  {n, length, target.data(), target_valid.data(), task.data(), 0, nullptr}, comm,
                  {all.data(), n * length, out.cols});
    for (index_t r = 0; r < n; ++r)
      std::copy_n(all.data() + ((r + 1) * length - 1) * out.cols, out.cols, out.row(r).data);
  }

 private:
  struct Row {
    index_t sentence;
    std::vector<std::int32_t> ids;
  };
  Model& model_;
  Tokens source_;
  std::vector<Row> rows_;
};

}  // namespace conformance

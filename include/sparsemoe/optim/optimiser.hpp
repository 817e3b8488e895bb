// SPDX-License-Identifier: Apache-2.0
// optim/optimiser.hpp -- the optimiser's contract, and the work list that every optimiser runs over.
// Parameters are many and mostly small, so an update is a few launches over all of them: the list of parameters is cut
// once, by shape alone, into blocks of about equal size. Read next: optim/adamw.hpp, then optim/adafactor.hpp;
// optim/any_optimiser.hpp for a choice among them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/params.hpp"
#include "sparsemoe/precision.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// An optimiser of precision P on backend B. Master, gradient, weights and moments are flat buffers of one layout, that
/// of list_params(). Gaps between parameters are neither read nor written.
///   using Precision, Backend, Config; static constexpr const char* name;
///   O(Context& ctx, const std::vector<ParamInfo>& list, Config config);      allocates every moment
///   void update(Context& ctx, Master* master, const Accumulate* gradient, double gradient_scale, Storage* weights,
///               index_t step, double learning_rate);
///     One step with the gradient times gradient_scale; step counts from 1. Writes master, and its rounded copy to
///     weights unless weights is null or master itself. No allocation in a steady step; the same bits on any number of
///     threads. Values that are not finite are the caller's to find (optim/clip.hpp).
///   void visit_state(F&& f);      f(const char* name, Master* data, index_t count), for checkpoints
template <class O>
constexpr bool check_optimiser() {
  static_assert(
      requires { typename O::Precision; }, "optimiser: add  using Precision = P");
  static_assert(
      requires { typename O::Backend; }, "optimiser: add  using Backend = B");
  static_assert(
      requires { typename O::Config; }, "optimiser: add  struct Config");
  static_assert(
      requires { O::name; }, "optimiser: add  static constexpr const char* name");
  if constexpr (requires {
                  typename O::Precision;
                  typename O::Backend;
                  typename O::Config;
                }) {
    using P = typename O::Precision;
    using Context = typename O::Backend::Context;
    static_assert(std::is_constructible_v<O, Context&, std::vector<ParamInfo>, typename O::Config>,
                  "optimiser: add a constructor (Context&, const std::vector<ParamInfo>&, Config)");
    static_assert(
        requires(O & o, Context & ctx, typename P::master * m, const typename P::accumulate* g, typename P::storage* w,
                 index_t step) { o.update(ctx, m, g, 1.0, w, step, 1.0); },
        "optimiser: add  void update(ctx, master, gradient, gradient_scale, weights, step, learning_rate)");
    static_assert(
        requires(O & o, void (*f)(const char*, typename P::master*, index_t)) { o.visit_state(f); },
        "optimiser: add  template <class F> void visit_state(F&& f)");
  }
  return true;
}

/// One matrix of the parameters: a tensor, or one item of its batch axis.
struct UpdateItem {
  index_t offset = 0, rows = 1, cols = 0;     // offset in elements of the flat layout
  index_t row_state = 0, col_state = 0;       // its first row and column (factored), else row_state in the full moment
  index_t first_block = 0, blocks = 0;        // its blocks
  index_t scope_block = 0, scope_blocks = 0;  // the blocks its norms are taken over: its own, or its tensor's
  index_t scope_elements = 0;
  std::int32_t tensor = 0;  // index in the list
  bool factored = false, decayed = true;
};
/// `count` contiguous elements of an item, whole rows of it if factored.
struct UpdateBlock {
  index_t offset = 0, count = 0, partial = 0;  // partial: its column sums
  std::int32_t item = 0;
};

/// What norms (scale of the parameter, clipping of the update) are taken over in a rank-3 parameter: each batch item,
/// so that a busy expert does not set the clip of an idle one (T5X), or the tensor (Hugging Face).
enum class NormScope { batch_item, tensor };
constexpr std::array<std::string_view, 2> field_names(NormScope) { return {"batch_item", "tensor"}; }

/// Which parameters are factored: every matrix, or those of experts alone.
enum class Factoring { matrices, experts };

/// The blocks of a list of parameters, on the host and in the memory of backend B.
template <class B>
class UpdatePlan {
 public:
  /// Items with both extents >= min_factored of a rank >= 2 parameter are factored, if `factoring` says so; 0: none is.
  UpdatePlan(typename B::Context& ctx, const std::vector<ParamInfo>& list, index_t min_factored, NormScope scope,
             bool decay_vectors, Factoring factoring = Factoring::matrices) {
    for (std::size_t p = 0; p < list.size(); ++p) {
      const Tensor<float>& t = list[p].shape;
      const auto tensor_first = static_cast<std::size_t>(items_.size());
      const auto tensor_block = static_cast<index_t>(blocks_.size());
      for (index_t b = 0; b < t.batch && t.rows * t.cols > 0; ++b) {
        UpdateItem m;
        m.offset = list[p].offset + b * t.rows * t.cols;
        m.rows = t.rows, m.cols = t.cols, m.tensor = static_cast<std::int32_t>(p);
        m.factored = t.rank >= 2 && min_factored > 0 && std::min(t.rows, t.cols) >= min_factored &&
                     (factoring == Factoring::matrices || list[p].role == Role::expert);
        m.decayed = t.rank >= 2 || decay_vectors;
        add_item(m);
      }
      for (std::size_t i = tensor_first; i < items_.size(); ++i) {
        const bool own = scope == NormScope::batch_item;
        items_[i].scope_block = own ? items_[i].first_block : tensor_block;
        items_[i].scope_blocks = own ? items_[i].blocks : static_cast<index_t>(blocks_.size()) - tensor_block;
        items_[i].scope_elements = own ? t.rows * t.cols : t.size();
      }
      elements_ = std::max(elements_, list[p].offset + t.size());
    }
    item_memory_ = Buffer<typename B::Memory>(items_.size() * sizeof(UpdateItem));
    block_memory_ = Buffer<typename B::Memory>(blocks_.size() * sizeof(UpdateBlock));
    B::copy_from_host(ctx, item_memory_.template as<UpdateItem>(), items_.data(), item_count());
    B::copy_from_host(ctx, block_memory_.template as<UpdateBlock>(), blocks_.data(), block_count());
    B::synchronise(ctx);
  }

  const std::vector<UpdateItem>& items() const { return items_; }
  const UpdateItem* item_data() const { return item_memory_.template as<UpdateItem>(); }
  const UpdateBlock* block_data() const { return block_memory_.template as<UpdateBlock>(); }
  index_t item_count() const { return static_cast<index_t>(items_.size()); }
  index_t block_count() const { return static_cast<index_t>(blocks_.size()); }
  index_t rows() const { return rows_; }          // of all factored items
  index_t cols() const { return cols_; }          // of all factored items
  index_t full() const { return full_; }          // elements of the items that are not factored
  index_t partials() const { return partials_; }  // column sums of all blocks
  index_t elements() const { return elements_; }  // of the flat layout
  /// A hint for for_each_row.
  index_t work_per_block() const { return blocks_.empty() ? 1 : 1 + elements_ / block_count(); }

 private:
  static constexpr index_t block_elements = B::host_memory ? 32768 : 4096, least_rows = 32;

  void add_item(UpdateItem m) {
    const index_t unit = m.factored ? m.cols : 1, units = m.rows * m.cols / unit;
    // At least 32 rows a block, so that the column sums are a small part of the traffic.
    const index_t height = std::max(m.factored ? least_rows : index_t(1), (block_elements + unit - 1) / unit);
    m.row_state = m.factored ? rows_ : full_;
    m.col_state = cols_;
    m.first_block = block_count();
    for (index_t u = 0; u < units; u += height) {
      blocks_.push_back({m.offset + u * unit, std::min(height, units - u) * unit, partials_,
                         static_cast<std::int32_t>(items_.size())});
      if (m.factored) partials_ += m.cols;
    }
    m.blocks = block_count() - m.first_block;
    rows_ += m.factored ? m.rows : 0;
    cols_ += m.factored ? m.cols : 0;
    full_ += m.factored ? 0 : m.rows * m.cols;
    items_.push_back(m);
  }

  std::vector<UpdateItem> items_;
  std::vector<UpdateBlock> blocks_;
  Buffer<typename B::Memory> item_memory_, block_memory_;
  index_t rows_ = 0, cols_ = 0, full_ = 0, partials_ = 0, elements_ = 0;
};

namespace detail {
/// sqrt(x) for x >= 0 in a form that vectorises where the library's sets errno: bit estimate, three Newton steps for
/// the inverse, one correction. Within 1 ulp for normal numbers; subnormal ones come out too small.
SPARSEMOE_HD inline float vector_sqrt(float x) {
  if constexpr (SPARSEMOE_ON_DEVICE) {
    return std::sqrt(x);
  } else {
    float y = bits_as<float>(0x5f3759dfu - (bits_as<std::uint32_t>(x) >> 1));
    const float half = 0.5f * x;
    y = y * (1.5f - half * y * y);
    y = y * (1.5f - half * y * y);
    y = y * (1.5f - half * y * y);
    const float r = x * y;
    return r + 0.5f * y * (x - r * r);
  }
}
SPARSEMOE_HD inline double vector_sqrt(double x) { return std::sqrt(x); }

/// A zeroed buffer of n values.
template <class B, class T>
Buffer<typename B::Memory> zeroed(typename B::Context& ctx, index_t n) {
  Buffer<typename B::Memory> buffer(static_cast<std::size_t>(n) * sizeof(T));
  if (n > 0) B::zero(ctx, buffer.template as<T>(), n);
  return buffer;
}
/// Where the rounded copy goes: nowhere if it is the master itself.
template <class S, class M>
S* separate_weights(S* weights, M* master) {
  return static_cast<const void*>(weights) == static_cast<const void*>(master) ? nullptr : weights;
}
}  // namespace detail

}  // namespace sparsemoe::inline SPARSEMOE_ABI

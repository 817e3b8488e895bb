// SPDX-License-Identifier: Apache-2.0
// model/weights.hpp -- the flat buffers of a model: storage weights, master weights, gradients; one layout for all.
// Where storage and master are the same type there is one buffer. Names, offsets and extents come from visit().
// Read next: model/upcycle.hpp, io/weights.hpp.
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/params.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class P, class B>
class Weights {
 public:
  using S = typename P::storage;
  using A = typename P::accumulate;
  using M = typename P::master;
  static constexpr bool shared = std::is_same_v<S, M>;

  Weights() = default;
  /// Room for the leaves of `list`; gradients and masters only `for_training`.
  Weights(std::vector<ParamInfo> list, index_t total, bool for_training) : list_(std::move(list)), total_(total) {
    storage_ = Buffer<typename B::Memory>(static_cast<std::size_t>(total) * sizeof(S));
    if (for_training && !shared) master_ = Buffer<typename B::Memory>(static_cast<std::size_t>(total) * sizeof(M));
    if (for_training) gradient_ = Buffer<typename B::Memory>(static_cast<std::size_t>(total) * sizeof(A));
  }
  const std::vector<ParamInfo>& list() const { return list_; }
  index_t total() const { return total_; }
  /// Parameters without padding.
  index_t count() const {
    index_t n = 0;
    for (const auto& p : list_) n += p.shape.size();
    return n;
  }
  bool trains() const { return gradient_.data() != nullptr; }
  S* storage() const { return storage_.template as<S>(); }
  M* master() const {
    if constexpr (shared)
      return storage();
    else
      return master_.template as<M>();
  }
  A* gradient() const { return gradient_.template as<A>(); }

  /// The seeded start, written to master and storage.
  void initialise(typename B::Context& ctx, std::uint64_t seed) {
    std::vector<M> host(static_cast<std::size_t>(total_), M(0));
    sparsemoe::initialise(list_, host.data(), seed);
    set(ctx, host);
    if (trains()) B::zero(ctx, gradient(), total_);
  }
  /// Master values (this layout, host memory) into both buffers; for plain leaves.
  void set(typename B::Context& ctx, const std::vector<M>& host) {
    if (shared || master_.data() != nullptr) B::copy_from_host(ctx, master(), host.data(), total_);
    if constexpr (!shared) {
      std::vector<S> narrow(static_cast<std::size_t>(total_), S(0.0f));
      for (const auto& p : list_)
        if (p.shape.form == WeightForm::plain) store_leaf(p, host.data(), narrow.data());
      B::copy_from_host(ctx, storage(), narrow.data(), total_);
    }
  }
  /// Quantises the values of one leaf of int8 form (host memory).
  void set_int8(typename B::Context& ctx, const ParamInfo& p, const M* values) {
    const index_t one = p.shape.rows * p.shape.cols, scales = Int8Tensor::scale_offset(p.shape.size());
    std::vector<std::int8_t> host(
        static_cast<std::size_t>(Int8Tensor::bytes(p.shape.batch, p.shape.rows, p.shape.cols)), 0);
    std::vector<float> scale(static_cast<std::size_t>(p.shape.batch * p.shape.cols));
    for (index_t e = 0; e < p.shape.batch; ++e)
      quantise_columns(values + e * one, p.shape.rows, p.shape.cols, host.data() + e * one,
                       scale.data() + e * p.shape.cols);
    std::memcpy(host.data() + scales, scale.data(), scale.size() * sizeof(float));
    B::copy_from_host(ctx, reinterpret_cast<std::int8_t*>(storage() + p.offset), host.data(),
                      static_cast<index_t>(host.size()));
  }
  /// Master values of one leaf (host memory) into both buffers, in the form the leaf has.
  void set_leaf(typename B::Context& ctx, const ParamInfo& p, const M* values) {
    if (p.shape.form == WeightForm::int8) return set_int8(ctx, p, values);
    require(p.shape.form == WeightForm::plain, "weights: '", p.name, "' stays in its file");
    if (shared || master_.data() != nullptr) B::copy_from_host(ctx, master() + p.offset, values, p.shape.size());
    if constexpr (!shared) {
      ParamInfo alone = p;
      alone.offset = 0;
      std::vector<S> narrow(static_cast<std::size_t>(reserved(p.shape, p.init)), S(0.0f));
      store_leaf(alone, values, narrow.data());
      B::copy_from_host(ctx, storage() + p.offset, narrow.data(), static_cast<index_t>(narrow.size()));
    }
  }
  /// After an update, which rounds every master into its storage slot: the wide leaves (the routers' weights) again in
  /// the master's type.
  void restore_wide(typename B::Context& ctx) {
    if constexpr (!shared)
      for (const auto& p : list_)
        if (p.init.wide) B::copy(ctx, reinterpret_cast<M*>(storage() + p.offset), master() + p.offset, p.shape.size());
  }
  /// Master values to the host; without a master, the storage widened. Throws Error for leaves of another form.
  std::vector<M> get(typename B::Context& ctx) const {
    for (const auto& p : list_)
      require(p.shape.form == WeightForm::plain, "weights: '", p.name, "' is not held as plain values");
    std::vector<M> host(static_cast<std::size_t>(total_), M(0));
    if (shared || master_.data() != nullptr) {
      B::copy_to_host(ctx, host.data(), master(), total_);
      return host;
    }
    if constexpr (!shared) {
      std::vector<S> narrow(static_cast<std::size_t>(total_));
      B::copy_to_host(ctx, narrow.data(), storage(), total_);
      for (const auto& p : list_)
        for (index_t i = 0; i < p.shape.size(); ++i)
          host[static_cast<std::size_t>(p.offset + i)] = p.init.wide
                                                             ? reinterpret_cast<const M*>(narrow.data() + p.offset)[i]
                                                             : M(narrow[static_cast<std::size_t>(p.offset + i)]);
    }
    return host;
  }

 private:
  std::vector<ParamInfo> list_;
  index_t total_ = 0;
  Buffer<typename B::Memory> storage_, master_, gradient_;
};

/// Every leaf of a model in order, and how many elements they take together.
template <class Model>
std::vector<ParamInfo> list_weights(Model& model, index_t* total = nullptr) {
  std::vector<ParamInfo> list;
  index_t offset = 0;
  model.visit_weights([&](const std::string& name, auto& t, const Leaf& leaf = {}) {
    list.push_back(param_info(name, offset, t, leaf));
    offset += reserved(t, leaf.init);
  });
  if (total != nullptr) *total = offset;
  return list;
}

/// Room for all weights of a model whose leaves have shapes but no memory yet, and every leaf pointed into it. The
/// model has visit_weights(f) and visit_gradients(f). Throws Error for forms of weights that it cannot compute with.
template <class P, class B, class Model>
Weights<P, B> bind_weights(Model& model, bool for_training) {
  using S = typename P::storage;
  index_t total = 0;
  std::vector<ParamInfo> list = list_weights(model, &total);
  for (const auto& p : list)
    require(p.shape.form == WeightForm::plain ||
                (!for_training && has_forms<S> && (B::host_memory || p.shape.form == WeightForm::int8)),
            "model: '", p.name, "' is to be int8 or stay in its file; that is for 16- and 32-bit models that only ",
            "infer, and a file's bytes can be multiplied only by a CPU");
  Weights<P, B> weights(std::move(list), total, for_training);
  index_t at = 0;
  model.visit_weights([&](const std::string&, auto& t, const Leaf& leaf = {}) {
    t.data = weights.storage() + at;
    at += reserved(t, leaf.init);
  });
  at = 0;
  if (for_training)
    model.visit_gradients([&](const std::string&, auto& t, const Leaf& leaf = {}) {
      t.data = weights.gradient() + at;
      at += reserved(t, leaf.init);
    });
  return weights;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

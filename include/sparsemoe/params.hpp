// SPDX-License-Identifier: Apache-2.0
// params.hpp -- a layer's parameters seen as a list: count, place in one buffer, initialise, name, convert.
// Every layer has a Params<T> with visit(prefix, f) calling f(name, Tensor<T>&, Leaf) at the leaves, which
// says what each is; it is the only reflection and serves weights, gradients, masters and optimiser moments. Read next:
// nn/linear.hpp for a first layer.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/random.hpp"
#include "sparsemoe/view.hpp"
#include "sparsemoe/weight_form.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// How a parameter starts.
struct Init {
  enum class Kind { zero, one, normal, truncated_normal } kind = Kind::zero;
  double scale = 0;   // standard deviation
  bool wide = false;  // stored in the router's precision, not in the storage precision (see reserved())
  static Init zero() { return {}; }
  static Init one() { return {Kind::one, 0}; }
  static Init normal(double deviation) { return {Kind::normal, deviation}; }
  /// The same start, for a parameter that selective precision keeps in fp32: gate weights and task tables.
  Init in_router_precision() const { return {kind, scale, true}; }
  /// Truncated at 2 sigma, deviation after truncation sqrt(s / fan_in) (Switch Transformer, section 2.4).
  static Init fan_in(double s, index_t fan) {
    return {Kind::truncated_normal, std::sqrt(s / static_cast<double>(fan > 0 ? fan : 1))};
  }
};

/// What a parameter is. Forms in 8 bits, optimisers, extraction, upcycling and counts ask this, never its name.
enum class Role : std::uint8_t {
  dense,        // every token meets it
  gate,         // decides where tokens go: gate weights, task tables, noise, thresholds
  expert,       // a matrix for each expert
  expert_bias,  // a vector for each expert
  embedding,    // a row for each token of the vocabulary
  norm          // gain and shift of a normalisation
};
/// The stack of a model that a parameter is in. A language model is a decoder.
enum class InStack : std::uint8_t { none, encoder, decoder };

/// What visit() says of a leaf beside its name and extents: f(name, tensor, Leaf{init, role}). An Init alone is that of
/// a dense leaf.
struct Leaf {
  Init init;
  Role role;
  InStack stack = InStack::none;
  index_t layer = -1;  // of its stack; -1: of none
  Leaf(const Init& init_ = Init::zero(), Role role_ = Role::dense) : init(init_), role(role_) {}
};

/// Says of every leaf that `f` is given in which stack and layer it is: what a stack's visit() hands to its layers.
template <class F>
auto visit_within(F& f, InStack stack, index_t layer = -1) {
  return [&f, stack, layer](const std::string& name, auto& tensor, Leaf leaf = {}) {
    leaf.stack = stack;
    leaf.layer = layer;
    f(name, tensor, leaf);
  };
}

/// One leaf: its place in the flat buffer, extents, start, and what it is.
struct ParamInfo {
  std::string name;
  index_t offset = 0;  // in elements
  Tensor<float> shape;
  Init init;
  Role role = Role::dense;
  InStack stack = InStack::none;
  index_t layer = -1;

  bool of_experts() const { return role == Role::expert || role == Role::expert_bias; }
};

/// Elements between the starts of two parameters are rounded up to this, so that each is aligned in any type.
inline constexpr index_t param_alignment = 64;

/// Elements a leaf takes in a flat buffer of any type: twice its size if wide, so that a 16-bit buffer has room for it
/// in float. In another form than plain, which only weights have that are not trained: what its bytes take in a buffer
/// of T, which is nothing for a leaf that stays in its file.
template <class T>
index_t reserved(const Tensor<T>& t, const Init& init) {
  const auto size = static_cast<index_t>(sizeof(T));
  const index_t n = t.form == WeightForm::plain  ? t.size() * (init.wide ? 2 : 1)
                    : t.form == WeightForm::int8 ? (Int8Tensor::bytes(t.batch, t.rows, t.cols) + size - 1) / size
                                                 : 0;
  return (n + param_alignment - 1) / param_alignment * param_alignment;
}

/// A wide leaf of a storage buffer, read in the router's type R.
template <class R, class S>
const R* wide_data(const S* p) {
  return reinterpret_cast<const R*>(p);
}

/// A leaf `tensor` of visit() at `offset`.
template <class T>
ParamInfo param_info(const std::string& name, index_t offset, const Tensor<T>& tensor, const Leaf& leaf) {
  const Tensor<float> shape{nullptr, tensor.batch, tensor.rows, tensor.cols, tensor.rank, tensor.form};
  return {name, offset, shape, leaf.init, leaf.role, leaf.stack, leaf.layer};
}

/// Extents and order of every leaf of `params` (a Params<T> with its shapes set).
template <class Params>
std::vector<ParamInfo> list_params(Params& params, index_t* total = nullptr) {
  std::vector<ParamInfo> list;
  index_t offset = 0;
  params.visit(std::string(), [&](const std::string& name, auto& t, const Leaf& leaf = {}) {
    list.push_back(param_info(name, offset, t, leaf));
    offset += reserved(t, leaf.init);
  });
  if (total != nullptr) *total = offset;
  return list;
}

/// Points every leaf into `base`, in visit order. The same offsets, in elements, for every element type.
template <class Params, class T>
void bind_params(Params& params, T* base) {
  index_t offset = 0;
  params.visit(std::string(), [&](const std::string&, auto& t, const Leaf& leaf = {}) {
    t.data = base + offset;
    offset += reserved(t, leaf.init);
  });
}

/// The starting value of element i of leaf number `leaf`: a function of the seed and the position alone.
inline double initial_value(const Init& init, const Random& random, std::uint32_t leaf, index_t i) {
  const Random r{random.seed, 0, leaf};
  switch (init.kind) {
    case Init::Kind::one: return 1;
    case Init::Kind::normal: return init.scale * r.normal(Purpose::init, static_cast<std::uint64_t>(i));
    case Init::Kind::truncated_normal:
      return init.scale * r.truncated_normal(Purpose::init, static_cast<std::uint64_t>(i));
    default: return 0;
  }
}

/// Converts one leaf from the master buffer to the storage buffer (host memory).
template <class Master, class S>
void store_leaf(const ParamInfo& p, const Master* master, S* weights) {
  if (p.init.wide) {
    auto* to = reinterpret_cast<Master*>(weights + p.offset);
    for (index_t i = 0; i < p.shape.size(); ++i) to[i] = master[p.offset + i];
  } else {
    for (index_t i = 0; i < p.shape.size(); ++i) weights[p.offset + i] = S(master[p.offset + i]);
  }
}

/// Fills host memory `base` (list's layout) with the starting values of every plain leaf.
template <class T>
void initialise(const std::vector<ParamInfo>& list, T* base, std::uint64_t seed) {
  for (std::size_t leaf = 0; leaf < list.size(); ++leaf) {
    const ParamInfo& p = list[leaf];
    if (p.shape.form != WeightForm::plain) continue;
    for (index_t i = 0; i < p.shape.size(); ++i)
      base[p.offset + i] = T(initial_value(p.init, Random{seed}, static_cast<std::uint32_t>(leaf), i));
  }
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// hf/checkpoint.hpp -- weights into a model from a Hugging Face directory by the family's table of names. Every name,
// shape and type is checked before a weight changes. Read next: hf/export.hpp for the way out, hf/t5.hpp.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "sparsemoe/hf/config.hpp"
#include "sparsemoe/hf/export.hpp"
#include "sparsemoe/hf/name_map.hpp"
#include "sparsemoe/hf/special_tokens.hpp"
#include "sparsemoe/hf/tensors.hpp"
#include "sparsemoe/io/weights.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

namespace parts {

inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i != 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}
/// Where the values of one of our items are in the files.
struct Place {
  Tensors::Located tensor;
  std::vector<std::int64_t> shape;  // that the tensor must have
  std::uint64_t first = 0;          // element of the tensor
};
inline Place place_of(const NameMap& map, const Tensors& tensors, const ParamInfo& leaf, const MappedTensor& m) {
  if (const Tensors::Located t = tensors.find(m.name); t.info != nullptr) return {t, m.shape()};
  for (const auto& [alias, original] : map.aliases)  // files may keep a tied tensor under any of its names
    if (original == m.name)
      if (const Tensors::Located t = tensors.find(alias); t.info != nullptr) return {t, m.shape()};
  for (const OtherPlace& other : map.others) {
    std::string layer;
    if (!matches(other.ours, leaf.name, layer)) continue;
    const std::string name = replaced(replaced(other.theirs, "{l}", layer), "{e}", std::to_string(m.item));
    const Tensors::Located t = tensors.find(name);
    if (t.info == nullptr) continue;
    if (other.parts == 0) return {t, m.shape()};
    const std::vector<std::int64_t> one = m.shape();
    return {t,
            {leaf.shape.batch, other.parts * one[0], one[1]},
            static_cast<std::uint64_t>((m.item * other.parts + other.part) * m.rows * m.cols)};
  }
  return {};
}
/// A tensor that the table does not name: a repetition with the same bytes, or one that nothing reads.
inline void check_extra(const NameMap& map, const Tensors& tensors, const Tensors::Located& t) {
  const std::string& name = t.info->name;
  if (unused_name(map, name)) return;
  for (const auto& [alias, original] : map.aliases) {
    if (alias != name) continue;
    const Tensors::Located first = tensors.find(original);
    if (first.info != nullptr && same_tensor(first, t)) return;
    fail_file(t.shard->path(), "tensor '", name, "' must be the same as '", original,
              "': config.json says that they are tied");
  }
  fail_file(t.shard->path(), "tensor '", name, "' has no place in a ", map.family,
            " model of this config.json; is it one of another configuration?");
}

}  // namespace parts

/// Reads every weight. F64, F32, F16 and BF16 become the model's precision. Throws FileError naming the tensor that is
/// missing, of another shape or type, or has no place in the model; then the weights are as they were. Also for one
/// with a value that is not finite; those read before it have changed by then.
template <class P, class B>
void load(typename B::Context& ctx, Weights<P, B>& weights, const NameMap& map, const Tensors& tensors) {
  using M = typename P::master;
  const std::vector<MappedTensor> mapped = map_names(map, weights.list());
  std::set<std::string> known;
  for (const MappedTensor& m : mapped) {
    const auto [t, shape, first] = parts::place_of(map, tensors, weights.list()[m.leaf], m);
    if (t.info == nullptr)
      fail_file(tensors.directory(), "tensor '", m.name, "' is missing; is this ", map.family,
                " model one of another configuration?");
    if (t.info->shape != shape)
      fail_file(t.shard->path(), "tensor '", t.info->name, "' has shape ", parts::shape_text(t.info->shape),
                ", expected ", parts::shape_text(shape));
    check_float(*t.shard, *t.info);
    known.insert(t.info->name);
  }
  for (const Tensors::Located& t : tensors.all())
    if (known.count(t.info->name) == 0) parts::check_extra(map, tensors, t);

  std::vector<M> theirs, leaf;
  for (std::size_t i = 0; i < mapped.size();) {
    const ParamInfo& p = weights.list()[mapped[i].leaf];
    leaf.assign(static_cast<std::size_t>(p.shape.size()), M(0));
    for (const std::size_t first = mapped[i].leaf; i < mapped.size() && mapped[i].leaf == first; ++i) {
      const MappedTensor& m = mapped[i];
      const parts::Place from = parts::place_of(map, tensors, p, m);
      const index_t size = m.rows * m.cols;
      theirs.resize(static_cast<std::size_t>(size));
      read_values(*from.tensor.shard, *from.tensor.info, from.first, static_cast<std::uint64_t>(size), theirs.data());
      for (index_t k = 0; k < size; ++k)
        leaf[static_cast<std::size_t>(m.item * size + m.place(k))] = theirs[static_cast<std::size_t>(k)];
    }
    weights.set_leaf(ctx, p, leaf.data());
  }
}

/// Whether a directory holds its weights under our names only; where both are, transformers' files count.
inline bool has_own_layout(const std::filesystem::path& directory) {
  std::error_code ignored;
  const auto there = [&](const char* name) { return std::filesystem::exists(directory / name, ignored); };
  return there(kOwnWeights) && !there("model.safetensors") && !there("model.safetensors.index.json");
}

/// Reads every weight from a directory of either layout; returns a sentence on its files that a user should know, or
/// "". Throws FileError as load() and load_weights() do.
template <class P, class B>
std::string load_directory(typename B::Context& ctx, Weights<P, B>& weights, const NameMap& map,
                           const std::filesystem::path& directory) {
  if (has_own_layout(directory)) {
    load_weights<P, B>(ctx, weights, directory / kOwnWeights);
    return {};
  }
  const Tensors tensors(directory);
  load(ctx, weights, map, tensors);
  return tensors.warning();
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

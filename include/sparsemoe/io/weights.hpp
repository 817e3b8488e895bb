// SPDX-License-Identifier: Apache-2.0
// io/weights.hpp -- a model's parameters to and from safetensors, by their names; optimiser moments likewise.
// Parameters are written in the master precision, so that training goes on bit for bit. Loading checks every name and
// extent before a weight changes. Read next: io/safetensors.hpp, io/manifest.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/model/upcycle.hpp"
#include "sparsemoe/model/weights.hpp"
#include "sparsemoe/precision.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::kF64;
  if constexpr (std::is_same_v<T, float>) return DType::kF32;
  if constexpr (std::is_same_v<T, bf16>) return DType::kBF16;
  if constexpr (std::is_same_v<T, fp16>) return DType::kF16;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::kI32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::kI64;
}

/// The shape of a parameter as files have it: as many extents as its rank.
inline std::vector<std::int64_t> file_shape(const Tensor<float>& t) {
  if (t.rank == 1) return {t.cols};
  if (t.rank == 2) return {t.rows, t.cols};
  return {t.batch, t.rows, t.cols};
}

/// Integer tables that belong to a model (hash routing), by name.
using Tables = std::map<std::string, std::vector<std::int32_t>>;

/// Writes every parameter and table to `path`, atomically. Throws FileError.
template <class P, class B>
void save_weights(typename B::Context& ctx, const Weights<P, B>& weights, const Tables& tables,
                  const std::filesystem::path& path, const Metadata& metadata = {}) {
  using M = typename P::master;
  const std::vector<M> host = weights.get(ctx);
  std::vector<TensorView> views;
  for (const auto& p : weights.list())
    views.push_back({p.name, dtype_of<M>(), file_shape(p.shape), host.data() + p.offset});
  for (const auto& [name, table] : tables)
    views.push_back({name, DType::kI32, {static_cast<std::int64_t>(table.size())}, table.data()});
  write_safetensors(path, views, metadata);
}

/// Throws FileError unless the tensor holds F64, F32, F16 or BF16.
inline void check_float(const SafetensorsReader& file, const TensorInfo& info) {
  for (const DType d : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16})
    if (info.dtype == d) return;
  fail_file(file.path(), "tensor ", detail::shown(info.name), " is ", dtype_name(info.dtype),
            ", expected F64, F32, F16 or BF16");
}
/// The `count` values of a tensor that check_float() takes from its element `first` on, as M. Throws FileError naming
/// the tensor if one is not finite in M: a model would compute nothing from it, in silence.
template <class M>
void read_values(const SafetensorsReader& file, const TensorInfo& info, std::uint64_t first, std::uint64_t count,
                 M* to) {
  const auto widen = [&]<class T>(T) {
    if constexpr (std::is_same_v<T, M>) {
      file.read(info, first * sizeof(T), count * sizeof(T), to);
    } else {
      std::vector<T> raw(static_cast<std::size_t>(count));
      file.read(info, first * sizeof(T), count * sizeof(T), raw.data());
      for (std::size_t i = 0; i < raw.size(); ++i) to[i] = M(raw[i]);
    }
    for (std::uint64_t i = 0; i < count; ++i)
      if (!std::isfinite(static_cast<double>(to[i])))
        fail_file(file.path(), "tensor ", detail::shown(info.name), " has a value that is not finite, its element ",
                  first + i, ": ", static_cast<double>(to[i]), "; did the training diverge?");
  };
  if (info.dtype == DType::kF64) return widen(double{});
  if (info.dtype == DType::kF32) return widen(float{});
  if (info.dtype == DType::kF16) return widen(fp16{});
  widen(bf16{});
}
/// All values of the tensor.
template <class M>
void read_values(const SafetensorsReader& file, const TensorInfo& info, M* to) {
  read_values(file, info, 0, info.elements(), to);
}

namespace detail {

/// One parameter in the master's type M. Throws FileError for another shape, or values that are no floats.
template <class M>
void read_parameter(const SafetensorsReader& file, const ParamInfo& p, M* to) {
  const TensorInfo& info = file.at(p.name);
  file.check(p.name, info.dtype, file_shape(p.shape));
  check_float(file, info);
  read_values(file, info, to);
}
/// The same of a tensor that stays in its file: throws FileError if a value is not finite.
inline void check_finite(const SafetensorsReader& file, const TensorInfo& info) {
  constexpr std::uint64_t piece = 1 << 16;
  std::vector<float> values(piece);
  for (std::uint64_t at = 0; at < info.elements(); at += piece)
    read_values(file, info, at, std::min(piece, info.elements() - at), values.data());
}

}  // namespace detail

/// Reads every parameter of `weights` from the file; one of int8 form is quantised, one that stays in its file is only
/// checked (MappedWeights points to it). Throws FileError naming the tensor that is missing, extra or of another shape
/// or type; the weights are then as they were.
template <class P, class B>
Tables load_weights(typename B::Context& ctx, Weights<P, B>& weights, const std::filesystem::path& path) {
  using M = typename P::master;
  const SafetensorsReader file(path);
  std::vector<M> host(static_cast<std::size_t>(weights.total()), M(0));
  std::map<std::string, bool> known;
  for (const auto& p : weights.list()) {
    known[p.name] = true;
    const TensorInfo* info = file.find(p.name);
    if (info == nullptr) fail_file(path, "tensor '", p.name, "' is missing; is this a model of another configuration?");
    if (p.shape.form == WeightForm::plain)
      detail::read_parameter(file, p, host.data() + p.offset);
    else
      file.check(p.name, info->dtype == DType::kBF16 ? DType::kBF16 : DType::kF32, file_shape(p.shape));
    if (p.shape.form == WeightForm::file || p.shape.form == WeightForm::file_float) detail::check_finite(file, *info);
  }
  Tables tables;
  for (const auto& info : file.tensors()) {
    if (known.count(info.name) != 0) continue;
    if (info.dtype != DType::kI32 || info.shape.size() != 1)
      fail_file(path, "tensor '", info.name, "' is not a parameter of this model; is it one of another configuration?");
    auto& table = tables[info.name];
    table.resize(static_cast<std::size_t>(info.shape[0]));
    file.read(info.name, DType::kI32, info.shape, table.data());
  }
  weights.set(ctx, host);
  host = {};
  for (const auto& p : weights.list())
    if (p.shape.form == WeightForm::int8) {
      std::vector<M> leaf(static_cast<std::size_t>(p.shape.size()));
      detail::read_parameter(file, p, leaf.data());
      weights.set_int8(ctx, p, leaf.data());
    }
  return tables;
}

/// Reads those parameters of `weights` that the file has too, and leaves the others as they are: a student begins with
/// what it shares with its teacher. Returns how many numbers were read. Throws FileError for a parameter of the same
/// name and another shape; the weights are then as they were.
template <class P, class B>
index_t load_shared_weights(typename B::Context& ctx, Weights<P, B>& weights, const std::filesystem::path& path) {
  const SafetensorsReader file(path);
  auto host = weights.get(ctx);
  index_t count = 0;
  for (const auto& p : weights.list()) {
    if (file.find(p.name) == nullptr) continue;
    detail::read_parameter(file, p, host.data() + p.offset);
    count += p.shape.size();
  }
  weights.set(ctx, host);
  return count;
}

/// Fills freshly initialised `weights` from the file of a dense model of the same sizes (upcycle()). Throws Error for a
/// parameter without a source, of another shape, or left over; the weights are then as they were.
template <class P, class B>
void load_upcycled(typename B::Context& ctx, Weights<P, B>& weights, const std::filesystem::path& path) {
  using M = typename P::master;
  const SafetensorsReader file(path);
  std::vector<ParamInfo> list;
  std::vector<M> dense;
  for (const TensorInfo& info : file.tensors()) {
    check_float(file, info);
    const auto& n = info.shape;
    if (n.empty() || n.size() > 3)
      fail_file(path, "tensor '", info.name, "' has ", n.size(), " extents, expected 1 to 3");
    ParamInfo p;
    p.name = info.name, p.offset = static_cast<index_t>(dense.size());
    p.shape.rank = static_cast<int>(n.size());
    p.shape.batch = n.size() > 2 ? n[0] : 1, p.shape.rows = n.size() > 1 ? n[n.size() - 2] : 1, p.shape.cols = n.back();
    dense.resize(dense.size() + static_cast<std::size_t>(info.elements()));
    read_values(file, info, dense.data() + p.offset);
    list.push_back(std::move(p));
  }
  std::vector<M> host = weights.get(ctx);
  upcycle(list, dense, weights.list(), host);
  weights.set(ctx, host);
}

/// Optimiser moments, flat, under their names.
template <class Optimiser, class Context>
void save_moments(Context& ctx, Optimiser& optimiser, const std::filesystem::path& path) {
  using B = typename Optimiser::Backend;
  using M = typename Optimiser::Precision::master;
  std::vector<std::vector<M>> host;
  std::vector<TensorView> views;
  optimiser.visit_state([&](const char* name, M* data, index_t count) {
    auto& copy = host.emplace_back(static_cast<std::size_t>(count));
    B::copy_to_host(ctx, copy.data(), data, count);
    views.push_back({name, dtype_of<M>(), {count}, copy.data()});
  });
  write_safetensors(path, views);
}
template <class Optimiser, class Context>
void load_moments(Context& ctx, Optimiser& optimiser, const std::filesystem::path& path) {
  using B = typename Optimiser::Backend;
  using M = typename Optimiser::Precision::master;
  const SafetensorsReader file(path);
  optimiser.visit_state([&](const char* name, M* data, index_t count) {
    std::vector<M> copy(static_cast<std::size_t>(count));
    file.read(name, dtype_of<M>(), {count}, copy.data());
    B::copy_from_host(ctx, data, copy.data(), count);
  });
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

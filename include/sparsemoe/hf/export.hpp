// SPDX-License-Identifier: Apache-2.0
// hf/export.hpp -- a model's weights as a Hugging Face directory. What would not fit into its type is named before
// anything is written, and a directory appears whole or not at all. Read next: hf/checkpoint.hpp for the way in.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sparsemoe/hf/config.hpp"
#include "sparsemoe/hf/name_map.hpp"
#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/model/weights.hpp"
#include "sparsemoe/precision.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// How a directory is written.
struct Export {
  DType dtype = DType::kF32;                                 // F32, F16 or BF16
  std::uint64_t shard_bytes = std::uint64_t{5'000'000'000};  // most bytes of tensors in a file, if a tensor fits
  std::map<std::string, DType> dtypes = {};                  // of tensors, by their names there, that have another one
  std::string config_dtype = {};                             // what config.json is to say; empty: what `dtype` is
  /// Called with the directory before it gets its name: for files that come along.
  std::function<void(const std::filesystem::path&)> add_files = {};

  DType of(const std::string& tensor) const {
    const auto at = dtypes.find(tensor);
    return at == dtypes.end() ? dtype : at->second;
  }
};

namespace parts {

/// transformers' names of types: "float32", "float16", "bfloat16".
inline const char* torch_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

/// The bits of a number in a type of 16, as they are written.
inline std::uint16_t bits16(float value, DType dtype) {
  return dtype == DType::kF16 ? fp16(value).bits : bf16(value).bits;
}
/// Whether a finite number stays finite.
inline bool fits(float value, DType dtype) {
  if (dtype == DType::kF32) return std::isfinite(value);
  return std::isfinite(dtype == DType::kF16 ? static_cast<float>(fp16(value)) : static_cast<float>(bf16(value)));
}

/// Throws Error naming the tensor if a value is not finite, or is not in its type: then with the largest value.
template <class M>
void check_values(const M* values, index_t count, const std::string& tensor, DType dtype) {
  double largest = 0;
  bool fit = true;
  for (index_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(values[i]);
    require(std::isfinite(value), "tensor '", tensor, "' holds ", value,
            ": a weight must be finite; nothing is written");
    fit = fit && fits(value, dtype);
    if (std::abs(value) > std::abs(largest)) largest = value;
  }
  require(fit, "tensor '", tensor, "' does not fit into ", dtype_name(dtype), ": its largest value is ", largest,
          ", and ", dtype_name(dtype), " ends at ", dtype == DType::kF16 ? "65504" : "3.39e38", "; nothing is written");
}

/// config.json with its one key of the type: "dtype" where the input has that (transformers 5), else "torch_dtype".
inline Json config_with_dtype(Json json, const std::string& name) {
  const bool present = json.contains("dtype") && !json["dtype"].is_null();
  if (present) json.erase("torch_dtype");
  json[present ? "dtype" : "torch_dtype"] = name;
  return json;
}

}  // namespace parts

/// Writes `directory`: `config` as config.json with its type set, and the weights under the family's names, in one file
/// or in shards with an index. Throws FileError if the directory exists already or cannot be written, Error naming a
/// tensor that is not finite or does not fit into its type.
template <class P, class B>
void save(typename B::Context& ctx, const Weights<P, B>& weights, const NameMap& map, const Config& config,
          const std::filesystem::path& directory, const Export& how = {}) {
  using M = typename P::master;
  const std::vector<MappedTensor> mapped = map_names(map, weights.list());
  const std::vector<M> host = weights.get(ctx);
  const auto values = [&](const MappedTensor& m) {
    return host.data() + weights.list()[m.leaf].offset + m.item * m.rows * m.cols;
  };
  std::vector<std::vector<std::size_t>> files(1);
  std::uint64_t in_file = 0, total = 0;
  for (std::size_t i = 0; i < mapped.size(); ++i) {
    const DType dtype = how.of(mapped[i].name);
    require(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16,
            "hf: weights are written as F32, F16 or BF16, not as ", dtype_name(dtype));
    parts::check_values(values(mapped[i]), mapped[i].rows * mapped[i].cols, mapped[i].name, dtype);
    const std::uint64_t bytes = dtype_bytes(dtype) * static_cast<std::uint64_t>(mapped[i].rows * mapped[i].cols);
    if (in_file > 0 && in_file + bytes > how.shard_bytes) files.emplace_back(), in_file = 0;
    files.back().push_back(i);
    in_file += bytes, total += bytes;
  }
  AtomicDirectory target(directory);
  Json names = Json::object();
  for (std::size_t f = 0; f < files.size(); ++f) {
    char name[64] = "model.safetensors";
    if (files.size() > 1) std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", f + 1, files.size());
    std::vector<std::vector<std::byte>> data;
    std::vector<TensorView> views;
    for (const std::size_t i : files[f]) {
      const MappedTensor& m = mapped[i];
      const DType dtype = how.of(m.name);
      const auto one = static_cast<std::size_t>(dtype_bytes(dtype));
      const index_t size = m.rows * m.cols;
      const M* from = values(m);
      auto& raw = data.emplace_back(static_cast<std::size_t>(size) * one);
      for (index_t k = 0; k < size; ++k) {
        const auto v = static_cast<float>(from[m.place(k)]);
        std::byte* to = raw.data() + static_cast<std::size_t>(k) * one;
        if (dtype == DType::kF32)
          std::memcpy(to, &v, sizeof v);
        else
          *reinterpret_cast<std::uint16_t*>(to) = parts::bits16(v, dtype);
      }
      views.push_back({m.name, dtype, m.shape(), raw.data()});
      names[m.name] = name;
    }
    write_safetensors(target.path() / name, views, {{"format", "pt"}});
  }
  if (files.size() > 1)
    write_json(target.path() / "model.safetensors.index.json",
               {{"metadata", {{"total_size", total}}}, {"weight_map", names}});
  const std::string type = how.config_dtype.empty() ? parts::torch_name(how.dtype) : how.config_dtype;
  write_json(target.path() / "config.json", parts::config_with_dtype(config.json(), type));
  if (how.add_files) how.add_files(target.path());
  target.commit();
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

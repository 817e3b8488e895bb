// SPDX-License-Identifier: Apache-2.0
// hf/tensors.hpp -- the weights of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json names, as one set. Read next: hf/config.hpp for the file beside them, hf/name_map.hpp.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sparsemoe/io/sharded.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// A converted checkpoint's weights, beside its config.json, under the names of this library.
inline constexpr const char* kOwnWeights = "sparsemoe.safetensors";

/// Which names a directory's weights may have.
enum class Names { theirs, either };

class Tensors {
 public:
  using Located = ShardedReader::Located;

  /// Opens and checks every file that transformers would take: model.safetensors before an index; without either, and
  /// if asked to, kOwnWeights. Throws FileError; a directory with other formats only is told so.
  explicit Tensors(const std::filesystem::path& directory, Names names = Names::theirs) : directory_(directory) {
    const std::filesystem::path single = directory / "model.safetensors",
                                index = directory / "model.safetensors.index.json", own = directory / kOwnWeights;
    std::error_code ignored;
    const bool sharded = std::filesystem::exists(index, ignored);
    if (std::filesystem::exists(single, ignored)) {
      if (sharded) warning_ = single.string() + " is read, not the shards of model.safetensors.index.json beside it";
      file_.emplace(single);
    } else if (sharded) {
      shards_.emplace(index, Access::pread, Agreement::foreign);
    } else if (names == Names::either && std::filesystem::exists(own, ignored)) {
      file_.emplace(own);
    } else {
      const bool pickled = std::filesystem::exists(directory / "pytorch_model.bin", ignored) ||
                           std::filesystem::exists(directory / "pytorch_model.bin.index.json", ignored);
      fail_file(directory, "has neither model.safetensors nor model.safetensors.index.json",
                pickled ? "; pytorch_model.bin is not read, save the model with safe_serialization=True" : "");
    }
  }

  /// The tensor of that name; its members are null if there is none.
  Located find(const std::string& name) const {
    if (shards_) return shards_->find(name);
    const TensorInfo* info = file_->find(name);
    return info != nullptr ? Located{&*file_, info} : Located{};
  }
  std::vector<Located> all() const {
    if (shards_) return shards_->tensors();
    std::vector<Located> list;
    for (const TensorInfo& info : file_->tensors()) list.push_back({&*file_, &info});
    return list;
  }
  /// Numbers of two bytes or more in all tensors together.
  double elements() const {
    double sum = 0;
    for (const Located& t : all())
      if (dtype_bytes(t.info->dtype) > 1) sum += static_cast<double>(t.info->elements());
    return sum;
  }
  const std::filesystem::path& directory() const { return directory_; }
  /// A sentence on what a user should know of the files, or "".
  const std::string& warning() const { return warning_; }

 private:
  std::filesystem::path directory_;
  std::string warning_;
  std::optional<SafetensorsReader> file_;
  std::optional<ShardedReader> shards_;
};

/// True if both hold the same bytes of the same type and shape. Reads piece by piece.
inline bool same_tensor(const Tensors::Located& a, const Tensors::Located& b) {
  if (a.info->dtype != b.info->dtype || a.info->shape != b.info->shape) return false;
  constexpr std::uint64_t piece = std::uint64_t{1} << 20;
  std::vector<std::byte> left, right;
  for (std::uint64_t at = 0; at < a.info->bytes(); at += piece) {
    const std::uint64_t bytes = std::min(piece, a.info->bytes() - at);
    left.resize(static_cast<std::size_t>(bytes)), right.resize(left.size());
    a.shard->read(*a.info, at, bytes, left.data());
    b.shard->read(*b.info, at, bytes, right.data());
    if (left != right) return false;
  }
  return true;
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

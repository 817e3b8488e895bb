// hf/tensors.hpp -- the weights of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json names, as one set. Read next: hf/name_map.hpp.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sparsemoe/io/sharded.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

class Tensors {
 public:
  using Located = ShardedReader::Located;

  /// Opens and checks every file. Throws FileError; a directory with other formats only is told so.
  explicit Tensors(const std::filesystem::path& directory) : directory_(directory) {
    const std::filesystem::path single = directory / "model.safetensors",
                                index = directory / "model.safetensors.index.json";
    std::error_code ignored;
    if (std::filesystem::exists(index, ignored)) {
      shards_.emplace(index);
    } else if (std::filesystem::exists(single, ignored)) {
      file_.emplace(single);
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
  const std::filesystem::path& directory() const { return directory_; }

 private:
  std::filesystem::path directory_;
  std::optional<SafetensorsReader> file_;
  std::optional<ShardedReader> shards_;
};

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// safetensors.hpp -- reads and writes tensors in the safetensors format, the container of weights and training state.
// Main idea: the reader believes nothing before the whole header is checked, then copies one tensor at a time into the
// caller's buffer; the writer streams from the caller's memory into an atomic file. Read next: safetensors_header.hpp;
// sharded.hpp for several files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/io/file.hpp"
#include "sparsemoe/io/safetensors_header.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A dense, row-major tensor in host memory that is to be written. `data` may be null if it has no elements.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
};

/// pread copies on demand; map makes SafetensorsReader::data() available (see MappedFile for its danger).
enum class Access { pread, map };

/// An open, fully checked safetensors file.
class SafetensorsReader {
 public:
  /// Throws FileError for anything that is not exactly the format. Takes at most the file's size + `spare` bytes of
  /// memory, and keeps less than that.
  explicit SafetensorsReader(const std::filesystem::path& path, Access access = Access::pread,
                             std::uint64_t spare = kSpareMemory)
      : file_(File::open_read(path)) {
    const std::uint64_t file_bytes = file_.size();
    char length[8] = {};
    file_.read_at(0, length, std::min<std::uint64_t>(8, file_bytes));
    const std::uint64_t header_bytes = safetensors_header_bytes({length, 8}, file_bytes, path, spare);
    std::string text(static_cast<std::size_t>(header_bytes), '\0');
    file_.read_at(8, text.data(), header_bytes);
    data_offset_ = 8 + header_bytes;
    data_bytes_ = file_bytes - data_offset_;
    header_ = parse_safetensors_header(text, data_bytes_, path);
    if (access == Access::map) {
      map_.emplace(file_);
      if (map_->size() != file_bytes) fail_file(path, "changed its size while being opened");
    }
  }

  /// All tensors, sorted by name.
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const Metadata& metadata() const { return header_.metadata; }
  const std::filesystem::path& path() const { return file_.path(); }
  std::uint64_t file_bytes() const { return data_offset_ + data_bytes_; }
  /// Byte in the file at which the data section starts.
  std::uint64_t data_offset() const { return data_offset_; }

  /// The tensor of that name, or null.
  const TensorInfo* find(std::string_view name) const {
    const auto at = std::lower_bound(tensors().begin(), tensors().end(), name,
                                     [](const TensorInfo& t, std::string_view n) { return t.name < n; });
    return at != tensors().end() && at->name == name ? &*at : nullptr;
  }
  /// The tensor of that name; throws FileError if there is none.
  const TensorInfo& at(std::string_view name) const {
    const TensorInfo* info = find(name);
    if (info == nullptr) fail_file(path(), "has no tensor ", detail::shown(name));
    return *info;
  }

  /// Copies info.bytes() bytes, little-endian elements in row-major order, to `target` in host memory.
  void read(const TensorInfo& info, void* target) const {
    file_.read_at(data_offset_ + info.offset_begin, target, info.bytes());
  }
  /// The bytes [first, first + bytes) of the tensor.
  void read(const TensorInfo& info, std::uint64_t first, std::uint64_t bytes, void* target) const {
    if (first > info.bytes() || bytes > info.bytes() - first)
      fail_file(path(), "tensor ", detail::shown(info.name), " has ", info.bytes(), " bytes, not ", bytes, " at ",
                first);
    file_.read_at(data_offset_ + info.offset_begin + first, target, bytes);
  }
  /// The tensor of that name; throws unless it has this dtype and shape.
  const TensorInfo& check(std::string_view name, DType dtype, const std::vector<std::int64_t>& shape) const {
    const TensorInfo& info = at(name);
    if (info.dtype != dtype || info.shape != shape) {
      fail_file(path(), "tensor ", detail::shown(name), " is ", dtype_name(info.dtype), " ", text(info.shape),
                ", expected ", dtype_name(dtype), " ", text(shape));
    }
    return info;
  }
  /// Like read, but throws unless the file's tensor has this dtype and shape.
  void read(std::string_view name, DType dtype, const std::vector<std::int64_t>& shape, void* target) const {
    read(check(name, dtype, shape), target);
  }

  /// Where the tensor lies in the mapping. Needs Access::map. The address may be unaligned in foreign files.
  const std::byte* data(const TensorInfo& info) const {
    if (!map_) fail_file(path(), "was not opened with Access::map");
    return map_->data() + data_offset_ + info.offset_begin;
  }

 private:
  static std::string text(const std::vector<std::int64_t>& shape) {
    std::string out = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
  }

  File file_;
  std::uint64_t data_offset_ = 0, data_bytes_ = 0;
  SafetensorsHeader header_;
  std::optional<MappedFile> map_;
};

/// Writes `tensors` durably and atomically, in name order, without copying their data. The data section starts at a
/// multiple of 64 bytes. Throws Error for a bad name, shape or missing data, FileError for the disk.
inline void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                              const Metadata& metadata = {}) {
  std::vector<const TensorView*> order;
  for (const TensorView& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  std::vector<TensorInfo> infos;
  std::uint64_t next = 0;
  for (const TensorView* t : order) {
    require(!t->name.empty() && t->name != "__metadata__", "safetensors: ", detail::shown(t->name),
            " cannot be a tensor name");
    require(infos.empty() || infos.back().name != t->name, "safetensors: duplicate tensor name ",
            detail::shown(t->name));
    const auto bytes = detail::tensor_bytes(t->dtype, t->shape);
    require(bytes && *bytes <= std::numeric_limits<std::uint64_t>::max() / 2 - next, "safetensors: shape of ",
            detail::shown(t->name), " is negative or too large");
    require(*bytes == 0 || t->data != nullptr, "safetensors: tensor ", detail::shown(t->name), " has no data");
    infos.push_back({t->name, t->dtype, t->shape, next, next + *bytes});
    next += *bytes;
  }
  const std::string header = dump_safetensors_header(infos, metadata);
  unsigned char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(std::uint64_t{header.size()} >> (8 * i));
  AtomicFile file(path);
  file.write(length, 8);
  file.write(header);
  for (std::size_t i = 0; i < order.size(); ++i) file.write(order[i]->data, infos[i].bytes());
  file.commit();
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

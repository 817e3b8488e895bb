// SPDX-License-Identifier: Apache-2.0
// safetensors_header.hpp -- the JSON header of a safetensors file: strict, bounded parsing and its inverse.
// Main idea: a SAX state machine with a fixed depth accepts exactly the format and nothing else; the ranges must then
// tile the data section. A file is hostile until all of this has passed. Read next: safetensors.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/io/file.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Element types of the format. Names in files are those of dtype_name().
enum class DType { kF64, kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

namespace detail {
struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::uint64_t bytes;
};
inline constexpr std::array<DTypeRow, 15> kDTypes{{
    {DType::kF64, "F64", 8},
    {DType::kF32, "F32", 4},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kF8E4M3, "F8_E4M3", 1},
    {DType::kF8E5M2, "F8_E5M2", 1},
    {DType::kI64, "I64", 8},
    {DType::kI32, "I32", 4},
    {DType::kI16, "I16", 2},
    {DType::kI8, "I8", 1},
    {DType::kU64, "U64", 8},
    {DType::kU32, "U32", 4},
    {DType::kU16, "U16", 2},
    {DType::kU8, "U8", 1},
    {DType::kBool, "BOOL", 1},
}};
}  // namespace detail

constexpr std::string_view dtype_name(DType dtype) { return detail::kDTypes[static_cast<std::size_t>(dtype)].name; }
/// Bytes per element.
constexpr std::uint64_t dtype_bytes(DType dtype) { return detail::kDTypes[static_cast<std::size_t>(dtype)].bytes; }
inline std::optional<DType> dtype_from_name(std::string_view name) {
  for (const auto& row : detail::kDTypes)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

/// One tensor of a file. Offsets are bytes from the start of the data section, end exclusive.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t offset_begin = 0;
  std::uint64_t offset_end = 0;

  std::uint64_t bytes() const { return offset_end - offset_begin; }
  std::uint64_t elements() const { return bytes() / dtype_bytes(dtype); }
};

using Metadata = std::map<std::string, std::string>;

namespace detail {

/// Bytes of a dense tensor, or nothing if the product overflows or a dimension is negative.
inline std::optional<std::uint64_t> tensor_bytes(DType dtype, const std::vector<std::int64_t>& shape) {
  std::uint64_t bytes = dtype_bytes(dtype);
  for (const std::int64_t n : shape) {
    if (n < 0) return std::nullopt;
    if (n != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / static_cast<std::uint64_t>(n))
      return std::nullopt;
    bytes *= static_cast<std::uint64_t>(n);
  }
  return bytes;
}

/// Receives the header's JSON events. Grammar: { "__metadata__": {string: string}, name: {dtype, shape, data_offsets}
/// }. `problem` is set by the first event that does not fit; the parser then stops.
class SafetensorsSax {
 public:
  using json = nlohmann::json;

  std::vector<TensorInfo> tensors;
  Metadata metadata;
  std::string problem;

  bool null() { return wrong("null"); }
  bool boolean(bool) { return wrong("a boolean"); }
  bool number_integer(json::number_integer_t) { return wrong("a negative number"); }
  bool number_float(json::number_float_t, const json::string_t&) {
    return wrong("a number that is not an unsigned 64-bit integer");
  }
  bool binary(json::binary_t&) { return wrong("binary data"); }

  bool number_unsigned(json::number_unsigned_t value) {
    if (place_ == Place::shape) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return stop("dimension out of range in tensor " + shown(tensors.back().name));
      if (tensors.back().shape.size() == kMaxRank)
        return stop("tensor " + shown(tensors.back().name) + " has more than 64 dimensions");
      tensors.back().shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets && offsets_ < 2) {
      (offsets_++ == 0 ? tensors.back().offset_begin : tensors.back().offset_end) = value;
      return true;
    }
    return wrong("a number");
  }

  bool string(json::string_t& value) {
    if (place_ == Place::metadata) {
      if (!metadata.emplace(key_, value).second) return stop("duplicate metadata key " + shown(key_));
      return true;
    }
    if (place_ != Place::tensor || key_ != "dtype") return wrong("a string");
    const auto dtype = dtype_from_name(value);
    if (!dtype) return stop("tensor " + shown(tensors.back().name) + " has unknown dtype " + shown(value));
    tensors.back().dtype = *dtype;
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::outside) return enter(Place::top);
    if (place_ != Place::top) return wrong("an object");
    if (key_ == "__metadata__") return enter(Place::metadata);
    if (key_.empty()) return stop("a tensor has an empty name");
    tensors.emplace_back().name = key_;
    seen_dtype_ = seen_shape_ = seen_offsets_ = false;
    return enter(Place::tensor);
  }

  bool key(json::string_t& value) {
    key_ = value;
    if (place_ == Place::top && key_ == "__metadata__" && std::exchange(seen_metadata_, true))
      return stop("duplicate key \"__metadata__\"");
    if (place_ != Place::tensor) return true;
    bool* seen = key_ == "dtype"          ? &seen_dtype_
                 : key_ == "shape"        ? &seen_shape_
                 : key_ == "data_offsets" ? &seen_offsets_
                                          : nullptr;
    if (seen == nullptr) return stop("tensor " + shown(tensors.back().name) + " has unknown key " + shown(key_));
    if (std::exchange(*seen, true))
      return stop("tensor " + shown(tensors.back().name) + " has duplicate key " + shown(key_));
    return true;
  }

  bool end_object() {
    if (place_ == Place::tensor && !(seen_dtype_ && seen_shape_ && seen_offsets_))
      return stop("tensor " + shown(tensors.back().name) + " needs dtype, shape and data_offsets");
    return enter(place_ == Place::top ? Place::outside : Place::top);
  }

  bool start_array(std::size_t) {
    if (place_ == Place::tensor && key_ == "shape") return enter(Place::shape);
    if (place_ != Place::tensor || key_ != "data_offsets") return wrong("an array");
    offsets_ = 0;
    return enter(Place::offsets);
  }

  bool end_array() {
    if (place_ == Place::offsets && offsets_ != 2)
      return stop("tensor " + shown(tensors.back().name) + " needs two data_offsets");
    return enter(Place::tensor);
  }

  bool parse_error(std::size_t byte, const std::string&, const json::exception&) {
    return stop(join("header is not valid JSON near byte ", 8 + byte));
  }

 private:
  enum class Place { outside, top, metadata, tensor, shape, offsets };
  static constexpr std::size_t kMaxRank = 64;

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  bool stop(std::string sentence) {
    problem = std::move(sentence);
    return false;
  }
  bool wrong(std::string_view what) {
    return stop(
        join("unexpected ", what, place_ == Place::outside ? std::string(" as header") : " at key " + shown(key_)));
  }

  Place place_ = Place::outside;
  std::string key_;
  int offsets_ = 0;
  bool seen_metadata_ = false, seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
};

}  // namespace detail

/// Parsing a header takes at most this many times its JSON text in memory, the text included.
inline constexpr std::uint64_t kHeaderExpansion = 16;

/// What a header says, checked: names are unique, ranges tile [0, data_bytes) in offset order, sizes match shapes.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // sorted by name
  Metadata metadata;
};

/// Parses the JSON text between the 8-byte length and the data. Throws FileError naming `path`.
inline SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                                  const std::filesystem::path& path) {
  using detail::shown;
  // The format says "{" first. nlohmann would skip a byte order mark, and would take NUL for the end of the text.
  if (text.empty() || text.front() != '{') fail_file(path, "header does not start with {");
  if (text.find('\0') != std::string_view::npos) fail_file(path, "header contains a NUL byte");
  detail::SafetensorsSax sax;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &sax))
    fail_file(path, sax.problem.empty() ? "header is not valid JSON" : sax.problem);

  std::vector<TensorInfo>& tensors = sax.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset_begin, a.offset_end) < std::pair(b.offset_begin, b.offset_end);
  });
  std::uint64_t next = 0;
  for (const TensorInfo& t : tensors) {
    if (t.offset_begin > t.offset_end) fail_file(path, "tensor ", shown(t.name), " ends before it begins");
    if (t.offset_end > data_bytes)
      fail_file(path, "truncated: tensor ", shown(t.name), " ends at data byte ", t.offset_end, " of ", data_bytes);
    if (t.offset_begin < next) fail_file(path, "tensor ", shown(t.name), " overlaps another tensor");
    if (t.offset_begin > next) fail_file(path, "hole of ", t.offset_begin - next, " bytes before ", shown(t.name));
    const auto bytes = detail::tensor_bytes(t.dtype, t.shape);
    if (!bytes) fail_file(path, "shape of tensor ", shown(t.name), " overflows");
    if (*bytes != t.bytes())
      fail_file(path, "tensor ", shown(t.name), " has ", t.bytes(), " bytes, its shape needs ", *bytes);
    next = t.offset_end;
  }
  if (next != data_bytes) fail_file(path, data_bytes - next, " bytes follow the last tensor");

  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twin =
      std::adjacent_find(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twin != tensors.end()) fail_file(path, "duplicate tensor name ", shown(twin->name));
  return {std::move(tensors), std::move(sax.metadata)};
}

/// Bytes of the header's text, from the first `length` bytes (at most 8) of a file of `file_bytes` bytes. Throws
/// FileError if such a file cannot have such a header, or if parsing it could take more than file_bytes + `spare`
/// bytes.
inline std::uint64_t safetensors_header_bytes(std::string_view length, std::uint64_t file_bytes,
                                              const std::filesystem::path& path, std::uint64_t spare = kSpareMemory) {
  constexpr std::uint64_t limit = 100'000'000;  // that of the reference implementation
  if (file_bytes < 8) fail_file(path, "truncated: ", file_bytes, " bytes, a safetensors file has at least 8");
  std::uint64_t bytes = 0;
  for (std::size_t i = 8; i-- > 0;) bytes = bytes << 8 | static_cast<unsigned char>(length[i]);
  if (bytes > limit) fail_file(path, "header of ", bytes, " bytes, limit is ", limit);
  if (bytes > file_bytes - 8) fail_file(path, "truncated: header of ", bytes, " bytes in a file of ", file_bytes);
  if (bytes > (file_bytes + spare) / kHeaderExpansion)
    fail_file(path, "header of ", bytes, " bytes is out of proportion to a file of ", file_bytes);
  return bytes;
}

/// A whole file in memory: its header, checked against its size. Throws FileError naming `path`.
inline SafetensorsHeader parse_safetensors(std::string_view file, const std::filesystem::path& path) {
  const std::uint64_t bytes = safetensors_header_bytes(file, file.size(), path);
  return parse_safetensors_header(file.substr(8, static_cast<std::size_t>(bytes)), file.size() - 8 - bytes, path);
}

/// The header's JSON text for tensors in file order, padded with spaces so that 8 + its size is a multiple of 64.
/// Throws Error if a name is not UTF-8.
inline std::string dump_safetensors_header(const std::vector<TensorInfo>& tensors, const Metadata& metadata) {
  std::string text = "{";
  const auto string = [](const std::string& value) {
    try {
      return nlohmann::json(value).dump();
    } catch (const nlohmann::json::exception&) {
      fail("safetensors: name or metadata ", detail::shown(value), " is not UTF-8");
    }
  };
  const auto comma = [&] {
    if (text.size() > 1) text += ',';
  };
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    bool first = true;
    for (const auto& [key, value] : metadata) {
      text += (std::exchange(first, false) ? "" : ",") + string(key) + ":" + string(value);
    }
    text += '}';
  }
  for (const TensorInfo& t : tensors) {
    comma();
    text += string(t.name) + join(":{\"dtype\":\"", dtype_name(t.dtype), "\",\"shape\":[");
    for (std::size_t i = 0; i < t.shape.size(); ++i) text += (i ? "," : "") + std::to_string(t.shape[i]);
    text += join("],\"data_offsets\":[", t.offset_begin, ",", t.offset_end, "]}");
  }
  text += '}';
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  return text;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

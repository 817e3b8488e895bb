// SPDX-License-Identifier: Apache-2.0
// sharded.hpp -- a model in several safetensors files, described by model.safetensors.index.json, as one set of
// tensors. Main idea: the index says which shard holds which tensor; nothing is believed before every shard is open and
// both sides agree. Read next: safetensors.hpp for one file, hf/tensors.hpp for a directory with either.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sparsemoe/io/json.hpp"
#include "sparsemoe/io/safetensors.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What an index must say. exact: that and nothing else, its total_size is that of the tensors, and every shard holds
/// just what the index places there. foreign: as lenient as the readers of transformers, which look at the weight_map
/// alone, and take every tensor of the shards that it names.
enum class Agreement { exact, foreign };

/// What an index says: {"metadata": {"total_size": bytes, ...}, "weight_map": {tensor name: file name, ...}}.
struct ShardIndex {
  struct Entry {
    std::string tensor;
    std::size_t shard = 0;  // into `shards`
  };
  std::vector<Entry> entries;               // sorted by tensor, names unique
  std::vector<std::string> shards;          // base names, in order of first mention
  std::optional<std::uint64_t> total_size;  // bytes of all tensors
  std::uint64_t memory = 0;                 // bytes this takes, at most
};

namespace detail {

/// A plain name of a file beside the index: no directory, nothing hidden, no control characters.
inline bool is_shard_name(std::string_view name) {
  constexpr std::string_view suffix = ".safetensors";
  return name.size() > suffix.size() && name.size() <= 255 && name.ends_with(suffix) && name.front() != '.' &&
         std::none_of(name.begin(), name.end(),
                      [](unsigned char c) { return c == '/' || c == '\\' || c < 32 || c == 127; });
}

/// Receives the JSON events of an index. `problem` is set by the first event that does not fit.
class ShardIndexSax {
 public:
  using json = nlohmann::json;

  ShardIndex index;
  std::string problem;
  bool seen_map = false;

  /// `spare` bounds index.memory; `members` is an upper bound of the number of entries.
  ShardIndexSax(std::uint64_t spare, std::uint64_t members, Agreement agreement)
      : spare_(spare), foreign_(agreement == Agreement::foreign) {
    index.memory = members * sizeof(ShardIndex::Entry);
    if (index.memory <= spare_) index.entries.reserve(static_cast<std::size_t>(members));
  }

  bool null() { return scalar("null"); }
  bool boolean(bool) { return scalar("a boolean"); }
  bool number_integer(json::number_integer_t) { return scalar("a negative number"); }
  bool number_float(json::number_float_t, const json::string_t&) {
    return scalar("a number that is not an unsigned 64-bit integer");
  }
  bool binary(json::binary_t&) { return wrong("binary data"); }
  bool number_unsigned(json::number_unsigned_t value) {
    if (ignored()) return true;
    if (place_ != Place::metadata || key_ != "total_size") return scalar("a number");
    index.total_size = value;
    return true;
  }

  bool string(json::string_t& value) {
    if (ignored()) return true;
    if (place_ != Place::map) return scalar("a string");
    if (!is_shard_name(value))
      return stop("tensor " + shown(key_) + " is said to be in " + shown(value) +
                  ", expected the name of a .safetensors file beside the index");
    const auto [at, fresh] = shards_.try_emplace(value, index.shards.size());
    if (fresh && !take(sizeof *at + 64 + sizeof value * 4 + 3 * value.size())) return false;
    if (fresh) index.shards.push_back(value);
    if (!take(key_.size() + 32)) return false;
    index.entries.push_back({key_, at->second});
    return true;
  }

  bool start_object(std::size_t) {
    if (ignored()) return skip();
    if (place_ == Place::outside) return enter(Place::top);
    if (place_ != Place::top) return wrong("an object");
    return enter(key_ == "metadata" ? Place::metadata : Place::map);
  }
  bool end_object() {
    if (skipped_ > 0) return leave();
    return enter(place_ == Place::top ? Place::outside : Place::top);
  }
  bool start_array(std::size_t) { return ignored() ? skip() : wrong("an array"); }
  bool end_array() { return leave(); }

  bool key(json::string_t& value) {
    if (skipped_ > 0) return true;
    key_ = value;
    if (foreign_ && place_ == Place::top && key_ != "weight_map") return true;
    if (place_ == Place::map) return !key_.empty() || stop("a tensor has an empty name");
    if (place_ == Place::metadata)
      return key_ != "total_size" || !std::exchange(seen_size_, true) || stop("duplicate key \"total_size\"");
    bool* seen = key_ == "metadata" ? &seen_metadata_ : key_ == "weight_map" ? &seen_map : nullptr;
    if (seen == nullptr) return stop("unknown key " + shown(key_) + ", expected metadata and weight_map");
    return !std::exchange(*seen, true) || stop("duplicate key " + shown(key_));
  }

  bool parse_error(std::size_t byte, const std::string&, const json::exception&) {
    return stop(join("is not valid JSON near byte ", byte));
  }

 private:
  enum class Place { outside, top, metadata, map };

  /// Of the value that comes: nobody reads it.
  bool ignored() const { return skipped_ > 0 || (foreign_ && place_ == Place::top && key_ != "weight_map"); }
  bool skip() {
    ++skipped_;
    return true;
  }
  bool leave() {
    --skipped_;
    return true;
  }

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
        join("unexpected ", what, place_ == Place::outside ? std::string(" as index") : " at key " + shown(key_)));
  }
  /// Other writers put more than total_size into the metadata; only that one matters here.
  bool scalar(std::string_view what) {
    return ignored() || (place_ == Place::metadata && key_ != "total_size") || wrong(what);
  }
  bool take(std::uint64_t bytes) {
    index.memory += bytes;
    return index.memory <= spare_ || stop("names too many tensors: they must fit into 16 MiB of memory");
  }

  std::map<std::string, std::size_t> shards_;
  std::uint64_t spare_, skipped_ = 0;
  bool foreign_;
  Place place_ = Place::outside;
  std::string key_;
  bool seen_metadata_ = false, seen_size_ = false;
};

}  // namespace detail

/// Parses the text of an index. Throws FileError naming `path`. Takes at most kSpareMemory besides the text (about
/// 120,000 tensors).
inline ShardIndex parse_shard_index(std::string_view text, const std::filesystem::path& path,
                                    Agreement agreement = Agreement::exact) {
  check_json_bytes(text, path);
  const detail::JsonExtent extent = detail::json_extent(text);
  constexpr std::uint64_t limit =
      kSpareMemory - (std::uint64_t{64} << 10);  // the rest is for messages and small change
  if (extent.token_memory() + extent.members * sizeof(ShardIndex::Entry) > limit)
    fail_file(path, "is too large an index: up to ", extent.members, " tensors and ", extent.longest,
              " bytes in one piece; they must fit into 16 MiB of memory");
  detail::ShardIndexSax sax(limit - extent.token_memory(), extent.members, agreement);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &sax)) fail_file(path, sax.problem);
  if (!sax.seen_map) fail_file(path, "has no weight_map");
  ShardIndex index = std::move(sax.index);
  if (index.entries.empty()) fail_file(path, "weight_map names no tensor");
  const auto less = [](const auto& a, const auto& b) { return a.tensor < b.tensor; };
  std::sort(index.entries.begin(), index.entries.end(), less);
  const auto twin = std::adjacent_find(index.entries.begin(), index.entries.end(),
                                       [](const auto& a, const auto& b) { return a.tensor == b.tensor; });
  if (twin != index.entries.end()) fail_file(path, "duplicate tensor name ", detail::shown(twin->tensor));
  return index;
}

/// An open, fully checked set of shards. Where index and shards must agree exactly, every tensor of the index is in the
/// shard it names, no shard holds a tensor that the index does not place there, and total_size, where given, is the
/// bytes of all tensors. A tensor that lies in two shards is refused, unless the index says which. Shards lie beside
/// the index; symbolic links there are followed, as download caches use them.
class ShardedReader {
 public:
  /// One tensor and the file that holds it.
  struct Located {
    const SafetensorsReader* shard = nullptr;
    const TensorInfo* info = nullptr;
  };

  /// Opens DIRECTORY/model.safetensors.index.json, or another index, and its shards. Throws FileError naming the file
  /// that is wrong. Takes at most the files' sizes + kSpareMemory of memory.
  explicit ShardedReader(const std::filesystem::path& index_path, Access access = Access::pread,
                         Agreement agreement = Agreement::exact)
      : path_(index_path) {
    const ShardIndex index = parse_shard_index(read_file(path_, kMaxIndex), path_, agreement);
    std::uint64_t spare = kSpareMemory - std::min(kSpareMemory, index.memory);
    shards_.reserve(index.shards.size());
    for (const std::string& name : index.shards) spare -= open(path_.parent_path() / name, access, spare);

    if (agreement == Agreement::foreign)
      take_all(index);
    else
      take_exactly(index);
  }

  /// All tensors, sorted by name.
  const std::vector<Located>& tensors() const { return tensors_; }
  const std::vector<SafetensorsReader>& shards() const { return shards_; }
  const std::filesystem::path& path() const { return path_; }

  /// The tensor of that name; its members are null if there is none.
  Located find(std::string_view name) const {
    const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                     [](const Located& t, std::string_view n) { return t.info->name < n; });
    return at != tensors_.end() && at->info->name == name ? *at : Located{};
  }
  /// The tensor of that name; throws FileError if there is none.
  Located at(std::string_view name) const {
    const Located tensor = find(name);
    if (tensor.info == nullptr) fail_file(path_, "has no tensor ", detail::shown(name));
    return tensor;
  }
  /// As SafetensorsReader::read: throws unless the tensor has this dtype and shape.
  void read(std::string_view name, DType dtype, const std::vector<std::int64_t>& shape, void* target) const {
    at(name).shard->read(name, dtype, shape, target);
  }

 private:
  static constexpr std::uint64_t kMaxIndex = std::uint64_t{64} << 20;

  /// Returns how much of `spare` the shard took.
  std::uint64_t open(const std::filesystem::path& shard, Access access, std::uint64_t spare) {
    std::error_code ignored;
    if (!std::filesystem::exists(shard, ignored)) fail_file(shard, "missing, but named by ", path_.filename().string());
    const SafetensorsReader& reader = shards_.emplace_back(shard, access, spare);
    const std::uint64_t most = kHeaderExpansion * reader.data_offset();
    return std::min(spare, most - std::min(most, reader.file_bytes()));
  }

  void take_exactly(const ShardIndex& index) {
    tensors_.reserve(index.entries.size());
    for (const ShardIndex::Entry& entry : index.entries) {
      const SafetensorsReader& shard = shards_[entry.shard];
      const TensorInfo* info = shard.find(entry.tensor);
      if (info == nullptr)
        fail_file(shard.path(), "has no tensor ", detail::shown(entry.tensor), ", but ", path_.filename().string(),
                  " says so");
      tensors_.push_back({&shard, info});
    }
    check_nothing_else(index);
    check_total(index);
  }
  /// Every tensor of every shard, and of two of one name that which the index means.
  void take_all(const ShardIndex& index) {
    for (const SafetensorsReader& shard : shards_)
      for (const TensorInfo& info : shard.tensors()) tensors_.push_back({&shard, &info});
    const auto name = [](const Located& t) -> const std::string& { return t.info->name; };
    std::stable_sort(tensors_.begin(), tensors_.end(),
                     [&](const Located& a, const Located& b) { return name(a) < name(b); });
    std::vector<Located> kept;
    for (const Located& t : tensors_) {
      const bool again = !kept.empty() && name(kept.back()) == name(t);
      if (!again) {
        kept.push_back(t);
        continue;
      }
      const SafetensorsReader* meant = placed(index, name(t));
      if (meant == nullptr)
        fail_file(t.shard->path(), "holds tensor ", detail::shown(name(t)), ", which ",
                  kept.back().shard->path().filename().string(), " holds too");
      if (t.shard == meant) kept.back() = t;
    }
    tensors_ = std::move(kept);
    for (const ShardIndex::Entry& entry : index.entries)
      if (find(entry.tensor).info == nullptr)
        fail_file(shards_[entry.shard].path(), "has no tensor ", detail::shown(entry.tensor), ", but ",
                  path_.filename().string(), " says so");
  }
  /// The shard where the index places a tensor, or null.
  const SafetensorsReader* placed(const ShardIndex& index, std::string_view tensor) const {
    const auto at =
        std::lower_bound(index.entries.begin(), index.entries.end(), tensor,
                         [](const ShardIndex::Entry& e, std::string_view n) { return std::string_view(e.tensor) < n; });
    return at != index.entries.end() && at->tensor == tensor ? &shards_[at->shard] : nullptr;
  }

  void check_nothing_else(const ShardIndex& index) const {
    std::size_t held = 0;
    for (const SafetensorsReader& shard : shards_) held += shard.tensors().size();
    if (held == tensors_.size()) return;
    for (const SafetensorsReader& shard : shards_) {
      for (const TensorInfo& info : shard.tensors()) {
        const Located known = find(info.name);
        if (known.info == &info) continue;
        fail_file(shard.path(), "holds tensor ", detail::shown(info.name), ", which ", path_.filename().string(),
                  known.info == nullptr ? " does not name" : " says is in another shard");
      }
    }
    fail_file(path_, "names ", index.entries.size(), " tensors, its shards hold ", held);
  }

  void check_total(const ShardIndex& index) const {
    std::uint64_t total = 0;  // cannot overflow: the shards exist on this machine
    for (const Located& tensor : tensors_) total += tensor.info->bytes();
    if (index.total_size && *index.total_size != total)
      fail_file(path_, "total_size is ", *index.total_size, ", the tensors have ", total, " bytes");
  }

  std::filesystem::path path_;
  std::vector<SafetensorsReader> shards_;
  std::vector<Located> tensors_;  // points into shards_
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

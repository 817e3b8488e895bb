// SPDX-License-Identifier: Apache-2.0
// json.hpp -- JSON documents from files that may be damaged or hostile: bounded size and depth, no duplicate keys.
// Main idea: a scan bounds the memory before any is taken; one SAX pass checks depth, keys and UTF-8 without building
// anything; only then is the value built.
// Read next: json_config.hpp, which maps such a document onto a config struct.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sparsemoe/io/file.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

using Json = nlohmann::ordered_json;  // keeps the order of keys, so that a saved config reads like its struct

namespace detail {

/// What a text of JSON can hold at most, well-formed or not, found without allocating.
struct JsonExtent {
  std::uint64_t values = 1;   // array elements, members and containers
  std::uint64_t members = 0;  // of objects
  std::uint64_t quoted = 0;   // bytes in strings
  std::uint64_t longest = 0;  // bytes of the longest string or of the longest text without one

  /// Bytes of the parser's two token buffers, which double as they grow: 3 times their content while being copied.
  std::uint64_t token_memory() const { return 6 * longest; }
  /// Bytes that JsonGuard or the built value takes, whichever is more: 112 for the slot of a value in a growing array
  /// and its string or container, 160 for a member with its key, or the key in a set.
  std::uint64_t memory() const { return 112 * values + 160 * members + quoted + token_memory(); }
};

inline JsonExtent json_extent(std::string_view text) {
  JsonExtent extent;
  bool quoted = false;
  std::uint64_t run = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    ++run;
    if (c == '"') {
      quoted = !quoted;
      extent.longest = std::max(extent.longest, std::exchange(run, 0));
    } else if (quoted) {
      ++extent.quoted;
      if (c == '\\') ++i, ++run, ++extent.quoted;
    } else if (c == ':') {
      ++extent.members;
    } else if (c == ',' || c == '[' || c == '{') {
      ++extent.values;
    }
  }
  extent.longest = std::max(extent.longest, run);
  return extent;
}

/// Refuses nesting beyond `kMaxDepth` (recursive code would overflow the stack) and duplicate keys (last one wins
/// elsewhere, silently), and objects of more than `kMaxKeys` keys (Json finds a key by comparing it with all before
/// it).
class JsonGuard {
 public:
  using json = nlohmann::json;
  std::string problem;
  std::size_t wrong_byte = 0;  // of a text that is no JSON

  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(json::number_integer_t) { return true; }
  bool number_unsigned(json::number_unsigned_t) { return true; }
  bool number_float(json::number_float_t, const json::string_t&) { return true; }
  bool string(json::string_t&) { return true; }
  bool binary(json::binary_t&) { return true; }
  bool start_object(std::size_t) { return open(); }
  bool start_array(std::size_t) { return open(); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(json::string_t& name) {
    const bool fresh = keys_.back().insert(name).second;
    if (fresh && keys_.back().size() <= kMaxKeys) return true;
    problem = fresh ? join("has an object of more than ", kMaxKeys, " keys") : "duplicate key " + shown(name);
    return false;
  }
  bool parse_error(std::size_t byte, const std::string&, const json::exception&) {
    problem = "is not valid JSON";
    wrong_byte = byte;
    return false;
  }

 private:
  static constexpr std::size_t kMaxDepth = 16;
  static constexpr std::size_t kMaxKeys = 10'000;
  bool open() {
    if (keys_.size() == kMaxDepth) {
      problem = join("is nested more than ", kMaxDepth, " deep");
      return false;
    }
    keys_.emplace_back();
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  std::vector<std::set<std::string>> keys_;
};

/// " near byte 57, line 3" of a text, "" for byte 0.
inline std::string place_in(std::string_view text, std::size_t byte) {
  if (byte == 0) return "";
  const std::string_view before = text.substr(0, byte - 1);
  return join(" near byte ", byte, ", line ", 1 + std::count(before.begin(), before.end(), '\n'));
}

}  // namespace detail

/// Throws FileError for what nlohmann takes silently: NUL for the end of the text, and a byte order mark.
inline void check_json_bytes(std::string_view text, const std::filesystem::path& where) {
  if (text.starts_with("\xef\xbb\xbf")) fail_file(where, "starts with a byte order mark, expected JSON without one");
  if (text.find('\0') != std::string_view::npos) fail_file(where, "contains a NUL byte");
}

/// Parses `text`; `where` (a path, or path and line) opens the FileError. Takes at most `spare` bytes besides the text;
/// a larger document is refused, well-formed or not.
inline Json parse_json(std::string_view text, const std::filesystem::path& where, std::uint64_t spare = kSpareMemory) {
  check_json_bytes(text, where);
  const detail::JsonExtent extent = detail::json_extent(text);
  constexpr std::uint64_t small_change = std::uint64_t{64} << 10;  // messages and the like
  if (extent.memory() + small_change > spare)
    fail_file(where, "is too large a document: up to ", extent.values, " values and ", extent.longest,
              " bytes in one piece; they must fit into ", spare >> 20, " MiB of memory");
  {
    detail::JsonGuard guard;
    if (!nlohmann::json::sax_parse(text.begin(), text.end(), &guard))
      fail_file(where, guard.problem, detail::place_in(text, guard.wrong_byte));
  }
  return Json::parse(text.begin(), text.end());
}

inline Json read_json(const std::filesystem::path& path, std::uint64_t limit = std::uint64_t{64} << 20) {
  return parse_json(read_file(path, limit), path);
}

/// Indented text with a final newline. Invalid UTF-8 becomes U+FFFD rather than an exception in a trainer.
inline std::string dump_json(const Json& value) {
  return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

inline void write_json(const std::filesystem::path& path, const Json& value) { atomic_write(path, dump_json(value)); }

}  // namespace sparsemoe::inline SPARSEMOE_ABI

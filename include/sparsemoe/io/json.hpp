// json.hpp -- JSON documents from files that may be damaged or hostile: bounded size and depth, no duplicate keys.
// Main idea: one SAX pass checks depth, keys and UTF-8 without building anything; only then is the value built.
// Read next: json_config.hpp, which maps such a document onto a config struct.
#pragma once

#include <cstddef>
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

/// Refuses nesting beyond `kMaxDepth` (recursive code would overflow the stack) and duplicate keys (last one wins
/// elsewhere, silently).
class JsonGuard {
 public:
  using json = nlohmann::json;
  std::string problem;

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
    if (keys_.back().insert(name).second) return true;
    problem = "duplicate key \"" + name.substr(0, 100) + "\"";
    return false;
  }
  bool parse_error(std::size_t byte, const std::string&, const json::exception&) {
    problem = join("is not valid JSON near byte ", byte);
    return false;
  }

 private:
  static constexpr std::size_t kMaxDepth = 16;
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

}  // namespace detail

/// Parses `text`; `where` (a path, or path and line) opens the FileError.
inline Json parse_json(std::string_view text, const std::filesystem::path& where) {
  if (text.find('\0') != std::string_view::npos) fail_file(where, "contains a NUL byte");
  detail::JsonGuard guard;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &guard)) fail_file(where, guard.problem);
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

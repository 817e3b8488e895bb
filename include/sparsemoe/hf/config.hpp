// SPDX-License-Identifier: Apache-2.0
// hf/config.hpp -- the config.json of a Hugging Face checkpoint, read key by key: a wrong key is named with its file.
// Read next: hf/keys.hpp, hf/sizes.hpp and hf/special_tokens.hpp, which read it; hf/tensors.hpp for the weights beside
// it, hf/t5.hpp for a family.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// The most of anything that a config.json may ask for: above every published model, and products do not overflow.
struct Limits {
  static constexpr index_t vocabulary = index_t{1} << 24, layers = 4096, width = index_t{1} << 18, heads = 1 << 14,
                           hidden = index_t{1} << 22, experts = 1 << 16, buckets = 1 << 16,
                           positions = index_t{1} << 30;
};

/// A JSON object of a checkpoint's directory. `null` is as good as absent, as in transformers. Getters throw FileError
/// that names the file and the key.
class Config {
 public:
  /// Reads DIRECTORY/`name`.
  explicit Config(const std::filesystem::path& directory, const char* name = "config.json")
      : Config(read_json(directory / name), directory / name) {}
  /// An object that came from elsewhere; `path` opens the errors.
  Config(Json json, std::filesystem::path path) : json_(std::move(json)), path_(std::move(path)) {
    if (!json_.is_object()) fail_file(path_, "must hold an object, got ", detail::shown_json(json_));
  }

  const Json& json() const { return json_; }
  const std::filesystem::path& path() const { return path_; }
  /// The same with other values, as options of from_pretrained().
  Config with(const Json& overrides) const {
    Json json = json_;
    for (const auto& [key, value] : overrides.items()) json[key] = value;
    return {std::move(json), path_};
  }

  bool has(const std::string& key) const {
    const auto at = json_.find(key);
    return at != json_.end() && !at->is_null();
  }
  /// A value of type T (bool, an integer, a float, std::string, or a vector of these).
  template <class T>
  T get(const std::string& key) const {
    if (!has(key)) fail_file(path_, "has no key \"", key, "\"");
    T value{};
    detail::field_from_json(value, json_.at(key), key, path_);
    return value;
  }
  template <class T>
  T get(const std::string& key, T otherwise) const {
    return has(key) ? get<T>(key) : otherwise;
  }
  index_t size(const std::string& key) const { return get<index_t>(key); }
  /// A whole number from `least` to `most`, or `otherwise` of an absent key.
  index_t count(const std::string& key, index_t least, index_t most) const {
    const auto n = get<index_t>(key);
    if (n < least || n > most) refuse(key, join("a whole number from ", least, " to ", most));
    return n;
  }
  index_t count(const std::string& key, index_t least, index_t most, index_t otherwise) const {
    return has(key) ? count(key, least, most) : otherwise;
  }
  /// A number from `least` to `most`, or `otherwise` of an absent key.
  double number(const std::string& key, double otherwise, double least, double most) const {
    const double value = get(key, otherwise);
    if (has(key) && !(value >= least && value <= most)) refuse(key, join("a number from ", least, " to ", most));
    return value;
  }
  /// A key under two names: transformers maps `alias` to `key`. Refused if they disagree.
  index_t count_either(const std::string& key, const std::string& alias, index_t most) const {
    if (!has(key) && has(alias)) return count(alias, 1, most);
    const index_t n = count(key, 1, most);
    if (has(alias) && get<index_t>(alias) != n) refuse(alias, join(n, ", as \"", key, "\" says"));
    return n;
  }
  double real(const std::string& key, double otherwise) const { return get(key, otherwise); }
  bool flag(const std::string& key, bool otherwise) const { return get(key, otherwise); }
  std::string text(const std::string& key, const std::string& otherwise) const { return get(key, otherwise); }

  /// Throws FileError: the key has a value that no model here has.
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
    fail_file(path_, "key \"", key, "\" is ", has(key) ? detail::shown_json(json_.at(key)) : "not there", ", expected ",
              expected);
  }
  /// Refuses a key whose value is not `only`, if it is there at all.
  template <class T>
  void only(const std::string& key, const T& value) const {
    if (has(key) && get<T>(key) != value) refuse(key, Json(value).dump());
  }
  /// The index of the key's value among `names`; refused if it is none of them.
  std::size_t one_of(const std::string& key, const std::string& value, std::initializer_list<const char*> names) const {
    std::string list;
    std::size_t i = 0;
    for (const char* name : names) {
      if (value == name) return i;
      ++i;
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
    refuse(key, "one of " + list);
  }

 private:
  Json json_;
  std::filesystem::path path_;
};

/// Slots of an expert in a sparse checkpoint. Null is refused: transformers takes it as a share of the batch, or fails.
inline std::int32_t expert_capacity(const Config& config) {
  const char* const key = "expert_capacity";
  const auto slots = config.get<std::int32_t>(key, config.json().contains(key) ? 0 : 64);
  if (slots < 1) config.refuse(key, "a number of slots, at least 1");
  return slots;
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// component.hpp -- one object of a tokenizer.json, {"type": ..., ...}, read key by key: a type that is not offered and
// a key that is not known are named with their place and file. Read next: normalizer.hpp, pre_tokenizer.hpp.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "sparsemoe/hf/config.hpp"

namespace generation {

namespace moe = sparsemoe;
namespace fs = std::filesystem;

class Component {
 public:
  /// `place` is where the object stands, as "normalizer.normalizers[2]".
  Component(const moe::Json& json, const fs::path& path, std::string place) : place_(std::move(place)), path_(path) {
    if (!json.is_object())
      moe::fail_file(path, "key \"", place_, "\" must be an object, got ", moe::detail::shown_json(json));
    json_ = &json;
    const auto type = json.find("type");
    if (type == json.end() || !type->is_string()) moe::fail_file(path, "\"", place_, "\" has no \"type\"");
    type_ = type->get<std::string>();
  }

  const std::string& type() const { return type_; }
  const fs::path& path() const { return path_; }
  const moe::Json& json() const { return *json_; }

  [[noreturn]] void refuse(std::string_view offered) const {
    moe::fail_file(path_, "\"", place_, "\" is of type ", moe::detail::shown(type_), ", which is not offered; ",
                   offered, " are");
  }
  /// Throws FileError for a key besides "type" and these.
  void expect_keys(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : json_->items()) {
      bool found = key == "type";
      for (const std::string_view name : known) found = found || key == name;
      if (!found) fail("has an unknown key ", moe::detail::shown(key));
    }
  }
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    moe::fail_file(path_, "\"", place_, "\" (", type_, ") ", parts...);
  }

  bool has(const char* key) const {
    const auto at = json_->find(key);
    return at != json_->end() && !at->is_null();
  }
  const moe::Json& at(const char* key) const {
    if (!has(key)) fail("has no key \"", key, "\"");
    return json_->at(key);
  }
  std::string text(const char* key) const {
    const moe::Json& value = at(key);
    if (!value.is_string()) fail("key \"", key, "\" must be a string, got ", moe::detail::shown_json(value));
    return value.get<std::string>();
  }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const moe::Json& value = at(key);
    if (!value.is_boolean()) fail("key \"", key, "\" must be true or false, got ", moe::detail::shown_json(value));
    return value.get<bool>();
  }
  /// A number from 0 to `most`.
  std::int64_t count(const char* key, std::int64_t most) const {
    const moe::Json& value = at(key);
    if (!value.is_number_integer() || value < 0 || value > most)
      fail("key \"", key, "\" must be an integer from 0 to ", most, ", got ", moe::detail::shown_json(value));
    return value.get<std::int64_t>();
  }
  /// Calls visit(Component) for every element of the array at `key`.
  template <class Visit>
  void each(const char* key, Visit&& visit) const {
    const moe::Json& list = at(key);
    if (!list.is_array()) fail("key \"", key, "\" must be an array, got ", moe::detail::shown_json(list));
    for (std::size_t i = 0; i < list.size(); ++i)
      visit(Component(list[i], path_, place_ + "." + key + "[" + std::to_string(i) + "]"));
  }

 private:
  const moe::Json* json_;
  std::string type_, place_;
  fs::path path_;
};

}  // namespace generation

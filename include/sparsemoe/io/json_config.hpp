// SPDX-License-Identifier: Apache-2.0
// json_config.hpp -- config structs to and from JSON, driven by the struct's own field list.
// Main idea: a config offers template <class F> void visit(F&& f) { f("layers", layers, "number of layers"); ... };
// the same list drives the command line. Unknown keys and wrong types are errors. Read next: options.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sparsemoe/io/json.hpp"
#include "sparsemoe/names.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {
struct AnyField {
  template <class T>
  void operator()(const char*, T&, const char*) const {}
};
}  // namespace detail

/// A struct with a field list. Members: bool, integers, float, double, std::string, std::filesystem::path, enums with
/// field_names(), std::vector of these, and other configs (nested object, "prefix-" on the command line).
template <class T>
concept Configurable = std::is_class_v<T> && requires(T& config) {
  config.visit(detail::AnyField{});
};

/// An enum whose values 0, 1, ... have names: constexpr std::array<std::string_view, N> field_names(Enum) beside it.
template <class E>
concept NamedEnum = std::is_enum_v<E> && requires(E e) {
  field_names(e)[0];
};

/// f(name, field, help) for the fields of these names, in this order: what a program shows of a larger config. Throws
/// Error for a name that is not there.
template <Configurable T, class F>
void visit_fields(T& config, std::initializer_list<std::string_view> names, F&& f) {
  for (const std::string_view wanted : names) {
    bool found = false;
    config.visit([&](const char* name, auto& field, const char* help) {
      if (name != wanted) return;
      found = true;
      f(name, field, help);
    });
    require(found, "config: there is no field '", wanted, "'");
  }
}

/// All names of a named enum: "token, task".
template <NamedEnum E>
std::string enum_choices() {
  std::string out;
  for (const std::string_view name : field_names(E{})) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

template <Configurable T>
Json to_json(const T& config);

namespace detail {

/// A JSON value in a sentence, cut to 60 bytes; of a long one only what it is.
inline std::string shown_json(const Json& value) {
  if (value.is_structured() && !value.empty())
    return join(value.is_array() ? "an array of " : "an object of ", value.size());
  if (value.is_string() && value.get_ref<const std::string&>().size() > 60)
    return shown(value.get_ref<const std::string&>());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);  // ASCII: safe to cut anywhere
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
Json field_to_json(const T& value) {
  if constexpr (Configurable<T>) {
    return to_json(value);
  } else if constexpr (NamedEnum<T>) {
    return field_names(value).at(static_cast<std::size_t>(value));
  } else if constexpr (IsVector<T>::value) {
    Json out = Json::array();
    for (const auto& item : value) out.push_back(field_to_json(static_cast<typename T::value_type>(item)));
    return out;
  } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
    return value.string();
  } else {
    static_assert(std::is_arithmetic_v<T> || std::is_same_v<T, std::string>,
                  "config field: use bool, an integer, a float, std::string, path, a named enum or a vector of these");
    if constexpr (std::is_same_v<T, float>) {  // 0.1f is to be saved as 0.1, not as 0.10000000149011612
      char text[32];
      const auto end = std::to_chars(text, text + sizeof text, value).ptr;
      double shortest = static_cast<double>(value);
      if (std::isfinite(value)) std::from_chars(text, end, shortest);
      return shortest;
    } else {
      return value;
    }
  }
}

/// `key` is the dotted path of the value, for the sentence.
template <class T>
void field_from_json(T& field, const Json& value, const std::string& key, const std::filesystem::path& path);

template <Configurable T>
void object_from_json(T& config, const Json& object, const std::string& prefix, const std::filesystem::path& path) {
  if (!object.is_object())
    fail_file(path, prefix.empty() ? "the config" : "key \"" + prefix + "\"", " must be an object, got ",
              shown_json(object));
  std::vector<std::string> known;
  config.visit([&](const char* name, auto&, const char*) { known.emplace_back(name); });
  for (const auto& [key, unused] : object.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string near = closest_name(key, known);
    fail_file(path, "unknown key ", shown(prefix.empty() ? key : prefix + "." + key),
              near.empty() ? "" : "; did you mean \"" + near + "\"?");
  }
  config.visit([&](const char* name, auto& field, const char*) {
    const auto at = object.find(name);
    if (at != object.end()) field_from_json(field, *at, prefix.empty() ? name : prefix + "." + name, path);
  });
}

template <class T>
void field_from_json(T& field, const Json& value, const std::string& key, const std::filesystem::path& path) {
  const auto expect = [&](bool ok, const std::string& what) {
    if (!ok) fail_file(path, "key \"", key, "\" must be ", what, ", got ", shown_json(value));
  };
  if constexpr (Configurable<T>) {
    object_from_json(field, value, key, path);
  } else if constexpr (NamedEnum<T>) {
    const auto names = field_names(field);
    const auto at = std::find(names.begin(), names.end(), value.is_string() ? value.get<std::string>() : "");
    expect(value.is_string() && at != names.end(), "one of " + enum_choices<T>());
    field = static_cast<T>(at - names.begin());
  } else if constexpr (IsVector<T>::value) {
    expect(value.is_array(), "an array");
    T items;
    for (std::size_t i = 0; i < value.size(); ++i) {
      typename T::value_type item{};
      field_from_json(item, value[i], key + "[" + std::to_string(i) + "]", path);
      items.push_back(std::move(item));
    }
    field = std::move(items);
  } else if constexpr (std::is_same_v<T, bool>) {
    expect(value.is_boolean(), "true or false");
    field = value.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    expect(value.is_number_integer(), "an integer");
    const bool fits = value.is_number_unsigned() ? std::in_range<T>(value.get<std::uint64_t>())
                                                 : std::in_range<T>(value.get<std::int64_t>());
    expect(fits, join("between ", +std::numeric_limits<T>::min(), " and ", +std::numeric_limits<T>::max()));
    field = value.get<T>();
  } else if constexpr (std::is_floating_point_v<T>) {
    expect(value.is_number(), "a number");
    expect(std::abs(value.get<double>()) <= static_cast<double>(std::numeric_limits<T>::max()),
           join("at most ", std::numeric_limits<T>::max()));
    field = value.get<T>();
  } else {
    expect(value.is_string(), "a string");
    field = value.get<std::string>();
  }
}

}  // namespace detail

/// Every field in the order of visit(): the effective config that is saved beside a checkpoint.
template <Configurable T>
Json to_json(const T& config) {
  Json out = Json::object();
  T copy = config;  // visit() hands out mutable members
  copy.visit([&](const char* name, auto& field, const char*) { out[name] = detail::field_to_json(field); });
  return out;
}

/// Runs config.check() and that of nested configs, where they exist.
template <Configurable T>
void check_config(const T& config) {
  if constexpr (requires { config.check(); }) config.check();
  T copy = config;
  copy.visit([](const char*, auto& field, const char*) {
    if constexpr (Configurable<std::remove_reference_t<decltype(field)>>) check_config(field);
  });
}

/// Sets the fields that `json` names; others keep their value. `path` opens the FileError for an unknown key (with the
/// nearest known one), a wrong type or a failed check(). On error `config` is unchanged.
template <Configurable T>
void from_json(T& config, const Json& json, const std::filesystem::path& path) {
  T next = config;
  detail::object_from_json(next, json, "", path);
  try {
    check_config(next);
  } catch (const FileError&) {
    throw;
  } catch (const Error& error) {
    fail_file(path, error.what());
  }
  config = std::move(next);
}

template <Configurable T>
void load_config(const std::filesystem::path& path, T& config) {
  from_json(config, read_json(path), path);
}

template <Configurable T>
void save_config(const std::filesystem::path& path, const T& config) {
  write_json(path, to_json(config));
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

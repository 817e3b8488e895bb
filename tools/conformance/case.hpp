// SPDX-License-Identifier: Apache-2.0
// tools/conformance/case.hpp -- one case of a golden directory: its options, its tensors, and the comparison against
// marks. A case keeps account of what was asked of it: an option nobody read, an input nobody used and a result nobody
// compared fail it by name. Read next: tools/conformance/bound.hpp, then layers.cpp for the first kinds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/view.hpp"

namespace conformance {

using namespace sparsemoe;
using nlohmann::json;
using Values = std::vector<double>;

/// The worst tensor of a case, as a part of its pass mark; above 1 fails.
struct Score {
  double ratio = 0, difference = 0, mark = 0;
  std::string at = "-";
  std::set<std::string> compared;
};

class Case {
 public:
  /// Throws Error where the manifest does not describe the file: another set of tensors, another type or shape.
  Case(const std::filesystem::path& folder, const json& entry)
      : entry_(entry), file_(folder / text_of(entry, "file")), reference_(text_of(entry, "reference")) {
    if (entry.contains("params")) require(entry.at("params").is_object(), "params is not an object");
    require(entry.contains("tensors") && entry.at("tensors").is_object(), "the case has no tensors");
    for (const TensorInfo& info : file_.tensors()) {
      require(entry.at("tensors").contains(info.name), "the file has a tensor ", info.name, " the manifest does not");
      const json& t = entry.at("tensors").at(info.name);
      require(t.value("dtype", json()) == std::string(dtype_name(info.dtype)) &&
                  t.value("shape", json()) == json(info.shape),
              "tensor ", info.name, " is not of the manifest's dtype and shape: ", dtype_name(info.dtype), " ",
              json(info.shape).dump());
    }
    for (const auto& [name, info] : entry.at("tensors").items()) file_.at(name);
  }

  std::string kind() const { return text_of(entry_, "kind"); }
  /// The class, function or formula that made the case.
  const std::string& reference() const { return reference_; }
  std::string summary() const { return entry_.contains("summary") ? text_of(entry_, "summary") : ""; }
  /// Where the case's file is: a model's directory.
  std::filesystem::path folder() const { return file_.path().parent_path(); }

  // ---------------------------------------------------------------------------------------------- options
  /// True if the manifest has the option; null is as if it were not there.
  bool given(const std::string& name) const {
    options_.insert(name);
    return params().contains(name) && !params().at(name).is_null();
  }
  /// The option as it is written.
  const json& object(const std::string& name) const {
    require(given(name), "option ", name, " is missing");
    return params().at(name);
  }
  template <class T>
  T need(const std::string& name) const {
    return to<T>(object(name), name);
  }
  template <class T>
  T option(const std::string& name, T otherwise) const {
    return given(name) ? need<T>(name) : otherwise;
  }
  std::string option(const std::string& name, const char* otherwise) const {
    return option(name, std::string(otherwise));
  }
  index_t size(const std::string& name) const { return need<index_t>(name); }
  /// Options that are known, and that change no result: how the reference computes, not what.
  void no_effect(std::initializer_list<const char*> names) const { options_.insert(names.begin(), names.end()); }
  /// The named options, where given, are the extents of a tensor; "" stands for one that is nobody's option.
  void check_shape(const std::string& tensor, std::initializer_list<const char*> names) const {
    const auto have = shape(tensor);
    require(have.size() == names.size(), "tensor ", tensor, " has ", have.size(), " dimensions, expected ",
            names.size());
    std::size_t i = 0;
    for (const std::string name : names) {
      if (!name.empty() && given(name))
        require(size(name) == have[i], "option ", name, " is ", size(name), ", but tensor ", tensor, " has ", have[i]);
      ++i;
    }
  }

  // ---------------------------------------------------------------------------------------------- tensors
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  std::vector<index_t> shape(const std::string& name) const { return file_.at(name).shape; }
  /// What follows `prefix` in the names of the tensors that begin with it, sorted.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> found;
    for (const TensorInfo& info : file_.tensors())
      if (info.name.rfind(prefix, 0) == 0) found.push_back(info.name.substr(prefix.size()));
    return found;
  }
  /// What the manifest says of a tensor in words; may be empty.
  std::string description(const std::string& name) const {
    const json& info = entry_.at("tensors").at(name);
    return info.contains("desc") && info.at("desc").is_string() ? info.at("desc").get<std::string>() : "";
  }
  Values values(const std::string& name) const {
    const TensorInfo& info = file_.at(name);
    used_.insert(name);
    std::vector<std::byte> raw(info.bytes());
    file_.read(info, raw.data());
    const auto widen = [&]<class T>(T) {
      std::vector<T> v(raw.size() / sizeof(T));
      if (!raw.empty()) std::memcpy(v.data(), raw.data(), raw.size());
      return Values(v.begin(), v.end());
    };
    if (info.dtype == DType::kF64) return widen(double{});
    if (info.dtype == DType::kF32) return widen(float{});
    if (info.dtype == DType::kI64) return widen(std::int64_t{});
    fail(file_.path().string(), ": tensor ", name, " is neither F64, F32 nor I64");
  }
  template <class T>
  std::vector<T> as(const std::string& name) const {
    std::vector<T> out;
    for (const double v : values(name)) out.push_back(static_cast<T>(v));
    return out;
  }
  std::vector<std::int32_t> integers(const std::string& name) const { return as<std::int32_t>(name); }
  double number(const std::string& name) const {
    const Values v = values(name);
    require(v.size() == 1, "tensor ", name, " has ", v.size(), " values, expected 1");
    return v[0];
  }
  /// True if the case has a result of that name, without its prefix.
  bool expects(const std::string& name) const { return has("f64/" + name) || has("f32/" + name) || has(name); }
  std::string expected_name(const std::string& name) const {
    return has("f64/" + name) ? "f64/" + name : has("f32/" + name) ? "f32/" + name : name;
  }
  Values expected(const std::string& name) const { return values(expected_name(name)); }
  /// What the manifest holds results for: float results once, under their name without a prefix. Sub-modules of the
  /// reference (f32/debug) have no mark. (relative_position is an input without its prefix.)
  std::set<std::string> results() const {
    std::set<std::string> names;
    for (const TensorInfo& t : file_.tensors())
      if (!input(t.name) && t.name.find("/debug/") == std::string::npos) names.insert(bare(t.name));
    return names;
  }
  /// A result that our code does not offer, and an input that only such results need: known, and not compared.
  void not_offered(const std::string& name) const { left_.insert(name); }
  void not_needed(const std::string& name) const { used_.insert(name); }
  const std::set<std::string>& left() const { return left_; }

  /// Compares with f64/<name>, at the mark of the precision.
  void compare(Score& score, bool wide, const std::string& name, const Values& mine) const {
    const std::string at = expected_name(name);
    const json& tensors = entry_.at("tensors");
    const json& info = tensors.contains("f32/" + name) ? tensors.at("f32/" + name) : tensors.at(at);
    double mark = 0;  // integers are exact
    if (info.at("dtype") != "I64") {
      const char* key = wide ? "atol_f64" : "atol_f32";
      require(info.contains(key) || kind().rfind("schedule/", 0) == 0, "tensor ", name, " has no ", key);
      mark = info.contains(key) ? to<double>(info.at(key), key) : 1e-12;
    }
    const Values theirs = values(at);
    require(mine.size() == theirs.size(), name, " has ", mine.size(), " values, expected ", theirs.size());
    score.compared.insert(name);
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const double difference = mine[i] == theirs[i] ? 0 : std::abs(mine[i] - theirs[i]);
      const double ratio = difference == 0 ? 0 : mark > 0 ? difference / mark : infinity;
      if (!(ratio <= score.ratio) || score.at == "-")
        score.ratio = ratio == ratio ? ratio : infinity, score.difference = difference, score.mark = mark,
        score.at = name;
    }
  }

  /// What of the case nobody knew: options, inputs, results. Empty if all is well.
  std::string complaints(const Score& score) const {
    std::string text;
    const auto add = [&](const std::string& what, const std::string& name, const std::string& why) {
      text += (text.empty() ? "" : "; ") + what + " " + name + " " + why;
    };
    for (const auto& [name, value] : params().items())
      if (options_.count(name) == 0) add("option", name, "is not known to " + kind());
    for (const TensorInfo& t : file_.tensors())
      if (input(t.name) && used_.count(t.name) == 0) add("input", t.name, "is not known to " + kind());
    for (const std::string& name : results())
      if (score.compared.count(name) == 0 && left_.count(name) == 0) add("result", name, "is not known to " + kind());
    return text;
  }

  template <class T>
  static T to(const json& value, const std::string& name) {
    if constexpr (std::is_same_v<T, bool>) {
      require(value.is_boolean(), "option ", name, " must be true or false, not ", value.dump());
      return value.get<bool>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      require(value.is_string(), "option ", name, " must be a string, not ", value.dump());
      return value.get<std::string>();
    } else if constexpr (std::is_floating_point_v<T>) {
      if (value == "inf" || value == "Infinity") return std::numeric_limits<T>::infinity();
      require(value.is_number(), "option ", name, " must be a number, not ", value.dump());
      return value.get<T>();
    } else {
      const bool whole = value.is_number() && value.get<double>() == std::floor(value.get<double>());
      require(whole, "option ", name, " must be a whole number, not ", value.dump());
      return static_cast<T>(value.get<double>());
    }
  }

 private:
  static std::string text_of(const json& entry, const char* key) {
    if (!entry.contains(key) && std::string_view(key) == "reference") return "";
    require(entry.contains(key) && entry.at(key).is_string(), "the case has no ", key);
    return entry.at(key).get<std::string>();
  }
  static std::string bare(const std::string& name) {
    return name.rfind("f32/", 0) == 0 || name.rfind("f64/", 0) == 0 ? name.substr(4) : name;
  }
  static bool input(const std::string& name) {
    return name.rfind("in/", 0) == 0 || name.rfind("cotangent/", 0) == 0 || name == "relative_position";
  }
  const json& params() const {
    static const json none = json::object();
    return entry_.contains("params") ? entry_.at("params") : none;
  }

  json entry_;
  SafetensorsReader file_;
  std::string reference_;
  mutable std::set<std::string> options_, used_, left_;
};

}  // namespace conformance

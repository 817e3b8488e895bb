// tools/conformance/case.hpp -- one case of a golden directory: its options, its tensors, and the comparison against
// marks. Read next: tools/conformance/layers.hpp, routing.hpp and optim.hpp, which run our code on the cases they know.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/io/safetensors.hpp"
#include "sparsemoe/params.hpp"

namespace conformance {

using namespace sparsemoe;
using nlohmann::json;
using Values = std::vector<double>;

/// Thrown where our code cannot express a case; the text says what it lacks.
struct Skip {
  std::string reason;
};

/// The worst tensor of a case, as a part of its pass mark; above 1 fails.
struct Score {
  double ratio = 0, difference = 0, mark = 0;
  std::string at = "-";
  std::set<std::string> compared;
};

class Case {
 public:
  Case(const std::filesystem::path& folder, const json& entry)
      : entry_(entry), file_(folder / entry.at("file").get<std::string>()) {}

  const json& entry() const { return entry_; }
  const json& params() const { return entry_.at("params"); }
  /// Where the case's file is: a model's directory.
  std::filesystem::path folder() const { return file_.path().parent_path(); }
  index_t size(const char* name) const { return params().at(name).get<index_t>(); }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  std::vector<index_t> shape(const std::string& name) const { return file_.at(name).shape; }

  Values values(const std::string& name) const {
    const TensorInfo& info = file_.at(name);
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

  /// What the manifest holds results for: float results once, under their name without a prefix. (relative_position is
  /// an input without its prefix.)
  std::set<std::string> results() const {
    std::set<std::string> names;
    for (const auto& [name, info] : entry_.at("tensors").items())
      if (name.rfind("in/", 0) != 0 && name.rfind("cotangent/", 0) != 0 && name.find("/debug/") == std::string::npos &&
          name != "relative_position")
        names.insert(bare(name));
    return names;
  }
  /// Compares with f64/<name>, at the mark of the precision.
  void compare(Score& score, bool wide, const std::string& name, const Values& mine) const {
    const std::string at = has("f64/" + name) ? "f64/" + name : name;
    const json& tensors = entry_.at("tensors");
    const json& info = tensors.contains("f32/" + name) ? tensors.at("f32/" + name) : tensors.at(at);
    double mark = 0;  // integers are exact
    if (info.at("dtype") != "I64") {
      const char* key = wide ? "atol_f64" : "atol_f32";
      mark = info.contains(key) ? info.at(key).get<double>() : 1e-12;
    }
    const Values theirs = values(at);
    require(mine.size() == theirs.size(), name, " has ", mine.size(), " values, expected ", theirs.size());
    score.compared.insert(name);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const double difference = std::abs(mine[i] - theirs[i]);
      const double ratio = difference == 0 ? 0 : mark > 0 ? difference / mark : std::numeric_limits<double>::infinity();
      if (!(ratio <= score.ratio) || score.at == "-")
        score.ratio = ratio == ratio ? ratio : std::numeric_limits<double>::infinity(), score.difference = difference,
        score.mark = mark, score.at = name;
    }
  }

 private:
  static std::string bare(const std::string& name) {
    return name.rfind("f32/", 0) == 0 || name.rfind("f64/", 0) == 0 ? name.substr(4) : name;
  }

  json entry_;
  SafetensorsReader file_;
};

/// A case being run in precision P (Fp64 or Fp32).
template <class P>
struct Run {
  using S = typename P::storage;
  const Case& c;
  Score& score;
  Cpu::Context ctx{1};

  std::vector<S> in(const std::string& name) const { return c.as<S>("in/" + name); }
  std::vector<S> cotangent(const std::string& name) const { return c.as<S>("cotangent/" + name); }
  template <class T>
  std::vector<T> cotangent_of(const std::string& name) const {
    return c.as<T>("cotangent/" + name);
  }
  template <class T>
  void compare(const std::string& name, const std::vector<T>& mine) const {
    c.compare(score, std::is_same_v<P, Fp64>, name, Values(mine.begin(), mine.end()));
  }
};

/// A leaf of our parameters, or item `item` of a stack, and the reference's name for it.
struct Link {
  std::string ours;
  index_t item;  // -1: the whole leaf
  std::string theirs;
  bool transposed;
};

/// A layer's weights, and gradients that accumulate.
template <class P, class Layer>
class Bound {
 public:
  using S = typename P::storage;
  using A = typename P::accumulate;
  typename Layer::template Params<const S> w;
  typename Layer::template Params<A> dw;

  Bound(const Run<P>& run, const Layer& layer, std::vector<Link> links)
      : w(layer.template params<const S>()), dw(layer.template params<A>()), run_(run), links_(std::move(links)) {
    index_t total = 0;
    list_ = list_params(w, &total);
    values_.resize(static_cast<std::size_t>(total));
    gradients_.resize(values_.size());
    bind_params(w, static_cast<const S*>(values_.data()));
    bind_params(dw, gradients_.data());
    for (const Link& link : links_) {
      const Place p = place(link);
      const std::vector<S> from = run.in(link.theirs);
      require(static_cast<index_t>(from.size()) == p.rows * p.cols, link.theirs, " has ", from.size(),
              " values, expected ", p.rows * p.cols);
      for (index_t i = 0; i < p.rows * p.cols; ++i)
        values_[static_cast<std::size_t>(p.offset + i)] = from[static_cast<std::size_t>(source(link, p, i))];
    }
  }
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;

  /// The gradients of the first `most` links against <prefix><theirs>.
  void compare(const std::string& prefix = "grad/", std::size_t most = 1000) const {
    for (const Link& link : links_) {
      if (most-- == 0) return;
      const Place p = place(link);
      std::vector<A> g(static_cast<std::size_t>(p.rows * p.cols));
      for (index_t i = 0; i < p.rows * p.cols; ++i)
        g[static_cast<std::size_t>(source(link, p, i))] = gradients_[static_cast<std::size_t>(p.offset + i)];
      run_.compare(prefix + link.theirs, g);
    }
  }
  std::vector<A>& gradients() { return gradients_; }
  /// A leaf whose values the reference keeps in another shape.
  void set(const std::string& ours, const std::vector<S>& from) {
    const Place p = place({ours, -1, "", false});
    require(static_cast<index_t>(from.size()) == p.cols, ours, " has ", p.cols, " values, got ", from.size());
    std::copy(from.begin(), from.end(), values_.begin() + p.offset);
  }
  std::vector<A> gradient(const std::string& ours) const {
    const Place p = place({ours, -1, "", false});
    return std::vector<A>(gradients_.begin() + p.offset, gradients_.begin() + p.offset + p.cols);
  }
  const std::vector<ParamInfo>& list() const { return list_; }

 private:
  struct Place {
    index_t offset, rows, cols;
  };
  Place place(const Link& link) const {
    for (const ParamInfo& p : list_)
      if (p.name == link.ours) {
        if (link.item < 0) return {p.offset, 1, p.shape.size()};
        return {p.offset + link.item * p.shape.rows * p.shape.cols, p.shape.rows, p.shape.cols};
      }
    fail("the layer has no parameter ", link.ours);
  }
  static index_t source(const Link& link, const Place& p, index_t i) {
    return link.transposed ? i % p.cols * p.rows + i / p.cols : i;
  }

  const Run<P>& run_;
  std::vector<Link> links_;
  std::vector<ParamInfo> list_;
  std::vector<S> values_;
  std::vector<A> gradients_;
};

}  // namespace conformance

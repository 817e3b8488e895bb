// SPDX-License-Identifier: Apache-2.0
// tools/conformance/bound.hpp -- a case being run in one precision, and a layer bound to the reference's parameters.
// Read next: tools/conformance/kinds.hpp.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "case.hpp"
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/params.hpp"

namespace conformance {

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
  /// Compares with the result of that name, if the case has it: what it has must all be compared (Case::complaints).
  template <class T>
  void compare(const std::string& name, const std::vector<T>& mine) const {
    if (!c.expects(name)) return;
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
      if (link.transposed)
        require(run.c.shape("in/" + link.theirs) == (std::vector<index_t>{p.cols, p.rows}), "tensor in/", link.theirs,
                " must be ", p.cols, " x ", p.rows);
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

// SPDX-License-Identifier: Apache-2.0
// testing/check_layer.hpp -- check_layer: a layer's hand-written backward against difference quotients of its forward.
// Everything is double. Outputs start as NaN, so a layer that adds to them is found; weight gradients start as numbers,
// so a layer that overwrites them is found. Needs no test framework: it returns a report.
// Read next: testing/check_router.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/arena.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/params.hpp"
#include "sparsemoe/random.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// How a backward pass hands over the gradient of an input: assigned (=), or added (+=: attention's bias, a decoder's
/// memory).
enum class Handover { assigned, added };

/// An input of a layer under test.
struct LayerInput {
  index_t rows = 0, cols = 0;
  Handover gradient = Handover::assigned;
};

struct LayerCheckOptions {
  double tolerance = 1e-6;
  double step = 1e-5;      // of the difference quotient
  double spread = 0.5;     // deviation of the random weights around their start
  std::uint64_t seed = 1;  // of inputs, weights and cotangent
  index_t most = 200;      // elements tried of an input or a parameter, evenly spaced
};

/// What check_layer found.
struct LayerReport {
  double worst = 0;   // largest |quotient - gradient| / (1e-3 + |gradient|)
  std::string where;  // of which element, for example "x0[12]" or "weight[3]"
  double quotient = 0, gradient = 0;
  bool assigned = true;     // every output and input gradient was written, and none was read
  bool accumulated = true;  // weight gradients (and added input gradients) were added to what was there
  std::string complaint;    // about the last two
  double tolerance = 0;
  index_t tried = 0;  // elements

  bool passed() const { return assigned && accumulated && tried > 0 && worst <= tolerance; }
  std::string text() const {
    return join(passed() ? "passed" : "FAILED", ": worst error ", worst, " at ", where, " (difference quotient ",
                quotient, ", gradient ", gradient, ") of ", tried, " elements, tolerance ", tolerance,
                complaint.empty() ? "" : "; ", complaint);
  }
};

namespace detail {

/// Values of type T on the host and in the memory of backend B.
template <class B, class T>
class Mirror {
 public:
  std::vector<T> host;
  Mirror() = default;
  Mirror(typename B::Context& ctx, std::vector<T> values) : host(std::move(values)), room_(host.size() * sizeof(T)) {
    push(ctx);
  }
  T* data() const { return room_.template as<T>(); }
  index_t size() const { return static_cast<index_t>(host.size()); }
  void push(typename B::Context& ctx) { B::copy_from_host(ctx, data(), host.data(), size()), B::synchronise(ctx); }
  void pull(typename B::Context& ctx) { B::copy_to_host(ctx, host.data(), data(), size()), B::synchronise(ctx); }
  void fill(typename B::Context& ctx, T value) {
    for (T& v : host) v = value;
    push(ctx);
  }
  void set(typename B::Context& ctx, index_t i, T value) {
    host[static_cast<std::size_t>(i)] = value;
    B::copy_from_host(ctx, data() + i, host.data() + i, 1);
    B::synchronise(ctx);
  }

 private:
  Buffer<typename B::Memory> room_;
};

inline std::vector<double> random_values(index_t n, std::uint64_t seed, std::uint32_t stream, double deviation = 1,
                                         double mean = 0) {
  std::vector<double> v(static_cast<std::size_t>(n));
  const Random random{seed, 0, stream};
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = mean + deviation * random.normal(Purpose::test, i);
  return v;
}

/// For what has no weights.
struct NoParams {
  template <class F>
  void visit(const std::string&, F&&) {}
};
template <class T, class Layer>
auto params_of(const Layer& layer) {
  if constexpr (requires { layer.template params<T>(); })
    return layer.template params<T>();
  else
    return NoParams{};
}

template <class B>
std::vector<Matrix<const double>> views(std::vector<Mirror<B, double>>& all, const std::vector<LayerInput>& shapes) {
  std::vector<Matrix<const double>> v;
  for (std::size_t i = 0; i < all.size(); ++i) v.emplace_back(all[i].data(), shapes[i].rows, shapes[i].cols);
  return v;
}
template <class B>
std::vector<Matrix<double>> writable(std::vector<Mirror<B, double>>& all, const std::vector<LayerInput>& shapes) {
  std::vector<Matrix<double>> v;
  for (std::size_t i = 0; i < all.size(); ++i) v.emplace_back(all[i].data(), shapes[i].rows, shapes[i].cols);
  return v;
}

}  // namespace detail

/// Differentiates L = <cotangent, y> + extra numerically, for every input and parameter, and compares.
///   forward(w, x, y)            w: Params<const double>, x: vector of Matrix<const double>, y: Matrix<double>;
///                               returns nothing, or the extra scalar (a routing loss)
///   backward(w, dw, x, dy, dx)  dw: Params<double>, dy: Matrix<const double>, dx: vector of Matrix<double>
/// They share their cache by capturing it; the arena is rewound after each forward, and after each backward. A layer
/// without parameters may be any object. B is the backend of ctx.
template <class B, class Layer, class Forward, class Backward>
LayerReport check_layer(typename B::Context& ctx, const Layer& layer, const std::vector<LayerInput>& inputs,
                        LayerInput output, const Forward& forward, const Backward& backward,
                        const LayerCheckOptions& options = {}) {
  using Field = detail::Mirror<B, double>;
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  LayerReport report;
  report.tolerance = options.tolerance;

  auto w = detail::params_of<const double>(layer);
  auto dw = detail::params_of<double>(layer);
  index_t total = 0;
  const std::vector<ParamInfo> list = list_params(w, &total);
  Field weights(ctx, std::vector<double>(static_cast<std::size_t>(total)));
  Field gradients(ctx, std::vector<double>(static_cast<std::size_t>(total)));
  for (std::size_t p = 0; p < list.size(); ++p) {
    const double mean = list[p].init.kind == Init::Kind::one ? 1 : 0;
    const auto start = detail::random_values(list[p].shape.size(), options.seed, 100 + static_cast<std::uint32_t>(p),
                                             options.spread, mean);
    std::copy(start.begin(), start.end(), weights.host.begin() + list[p].offset);
  }
  weights.push(ctx);
  bind_params(w, static_cast<const double*>(weights.data()));
  bind_params(dw, gradients.data());

  std::vector<Field> x, dx;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    x.emplace_back(ctx,
                   detail::random_values(inputs[i].rows * inputs[i].cols, options.seed, static_cast<std::uint32_t>(i)));
    dx.emplace_back(ctx, std::vector<double>(x.back().host.size()));
  }
  Field y(ctx, std::vector<double>(static_cast<std::size_t>(output.rows * output.cols)));
  Field cotangent(ctx, detail::random_values(y.size(), options.seed, 99));
  const Matrix<double> y_view(y.data(), output.rows, output.cols);
  const Matrix<const double> dy_view(cotangent.data(), output.rows, output.cols);

  ctx.arena.poison(true);
  const auto run_forward = [&] {
    y.fill(ctx, nan);
    double extra = 0;
    if constexpr (std::is_void_v<decltype(forward(w, detail::views<B>(x, inputs), y_view))>)
      forward(w, detail::views<B>(x, inputs), y_view);
    else
      extra = forward(w, detail::views<B>(x, inputs), y_view);
    return extra;
  };
  const auto outputs = [&] {  // y, and the extra scalar behind it
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    const double extra = run_forward();
    y.pull(ctx);
    std::vector<double> all = y.host;
    all.push_back(extra);
    return all;
  };
  // Forward and backward with weight gradients that start as `start`; what is added to is taken off again.
  const auto differentiate = [&](double start) {
    typename Arena<typename B::Memory>::Scope scope(ctx.arena);
    run_forward();
    gradients.fill(ctx, start);
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i].fill(ctx, inputs[i].gradient == Handover::assigned ? nan : start);
    backward(w, dw, detail::views<B>(x, inputs), dy_view, detail::writable<B>(dx, inputs));
    gradients.pull(ctx);
    for (double& g : gradients.host) g -= start;
    for (std::size_t i = 0; i < dx.size(); ++i) {
      dx[i].pull(ctx);
      if (inputs[i].gradient == Handover::added)
        for (double& g : dx[i].host) g -= start;
    }
  };

  for (const double v : outputs())
    if (!std::isfinite(v) && report.assigned) {
      report.assigned = false;
      report.complaint = "the output is not finite: an element was left unwritten, or read before it was written";
    }
  differentiate(3);
  std::vector<std::vector<double>> before = {gradients.host};
  for (const auto& d : dx) before.push_back(d.host);
  differentiate(0);
  const auto same = [](double a, double b) { return std::abs(a - b) <= 1e-10 * (1 + std::abs(b)); };
  for (const ParamInfo& p : list)
    for (index_t i = p.offset; i < p.offset + p.shape.size() && report.accumulated; ++i)
      if (!same(before[0][static_cast<std::size_t>(i)], gradients.host[static_cast<std::size_t>(i)])) {
        report.accumulated = false;
        report.complaint += join(report.complaint.empty() ? "" : "; ", "the gradient of ", p.name,
                                 " is not added (+=) to what was there");
      }
  for (std::size_t i = 0; i < dx.size(); ++i)
    for (std::size_t j = 0; j < dx[i].host.size(); ++j)
      if (!same(before[i + 1][j], dx[i].host[j])) {
        bool& flag = inputs[i].gradient == Handover::assigned ? report.assigned : report.accumulated;
        if (flag)
          report.complaint += join(report.complaint.empty() ? "" : "; ", "dx", i, "[", j, "] is not ",
                                   inputs[i].gradient == Handover::assigned ? "assigned (=)" : "added (+=)");
        flag = false;
      }

  const auto compare = [&](Field& values, index_t first, index_t count, const std::vector<double>& gradient,
                           const std::string& name) {
    const index_t stride = std::max<index_t>(1, (count + options.most - 1) / options.most);
    for (index_t i = 0; i < count; i += stride) {
      const double old = values.host[static_cast<std::size_t>(first + i)];
      values.set(ctx, first + i, old + options.step);
      const std::vector<double> up = outputs();
      values.set(ctx, first + i, old - options.step);
      const std::vector<double> down = outputs();
      values.set(ctx, first + i, old);
      // Differences first, sum after: what the element does not touch adds no rounding error.
      double change = up.back() - down.back();
      for (std::size_t j = 0; j + 1 < up.size(); ++j) change += cotangent.host[j] * (up[j] - down[j]);
      const double quotient = change / (2 * options.step), g = gradient[static_cast<std::size_t>(first + i)];
      const double error = std::abs(quotient - g) / (1e-3 + std::abs(g));
      ++report.tried;
      if (!(error <= report.worst)) {
        report.worst = error == error ? error : std::numeric_limits<double>::infinity();
        report.where = join(name, "[", i, "]");
        report.quotient = quotient;
        report.gradient = g;
      }
    }
  };
  for (std::size_t i = 0; i < x.size(); ++i) compare(x[i], 0, x[i].size(), dx[i].host, join("x", i));
  for (const ParamInfo& p : list) compare(weights, p.offset, p.shape.size(), gradients.host, p.name);
  ctx.arena.poison(false);
  return report;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// testing/stack_bench.hpp -- a router's StackLoss over two sparse layers: its slopes against difference quotients of
// its value, of the scores and weights it is given and of everything behind them. Read next: testing/check_router.hpp.
#pragma once

#include <algorithm>
#include <vector>

#include "sparsemoe/nn/stack_loss.hpp"
#include "sparsemoe/testing/router_bench.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace detail {

template <class RouterType, class B>
class StackBench {
 public:
  using Bench = RouterBench<RouterType, B>;
  using Spec = typename Bench::Spec;
  using Layer = typename Bench::Layer;
  using Cache = typename Layer::Cache;
  using Context = typename B::Context;
  using Traits = RouterTraits<RouterType>;

  StackBench(const RouterType& router, const RouterCheckOptions& options, const MoeConfig& config)
      : o_(options), c_(config), layers_{Layer(config, router), Layer(config, router)} {}

  /// check_layer of two sparse layers, one after the other, and of the loss over both.
  LayerReport gradient(const RouterBatch& b, const LayerCheckOptions& options) const {
    Context ctx(1);
    Pass pass(ctx, *this, b);
    const index_t n = b.count(), d = o_.width;
    std::vector<LayerInput> inputs = {{n, d}};
    if (pooled()) inputs.push_back({b.sentences, d, Handover::added});
    const auto forward = [&](const auto& w, const std::vector<Matrix<const double>>& x, Matrix<double> y) {
      pass.forward(w, x[0], y, pooled() ? x[1] : Matrix<const double>{});
      pass.apply();
      return layers_.first.weighted_loss(layers_.first.statistics(ctx, pass.first)) +
             layers_.second.weighted_loss(layers_.second.statistics(ctx, pass.second));
    };
    const auto backward = [&](const auto& w, auto& dw, const std::vector<Matrix<const double>>& x,
                              Matrix<const double> dy, const std::vector<Matrix<double>>& dx) {
      pass.backward(w, dw, x[0], dy, dx[0], pooled() ? dx[1] : Matrix<double>{});
    };
    return check_layer<B>(ctx, layers_, inputs, {n, d}, forward, backward, options);
  }

  /// What the loss says of d loss / d score (coefficient) and d loss / d weight (dcombine), element by element: a slope
  /// that is off by the same number for all experts moves no logit of a softmax, and gradient() cannot see it.
  LayerReport slopes(const RouterBatch& b) const {
    Context ctx(1);
    Pass pass(ctx, *this, b);
    const index_t n = b.count(), d = o_.width;
    auto w = layers_.template params<const double>();
    index_t total = 0;
    list_params(w, &total);
    const Mirror<B, double> weights(ctx, random_values(total, o_.seed, 4, 0.5)), x(ctx, b.x), pool(ctx, b.pool);
    Mirror<B, double> y(ctx, std::vector<double>(b.x.size()));
    bind_params(w, static_cast<const double*>(weights.data()));
    pass.forward(w, {x.data(), n, d}, {y.data(), n, d}, {pool.data(), b.sentences, d});

    LayerReport replaced, added;  // the loss in the place of the layer's own, or beside it
    replaced.tolerance = added.tolerance = 1e-6;
    const Before before(ctx, pass);
    pass.apply();
    const Before after(ctx, pass);
    for (const int l : {0, 1}) {
      Cache& c = pass.cache(l);
      const auto units = fetch<B>(ctx, c.weight, c.units);
      const auto dcombine = fetch<B>(ctx, c.dcombine.data, c.dcombine.size());
      const auto slot = fetch<B>(ctx, c.slot, n * layers_.first.top_k());
      if (by_score()) {
        const index_t stride = std::max<index_t>(1, c.scores.size() / 40);
        for (index_t i = 0; i < c.scores.size(); i += stride) {
          const index_t u = i / c.scores.cols, e = i % c.scores.cols;
          const index_t row = c.scope > 0 ? u / c.scope : 0;
          const auto at = static_cast<std::size_t>(row * c.scores.cols + e);
          const double count = units[static_cast<std::size_t>(u)], said = count * after.coefficient[l][at];
          const double quotient = pass.quotient(before, c.scores.row(u).data + e);
          const std::string where = join("coefficient[", e, "] of layer ", l, ", score of expert ", e, " for unit ", u);
          note(replaced, where, quotient, said);
          note(added, where, quotient, said - count * before.coefficient[l][at]);
        }
      }
      for (index_t i = 0; i < static_cast<index_t>(dcombine.size()); ++i) {
        const index_t t = i / layers_.first.top_k(), k = i % layers_.first.top_k();
        if (slot[static_cast<std::size_t>(k * n + t)] < 0) continue;
        const double quotient = c_.balance_coefficient * pass.quotient(before, c.unmasked + i);
        for (LayerReport* r : {&replaced, &added})
          note(*r, join("dcombine(", t, ", ", k, ") of layer ", l), quotient, dcombine[static_cast<std::size_t>(i)]);
      }
    }
    return replaced.worst <= added.worst ? replaced : added;
  }

 private:
  struct Layers {
    Layer first, second;
    template <class T>
    struct Params {
      typename Layer::template Params<T> first, second;
      template <class F>
      void visit(const std::string& prefix, F&& f) {
        first.visit(prefix + "first.", f);
        second.visit(prefix + "second.", f);
      }
    };
    template <class T>
    Params<T> params() const {
      return {first.template params<T>(), second.template params<T>()};
    }
  };
  /// The slopes and losses of both layers.
  struct Before;
  /// Both layers over one batch.
  struct Pass {
    Context& ctx;
    const StackBench& bench;
    Cache first, second;
    Solo solo;
    TokenMirror<B> tokens;
    Mirror<B, double> between, dbetween;
    Matrix<double> middle, dmiddle;

    Pass(Context& context, const StackBench& of, const RouterBatch& b)
        : ctx(context),
          bench(of),
          tokens(context, b),
          between(context, std::vector<double>(b.x.size())),
          dbetween(context, std::vector<double>(b.x.size())),
          middle(between.data(), b.count(), b.width),
          dmiddle(dbetween.data(), b.count(), b.width) {
      ctx.training = true;
      ctx.random = {of.o_.seed, 2, 3};
    }
    Cache& cache(int l) { return l == 0 ? first : second; }
    template <class W>
    void forward(const W& w, Matrix<const double> x, Matrix<double> y, Matrix<const double> pool) {
      bench.layers_.first.forward(ctx, w.first, tokens.view, x, middle, first, solo, pool);
      bench.layers_.second.forward(ctx, w.second, tokens.view, middle.as_const(), y, second, solo, pool);
    }
    template <class W, class G>
    void backward(const W& w, G& g, Matrix<const double> x, Matrix<const double> dy, Matrix<double> dx,
                  Matrix<double> dpool) {
      bench.layers_.second.backward(ctx, w.second, g.second, tokens.view, middle.as_const(), dy, dmiddle, second, 1,
                                    dpool);
      bench.layers_.first.backward(ctx, w.first, g.first, tokens.view, x, dmiddle.as_const(), dx, first, 1, dpool);
    }
    void apply() {
      const std::vector<SparseLayer<Spec>> all = {{&bench.layers_.first, &first}, {&bench.layers_.second, &second}};
      RouterType::StackLoss::template apply<Spec>(ctx, tokens.view, all, solo);
    }
    /// The loss over both layers where *value is another, from the state that the forward pass left.
    double loss_at(const Before& before, double* value, double other) {
      typename Arena<typename B::Memory>::Scope scope(ctx.arena);
      const auto dcombine = {first.dcombine, second.dcombine};
      before.restore(ctx, *this);
      B::copy_from_host(ctx, value, &other, 1);
      apply();
      first.dcombine = dcombine.begin()[0], second.dcombine = dcombine.begin()[1];
      return fetch<B>(ctx, first.balance, 1)[0] + fetch<B>(ctx, second.balance, 1)[0];
    }
    /// (loss(+h) - loss(-h)) / 2h of an element of what the loss is given; the element is put back.
    double quotient(const Before& before, double* value) {
      constexpr double h = 1e-5;
      const double old = fetch<B>(ctx, value, 1)[0];
      const double up = loss_at(before, value, old + h), down = loss_at(before, value, old - h);
      B::copy_from_host(ctx, value, &old, 1);
      B::synchronise(ctx);
      return (up - down) / (2 * h);
    }
  };
  struct Before {
    std::vector<double> coefficient[2], balance[2];
    Before(Context& ctx, Pass& pass) {
      for (const int l : {0, 1}) {
        Cache& c = pass.cache(l);
        coefficient[l] = fetch<B>(ctx, c.coefficient, c.scores.cols * RoutingLosses<Spec>::scopes(c, c.units));
        balance[l] = fetch<B>(ctx, c.balance, 1);
      }
    }
    void restore(Context& ctx, Pass& pass) const {
      for (const int l : {0, 1}) {
        Cache& c = pass.cache(l);
        B::copy_from_host(ctx, c.coefficient, coefficient[l].data(), static_cast<index_t>(coefficient[l].size()));
        B::copy_from_host(ctx, c.balance, balance[l].data(), 1);
      }
    }
  };
  static void note(LayerReport& r, const std::string& where, double quotient, double said) {
    const double error = std::abs(quotient - said) / (1e-3 + std::abs(said));
    ++r.tried;
    if (error <= r.worst) return;
    r.worst = error == error ? error : std::numeric_limits<double>::infinity();
    r.where = where, r.quotient = quotient, r.gradient = said;
  }
  /// Where coefficient is read as the slope of the scores themselves.
  static constexpr bool by_score() {
    return Traits::learned && Traits::score == Score::softmax && !Traits::two_level &&
           Traits::balance != Balance::none && Traits::balance != Balance::importance;
  }
  bool pooled() const { return c_.external_pool && Traits::level == Level::sentence; }

  RouterCheckOptions o_;
  MoeConfig c_;
  Layers layers_;
};

}  // namespace detail
}  // namespace sparsemoe::inline SPARSEMOE_ABI

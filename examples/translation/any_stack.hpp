// SPDX-License-Identifier: Apache-2.0
// any_stack.hpp -- an encoder and a decoder whose router is chosen by name: one virtual call a stack and pass, with the
// statically composed Encoder<Spec> and Decoder<Spec> behind it. They stand wherever a stack type is asked for.
// Read next: translator_of.hpp.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/by_name.hpp"
#include "sparsemoe/model/encoder_decoder.hpp"
#include "sparsemoe/nn/soft_moe.hpp"

namespace nmt {

namespace moe = sparsemoe;

/// The policies of this program's stacks, but for the router.
template <class Precision_, class Router_>
struct StackSpec : moe::SpecDefaults {
  using Precision = Precision_;
  using Backend = moe::Cpu;
  using Collective = moe::Solo;
  using Router = Router_;
};

/// What both stacks have.
template <class Precision_>
struct AnyStackTypes {
  using P = Precision_;
  using B = moe::Cpu;
  using Collective = moe::Solo;
  using Context = B::Context;
  using S = typename P::storage;
  using A = typename P::accumulate;
  using R = typename P::router;
  using WeightVisitor = std::function<void(const std::string&, moe::Tensor<const S>&, const moe::Leaf&)>;
  using GradientVisitor = std::function<void(const std::string&, moe::Tensor<A>&, const moe::Leaf&)>;
};

template <class Precision_>
class AnyEncoder : public AnyStackTypes<Precision_> {
 public:
  static constexpr moe::InStack kind = moe::InStack::encoder;
  using Types = AnyStackTypes<Precision_>;
  using typename Types::A, typename Types::Context, typename Types::Collective, typename Types::S;

  template <class Spec>
  static AnyEncoder make(const moe::StackConfig& config, const typename Spec::Router& router) {
    AnyEncoder any;
    any.stack_ = std::make_unique<Of<Spec>>(config, router);
    return any;
  }
  template <class F>
  void visit_weights(const std::string& prefix, F&& f) {
    stack_->visit_weights(prefix, [&](const std::string& n, auto& t, const moe::Leaf& leaf) { f(n, t, leaf); });
  }
  template <class F>
  void visit_gradients(const std::string& prefix, F&& f) {
    stack_->visit_gradients(prefix, [&](const std::string& n, auto& t, const moe::Leaf& leaf) { f(n, t, leaf); });
  }
  void forward(Context& ctx, const moe::Tokens& tokens, moe::Matrix<const S> x, moe::Matrix<S> y, Collective& comm) {
    stack_->forward(ctx, tokens, x, y, comm);
  }
  void backward(Context& ctx, const moe::Tokens& tokens, moe::Matrix<const S> dy, moe::Matrix<S> dx, double scale) {
    stack_->backward(ctx, tokens, dy, dx, scale);
  }
  std::vector<moe::LayerStatistics> statistics(Context& ctx) const { return stack_->statistics(ctx); }
  void set_hash_table(const std::int32_t* table) { stack_->set_hash_table(table); }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual void visit_weights(const std::string&, const typename Types::WeightVisitor&) = 0;
    virtual void visit_gradients(const std::string&, const typename Types::GradientVisitor&) = 0;
    virtual void forward(Context&, const moe::Tokens&, moe::Matrix<const S>, moe::Matrix<S>, Collective&) = 0;
    virtual void backward(Context&, const moe::Tokens&, moe::Matrix<const S>, moe::Matrix<S>, double) = 0;
    virtual std::vector<moe::LayerStatistics> statistics(Context&) const = 0;
    virtual void set_hash_table(const std::int32_t*) = 0;
  };
  template <class Spec>
  struct Of final : Base {
    moe::Encoder<Spec> stack;
    Of(const moe::StackConfig& config, const typename Spec::Router& router) : stack(config) {
      stack.set_router(router);
    }
    void visit_weights(const std::string& prefix, const typename Types::WeightVisitor& f) override {
      stack.visit_weights(prefix, f);
    }
    void visit_gradients(const std::string& prefix, const typename Types::GradientVisitor& f) override {
      stack.visit_gradients(prefix, f);
    }
    void forward(Context& ctx, const moe::Tokens& t, moe::Matrix<const S> x, moe::Matrix<S> y,
                 Collective& comm) override {
      stack.forward(ctx, t, x, y, comm);
    }
    void backward(Context& ctx, const moe::Tokens& t, moe::Matrix<const S> dy, moe::Matrix<S> dx,
                  double scale) override {
      stack.backward(ctx, t, dy, dx, scale);
    }
    std::vector<moe::LayerStatistics> statistics(Context& ctx) const override { return stack.statistics(ctx); }
    void set_hash_table(const std::int32_t* table) override {
      if constexpr (moe::reads_vocabulary_table<typename Spec::Router>) stack.set_router(typename Spec::Router{table});
    }
  };
  std::unique_ptr<Base> stack_;
};

template <class Precision_>
class AnyDecoder : public AnyStackTypes<Precision_> {
 public:
  static constexpr moe::InStack kind = moe::InStack::decoder;
  using Types = AnyStackTypes<Precision_>;
  using typename Types::A, typename Types::Context, typename Types::Collective, typename Types::S, typename Types::R;
  using Memory = moe::EncoderMemory<Precision_>;

  template <class Spec>
  static AnyDecoder make(const moe::StackConfig& config, const typename Spec::Router& router) {
    AnyDecoder any;
    any.stack_ = std::make_unique<Of<Spec>>(config, router);
    return any;
  }
  template <class F>
  void visit_weights(const std::string& prefix, F&& f) {
    stack_->visit_weights(prefix, [&](const std::string& n, auto& t, const moe::Leaf& leaf) { f(n, t, leaf); });
  }
  template <class F>
  void visit_gradients(const std::string& prefix, F&& f) {
    stack_->visit_gradients(prefix, [&](const std::string& n, auto& t, const moe::Leaf& leaf) { f(n, t, leaf); });
  }
  bool wants_pool() const { return stack_->wants_pool(); }
  void forward(Context& ctx, const moe::Tokens& tokens, const Memory& memory, moe::Matrix<const S> x, moe::Matrix<S> y,
               Collective& comm) {
    stack_->forward(ctx, tokens, memory, x, y, comm);
  }
  void backward(Context& ctx, const moe::Tokens& tokens, const Memory& memory, moe::Matrix<const S> dy,
                moe::Matrix<S> dx, moe::Matrix<S> dmemory, moe::Matrix<R> dpool, double scale) {
    stack_->backward(ctx, tokens, memory, dy, dx, dmemory, dpool, scale);
  }
  void begin(Context& ctx, const Memory& memory, moe::index_t sentences, moe::index_t room, moe::index_t beams) {
    stack_->begin(ctx, memory, sentences, room, beams);
  }
  void select(Context& ctx, const std::int32_t* rows, moe::index_t n) { stack_->select(ctx, rows, n); }
  void step(Context& ctx, const moe::Tokens& tokens, moe::Matrix<const S> x, moe::Matrix<S> y, Collective& comm) {
    stack_->step(ctx, tokens, x, y, comm);
  }
  std::vector<moe::LayerStatistics> statistics(Context& ctx) const { return stack_->statistics(ctx); }
  void set_hash_table(const std::int32_t* table) { stack_->set_hash_table(table); }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual void visit_weights(const std::string&, const typename Types::WeightVisitor&) = 0;
    virtual void visit_gradients(const std::string&, const typename Types::GradientVisitor&) = 0;
    virtual bool wants_pool() const = 0;
    virtual void forward(Context&, const moe::Tokens&, const Memory&, moe::Matrix<const S>, moe::Matrix<S>,
                         Collective&) = 0;
    virtual void backward(Context&, const moe::Tokens&, const Memory&, moe::Matrix<const S>, moe::Matrix<S>,
                          moe::Matrix<S>, moe::Matrix<R>, double) = 0;
    virtual void begin(Context&, const Memory&, moe::index_t, moe::index_t, moe::index_t) = 0;
    virtual void select(Context&, const std::int32_t*, moe::index_t) = 0;
    virtual void step(Context&, const moe::Tokens&, moe::Matrix<const S>, moe::Matrix<S>, Collective&) = 0;
    virtual std::vector<moe::LayerStatistics> statistics(Context&) const = 0;
    virtual void set_hash_table(const std::int32_t*) = 0;
  };
  template <class Spec>
  struct Of final : Base {
    moe::Decoder<Spec> stack;
    Of(const moe::StackConfig& config, const typename Spec::Router& router) : stack(config) {
      stack.set_router(router);
    }
    void visit_weights(const std::string& prefix, const typename Types::WeightVisitor& f) override {
      stack.visit_weights(prefix, f);
    }
    void visit_gradients(const std::string& prefix, const typename Types::GradientVisitor& f) override {
      stack.visit_gradients(prefix, f);
    }
    bool wants_pool() const override { return stack.wants_pool(); }
    void forward(Context& ctx, const moe::Tokens& t, const Memory& m, moe::Matrix<const S> x, moe::Matrix<S> y,
                 Collective& comm) override {
      stack.forward(ctx, t, m, x, y, comm);
    }
    void backward(Context& ctx, const moe::Tokens& t, const Memory& m, moe::Matrix<const S> dy, moe::Matrix<S> dx,
                  moe::Matrix<S> dm, moe::Matrix<R> dp, double scale) override {
      stack.backward(ctx, t, m, dy, dx, dm, dp, scale);
    }
    void begin(Context& ctx, const Memory& m, moe::index_t n, moe::index_t room, moe::index_t beams) override {
      stack.begin(ctx, m, n, room, beams);
    }
    void select(Context& ctx, const std::int32_t* rows, moe::index_t n) override { stack.select(ctx, rows, n); }
    void step(Context& ctx, const moe::Tokens& t, moe::Matrix<const S> x, moe::Matrix<S> y, Collective& comm) override {
      stack.step(ctx, t, x, y, comm);
    }
    std::vector<moe::LayerStatistics> statistics(Context& ctx) const override { return stack.statistics(ctx); }
    void set_hash_table(const std::int32_t* table) override {
      if constexpr (moe::reads_vocabulary_table<typename Spec::Router>) stack.set_router(typename Spec::Router{table});
    }
  };
  std::unique_ptr<Base> stack_;
};

/// The stack of a router's name. Throws Error for a name that is unknown, or that this stack cannot have.
template <template <class> class Any, class P>
Any<P> make_stack(const std::string& name, const moe::StackConfig& config) {
  return moe::with_router(name, [&](auto router) -> Any<P> {
    using R = decltype(router);
    if constexpr (moe::router_fits<R>(Any<P>::kind))
      return Any<P>::template make<StackSpec<P, R>>(config, router);
    else
      moe::fail(name, " routing cannot stand here");
  });
}

}  // namespace nmt

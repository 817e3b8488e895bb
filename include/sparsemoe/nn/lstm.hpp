// SPDX-License-Identifier: Apache-2.0
// nn/lstm.hpp -- a long short-term memory over (sequences, length) tokens: one product for the inputs of all time
// steps, one a step for the recurrence; optionally its output projected to fewer units (Sak et al. 2014), and fed back
// so. The state is carried from segment to segment (truncated back-propagation through time: no gradient enters it), so
// one step at a time is the same function as all at once. Read next: kernels/lstm.hpp, model/lstm_language_model.hpp.
#pragma once

#include <string>

#include "sparsemoe/kernels/lstm.hpp"
#include "sparsemoe/nn/linear.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What an LSTM remembers of `sequences` sequences between two segments: its outputs and its cells.
template <class P, class B>
class LstmState {
 public:
  using S = typename P::storage;
  using C = typename P::compute;
  LstmState() = default;
  /// All zero: the start of every sequence.
  LstmState(typename B::Context& ctx, index_t sequences, index_t outputs, index_t cells)
      : sequences_(sequences),
        outputs_(outputs),
        cells_(cells),
        output_(static_cast<std::size_t>(sequences * outputs) * sizeof(S)),
        cell_(static_cast<std::size_t>(sequences * cells) * sizeof(C)) {
    clear(ctx);
  }
  void clear(typename B::Context& ctx) {
    B::zero(ctx, output_.template as<S>(), sequences_ * outputs_);
    B::zero(ctx, cell_.template as<C>(), sequences_ * cells_);
  }
  Matrix<S> output() const { return {output_.template as<S>(), sequences_, outputs_}; }  // (B, R)
  Matrix<C> cell() const { return {cell_.template as<C>(), sequences_, cells_}; }        // (B, N)

 private:
  index_t sequences_ = 0, outputs_ = 0, cells_ = 0;
  Buffer<typename B::Memory> output_, cell_;
};

template <class P, class Backend>
struct Lstm {
  using B = Backend;
  using S = typename P::storage;
  using C = typename P::compute;
  using A = typename P::accumulate;
  using Context = typename B::Context;
  using State = LstmState<P, B>;

  index_t in = 0, cells = 0;
  index_t projection = 0;  // units the output is projected to, without a bias; 0: the cells are the output
  double forget_bias = 1;  // added to the forget gate's, so that memory is kept at first (Jozefowicz et al. 2015)

  index_t out() const { return projection > 0 ? projection : cells; }
  /// Multiply-adds of a token.
  double operations() const {
    return static_cast<double>((in + out()) * 4 * cells + (projection > 0 ? cells * projection : 0));
  }

  template <class T>
  struct Params {
    Tensor<T> input;       // (in, 4 N): i, f, g, o side by side
    Tensor<T> recurrent;   // (out, 4 N)
    Tensor<T> bias;        // (4 N)
    Tensor<T> projection;  // (N, out), or nothing
    Init init, init_projection;
    template <class F>
    void visit(const std::string& prefix, F&& f) {
      f(prefix + "input", input, init);
      f(prefix + "recurrent", recurrent, init);
      f(prefix + "bias", bias, Init::zero());
      if (projection.rank != 0) f(prefix + "projection", projection, init_projection);
    }
  };
  template <class T>
  Params<T> params() const {
    Params<T> p;
    p.input = matrix_of<T>(in, 4 * cells);
    p.recurrent = matrix_of<T>(out(), 4 * cells);
    p.bias = vector_of<T>(4 * cells);
    if (projection > 0) p.projection = matrix_of<T>(cells, projection);
    p.init = Init::fan_in(1, in + out());
    p.init_projection = Init::fan_in(1, cells);
    return p;
  }
  State state(Context& ctx, index_t sequences) const { return {ctx, sequences, out(), cells}; }

  struct Cache {
    Matrix<S> first_output;  // (B, R) the state before
    Matrix<C> first_cell;    // (B, N)
    Matrix<S> gates;         // (B L, 4 N) activations
    Matrix<C> cell;          // (B L, N)
    Matrix<S> m;             // (B L, N) what is projected; without a projection: the output
    Matrix<S> y;             // (B L, R)
  };

  /// x (B L, in) -> y (B L, out), row b L + i is step i of sequence b. The state goes on from where the segment before
  /// ended. Every token is taken: what comes after the end of a sequence changes the state, but nothing before it.
  /// Throws Error if a shape does not fit.
  void forward(Context& ctx, const Params<const S>& w, index_t length, Matrix<const S> x, Matrix<S> y, Cache& c,
               const State& state) const {
    const Matrix<S> last = state.output();
    const index_t rows = last.rows;
    require(length >= 1 && x.rows == rows * length && y.rows == x.rows && x.cols == in && y.cols == out(),
            "lstm: x is ", x.rows, " x ", x.cols, " and y ", y.rows, " x ", y.cols, ", expected ", rows,
            " sequences of ", length, " steps, widths ", in, " and ", out());
    auto& arena = ctx.arena;
    c.first_output = arena.template matrix<S>(rows, out());
    c.first_cell = arena.template matrix<C>(rows, cells);
    B::copy(ctx, c.first_output.data, last.data, last.size());
    B::copy(ctx, c.first_cell.data, state.cell().data, rows * cells);
    c.gates = arena.template matrix<S>(x.rows, 4 * cells);
    c.cell = arena.template matrix<C>(x.rows, cells);
    c.m = projection > 0 ? arena.template matrix<S>(x.rows, cells) : y;
    c.y = y;
    B::gemm(ctx, Op::none, Op::none, 1, x, w.input.matrix(), false, c.gates, AddBiasRow<P>{w.bias.data, c.gates});
    for (index_t i = 0; i < length; ++i) {
      const Matrix<S> gates = step(c.gates, i, length);
      const Matrix<const S> before = i > 0 ? step(y, i - 1, length) : c.first_output;
      const Matrix<const C> cell = i > 0 ? step(c.cell, i - 1, length) : c.first_cell;
      B::gemm(ctx, Op::none, Op::none, 1, before, w.recurrent.matrix(), true, gates);
      B::for_each_row(
          ctx, rows,
          LstmCellRow<P>{gates, cell, step(c.cell, i, length), step(c.m, i, length), static_cast<C>(forget_bias)},
          cells * 32);
      if (projection > 0)
        B::gemm(ctx, Op::none, Op::none, 1, step(c.m, i, length).as_const(), w.projection.matrix(), false,
                step(y, i, length));
    }
    B::for_each_row(ctx, rows, CopyRows<S>{step(y, length - 1, length), last}, out());
    B::for_each_row(ctx, rows, CopyRows<C>{step(c.cell, length - 1, length), state.cell()}, cells);
  }

  /// dw +=, dx =. The state before the segment is a constant.
  void backward(Context& ctx, const Params<const S>& w, const Params<A>& dw, index_t length, Matrix<const S> x,
                Matrix<const S> dy, Matrix<S> dx, const Cache& c) const {
    auto& arena = ctx.arena;
    typename Arena<typename B::Memory>::Scope scope(arena);
    const index_t rows = c.first_output.rows;
    const Matrix<S> dgates = arena.template matrix<S>(x.rows, 4 * cells);
    const Matrix<S> dout = arena.template matrix<S>(x.rows, out());  // of the outputs, both ways they are used
    const Matrix<S> later = arena.template matrix<S>(rows, out());   // what the next step asks of this one
    const Matrix<S> dm = arena.template matrix<S>(rows, cells);
    const Matrix<C> dcell = arena.template matrix<C>(rows, cells);
    B::zero(ctx, later.data, later.size());
    B::zero(ctx, dcell.data, dcell.size());
    for (index_t i = length; i-- > 0;) {
      const Matrix<S> d = step(dout, i, length), dg = step(dgates, i, length);
      B::for_each_row(ctx, rows, AddRows<S, C>{step(dy, i, length), later, d}, out());
      if (projection > 0) B::gemm(ctx, Op::none, Op::transpose, 1, d.as_const(), w.projection.matrix(), false, dm);
      const Matrix<const C> before = i > 0 ? step(c.cell, i - 1, length) : c.first_cell;
      B::for_each_row(ctx, rows,
                      LstmCellBackwardRow<P>{projection > 0 ? dm : d, step(c.gates, i, length), before,
                                             step(c.cell, i, length), dcell, dg},
                      cells * 32);
      if (i > 0) B::gemm(ctx, Op::none, Op::transpose, 1, dg.as_const(), w.recurrent.matrix(), false, later);
    }
    const Matrix<S> before = arena.template matrix<S>(x.rows, out());
    B::for_each_row(ctx, x.rows, OutputBeforeRow<S>{c.y, c.first_output, length, before}, out());
    B::gemm(ctx, Op::transpose, Op::none, 1, x, dgates.as_const(), true, dw.input.matrix());
    B::gemm(ctx, Op::transpose, Op::none, 1, before.as_const(), dgates.as_const(), true, dw.recurrent.matrix());
    add_column_sums<B>(ctx, x.rows, 4 * cells, ElementTerm<S, A>{dgates}, dw.bias.data);
    if (projection > 0)
      B::gemm(ctx, Op::transpose, Op::none, 1, c.m.as_const(), dout.as_const(), true, dw.projection.matrix());
    B::gemm(ctx, Op::none, Op::transpose, 1, dgates.as_const(), w.input.matrix(), false, dx);
  }

 private:
  /// The rows of step i: (B, cols) of a (B L, cols).
  template <class T>
  static Matrix<T> step(Matrix<T> m, index_t i, index_t length) {
    return {m.data + i * m.stride, m.rows / length, m.cols, length * m.stride};
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

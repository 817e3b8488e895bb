// kernels/elementwise.hpp -- functors of one index: add, convert, scale, dropout, and the activation policies.
// Each is a trivially copyable struct with a const call operator, run by Backend::for_each_index on either device.
// Read next: kernels/rows.hpp.
#pragma once

#include "sparsemoe/math.hpp"
#include "sparsemoe/random.hpp"
#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// y += x
template <class T, class U, class C>
struct AddTo {
  const T* x;
  U* y;
  SPARSEMOE_HD void operator()(index_t i) const { y[i] = U(C(y[i]) + C(x[i])); }
};
/// y = scale * x, converted
template <class T, class U, class C>
struct ScaleInto {
  const T* x;
  U* y;
  C scale;
  SPARSEMOE_HD void operator()(index_t i) const { y[i] = U(C(x[i]) * scale); }
};
/// y = a + b
template <class T, class C>
struct Sum {
  const T *a, *b;
  T* y;
  SPARSEMOE_HD void operator()(index_t i) const { y[i] = T(C(a[i]) + C(b[i])); }
};

/// Inverted dropout of four values a draw: y = x / (1 - p) where the draw is at least p, else 0 (or y += that). The mask
/// is never stored; backward draws it again. Run over ceil(n / 4) indices.
template <class T, class C>
struct Dropout4 {
  const T* x;
  T* y;
  index_t n;
  float p;
  Random random;
  Purpose purpose;
  bool add = false;  // y += instead of y =
  SPARSEMOE_HD void operator()(index_t quad) const {
    const Draw4 d = random.draw4(purpose, static_cast<std::uint64_t>(quad));
    const C keep = C(1) / C(1.0f - p);
    for (index_t i = 0; i < 4 && 4 * quad + i < n; ++i) {
      const C v = to_unit(d.v[i]) >= p ? C(x[4 * quad + i]) * keep : C(0);
      y[4 * quad + i] = T(add ? C(y[4 * quad + i]) + v : v);
    }
  }
};

// Activations. `value` and `derivative` are of the pre-activation; from_output says that derivative(value) is the same
// as derivative(pre-activation), so that the pre-activation need not be kept.
struct Relu {
  static constexpr bool gated = false, from_output = true;
  static constexpr const char* name = "relu";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return x > C(0) ? x : C(0);
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    return x > C(0) ? C(1) : C(0);
  }
};
/// x Phi(x)
struct Gelu {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "gelu";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return C(0.5) * x * (C(1) + std::erf(x * C(0.70710678118654752)));
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    return C(0.5) * (C(1) + std::erf(x * C(0.70710678118654752))) + x * C(0.39894228040143268) * math::exp(C(-0.5) * x * x);
  }
};
/// The tanh form (gelu_new of the T5 family).
struct GeluTanh {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "gelu_tanh";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return C(0.5) * x * (C(1) + math::tanh(C(0.79788456080286536) * (x + C(0.044715) * x * x * x)));
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    const C t = math::tanh(C(0.79788456080286536) * (x + C(0.044715) * x * x * x));
    return C(0.5) * (C(1) + t) + C(0.5) * x * (C(1) - t * t) * C(0.79788456080286536) * (C(1) + C(0.134145) * x * x);
  }
};
/// x sigmoid(x)
struct Silu {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "silu";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return x * math::sigmoid(x);
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    const C s = math::sigmoid(x);
    return s * (C(1) + x * (C(1) - s));
  }
};
struct Sigmoid {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "sigmoid";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return math::sigmoid(x);
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    const C s = math::sigmoid(x);
    return s * (C(1) - s);
  }
};
struct Tanh {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "tanh";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return math::tanh(x);
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    const C t = math::tanh(x);
    return C(1) - t * t;
  }
};
/// x sigmoid(1.702 x)
struct QuickGelu {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "quick_gelu";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return x * math::sigmoid(C(1.702) * x);
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    const C s = math::sigmoid(C(1.702) * x);
    return s * (C(1) + C(1.702) * x * (C(1) - s));
  }
};
struct Softplus {
  static constexpr bool gated = false, from_output = false;
  static constexpr const char* name = "softplus";
  template <class C>
  SPARSEMOE_HD static C value(C x) {
    return math::log1p_exp(x);
  }
  template <class C>
  SPARSEMOE_HD static C derivative(C x) {
    return math::sigmoid(x);
  }
};
/// act(x wi) * (x wg): GEGLU, SwiGLU.
template <class Act>
struct Gated : Act {
  static constexpr bool gated = true, from_output = false;
};

/// y = act(x); dx = dy act'(x). For an activation on its own.
template <class Act, class T, class C>
struct Activate {
  const T* x;
  T* y;
  SPARSEMOE_HD void operator()(index_t i) const { y[i] = T(Act::value(C(x[i]))); }
};
template <class Act, class T, class C>
struct ActivateBackward {
  const T *x, *dy;
  T* dx;
  SPARSEMOE_HD void operator()(index_t i) const { dx[i] = T(C(dy[i]) * Act::derivative(C(x[i]))); }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

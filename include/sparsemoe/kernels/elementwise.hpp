// SPDX-License-Identifier: Apache-2.0
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

/// Inverted dropout, eight values a draw of 16 bits each: y = x / (1 - p) where the draw is at least p, else 0 (p is
/// rounded to 1/65536). The mask is never stored; backward draws it again. Run over ceil(n / 8) indices.
template <class T, class C>
struct Dropout8 {
  const T* x;
  T* y;
  index_t n;
  float p;
  Random random;
  Purpose purpose;
  SPARSEMOE_HD void operator()(index_t block) const {
    const Draw4 d = random.draw4(purpose, static_cast<std::uint64_t>(block));
    const auto least = static_cast<std::uint32_t>(p * 65536.0f);
    const C keep = C(1) / C(1.0f - p);
    const index_t first = 8 * block, count = n - first < 8 ? n - first : 8;
    for (index_t i = 0; i < count; ++i) {
      const std::uint32_t bits = (d.v[i / 2] >> (16 * (i % 2))) & 0xffffu;
      y[first + i] = T(C(x[first + i]) * (bits >= least ? keep : C(0)));
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
    return x <= C(0) ? C(0) : x;  // NaN stays
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
    return C(0.5) * (C(1) + std::erf(x * C(0.70710678118654752))) +
           x * C(0.39894228040143268) * math::exp(C(-0.5) * x * x);
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

// SPDX-License-Identifier: Apache-2.0
// hf/activation.hpp -- the activation that a config.json names, chosen at run time, so that a family is compiled once
// for all of them. Read next: kernels/elementwise.hpp.
#pragma once

#include <string>

#include "sparsemoe/hf/config.hpp"
#include "sparsemoe/kernels/elementwise.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// What transformers' ACT2FN has of the library's functions. gelu_tanh is gelu_new and gelu_pytorch_tanh there.
enum class Function { relu, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh };

/// An activation that is any of them (Spec::Activation). The choice is made once for a row, not for each number.
template <bool Gated>
struct AnyActivation {
  static constexpr bool gated = Gated, from_output = false, run_time = true;
  static constexpr const char* name = "any";
  Function function = Function::relu;

  template <class F>
  SPARSEMOE_HD void visit(F&& f) const {
    switch (function) {
      case Function::relu: return f(Relu{});
      case Function::gelu: return f(Gelu{});
      case Function::gelu_tanh: return f(GeluTanh{});
      case Function::quick_gelu: return f(QuickGelu{});
      case Function::silu: return f(Silu{});
      case Function::sigmoid: return f(Sigmoid{});
      default: return f(Tanh{});
    }
  }
};

/// The function of one of ACT2FN's names, which `key` of config.json has or implies. Throws FileError for another.
inline Function function_of(const Config& config, const std::string& key, const std::string& name) {
  constexpr Function functions[] = {Function::relu,       Function::gelu,      Function::gelu,      Function::gelu_tanh,
                                    Function::gelu_tanh,  Function::gelu_tanh, Function::gelu_tanh, Function::gelu_tanh,
                                    Function::quick_gelu, Function::silu,      Function::silu,      Function::sigmoid,
                                    Function::tanh};
  return functions[config.one_of(key, name,
                                 {"relu", "gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh",
                                  "gelu_fast", "gelu_accurate", "quick_gelu", "silu", "swish", "sigmoid", "tanh"})];
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

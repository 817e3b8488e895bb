// SPDX-License-Identifier: Apache-2.0
// tools/conformance/activation.hpp -- activations by transformers' names, chosen at run time so that a layer is
// compiled once for all of them. Read next: tools/conformance/layers.cpp.
#pragma once

#include <string>
#include <utility>

#include "case.hpp"
#include "sparsemoe/kernels/elementwise.hpp"

namespace conformance {

enum class Function { relu, gelu, gelu_tanh, quick_gelu, silu, sigmoid, tanh, softplus };

/// The names of transformers' ACT2FN that the library has a function for.
inline const std::map<std::string, Function>& functions() {
  static const std::map<std::string, Function> all = {
      {"relu", Function::relu},
      {"gelu", Function::gelu},
      {"gelu_python", Function::gelu},
      {"gelu_new", Function::gelu_tanh},
      {"gelu_pytorch_tanh", Function::gelu_tanh},
      {"gelu_python_tanh", Function::gelu_tanh},
      {"gelu_fast", Function::gelu_tanh},
      {"gelu_accurate", Function::gelu_tanh},
      {"quick_gelu", Function::quick_gelu},
      {"silu", Function::silu},
      {"swish", Function::silu},
      {"sigmoid", Function::sigmoid},
      {"tanh", Function::tanh},
      {"softplus", Function::softplus},
  };
  return all;
}
inline Function function_named(const std::string& name) {
  const auto at = functions().find(name);
  require(at != functions().end(), "there is no activation ", name);
  return at->second;
}
/// The activation that a text ends in, as t5_gated_gelu_new and "torch softplus" do: the longest such name.
inline Function function_in(const std::string& text) {
  std::string found;
  for (const auto& [name, f] : functions()) {
    const bool ends = text.size() >= name.size() && text.compare(text.size() - name.size(), name.size(), name) == 0;
    const bool whole = ends && (text.size() == name.size() ||
                                std::string("_ ").find(text[text.size() - name.size() - 1]) != std::string::npos);
    if (whole && name.size() > found.size()) found = name;
  }
  require(!found.empty(), "there is no activation in \"", text, "\"");
  return functions().at(found);
}
/// The activation of a case: an option, or what `otherwise` ends in.
inline Function function_of(const Case& c, const std::string& otherwise) {
  for (const char* option : {"act", "activation", "hidden_act", "dense_act_fn", "activation_function"})
    if (c.given(option)) return function_named(c.need<std::string>(option));
  return function_in(otherwise);
}

/// f(Function's own type)
template <class F>
decltype(auto) visit(Function function, F&& f) {
  switch (function) {
    case Function::relu: return f(Relu{});
    case Function::gelu: return f(Gelu{});
    case Function::gelu_tanh: return f(GeluTanh{});
    case Function::quick_gelu: return f(QuickGelu{});
    case Function::silu: return f(Silu{});
    case Function::sigmoid: return f(Sigmoid{});
    case Function::tanh: return f(Tanh{});
    default: return f(Softplus{});
  }
}
/// The layers of a case have one activation, which is set here before they run: the tool runs one case at a time.
template <bool Gated>
struct AnyActivation {
  static constexpr bool gated = Gated, from_output = false;
  static constexpr const char* name = "any";
  static inline Function function = Function::relu;
  template <class T>
  static T value(T x) {
    return visit(function, [&](auto f) { return decltype(f)::value(x); });
  }
  template <class T>
  static T derivative(T x) {
    return visit(function, [&](auto f) { return decltype(f)::derivative(x); });
  }
};

}  // namespace conformance

// SPDX-License-Identifier: Apache-2.0
// tools/conformance/kinds.hpp -- the kinds of cases, each group in a translation unit of its own that adds its kinds.
// Read next: tools/conformance/optim.cpp, the plainest.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "bound.hpp"

namespace conformance {

/// How a case of a kind is run in double and in float.
struct Kind {
  std::function<void(Run<Fp64>&)> wide;
  std::function<void(Run<Fp32>&)> narrow;
};
using Kinds = std::map<std::string, Kind>;

/// A row of a group's table: a kind, and the function template that runs it.
#define SPARSEMOE_KIND(name, function)                         \
  {                                                            \
    name, conformance::Kind { function<Fp64>, function<Fp32> } \
  }

void add_layers(Kinds&);
void add_attention(Kinds&);
void add_routing(Kinds&);
void add_noisy(Kinds&);
void add_switch_layers(Kinds&);
void add_top_k_blocks(Kinds&);
void add_optimisers(Kinds&);
void add_t5(Kinds&);
void add_switch_models(Kinds&);
void add_nllb(Kinds&);
void add_mixtral(Kinds&);

}  // namespace conformance

// SPDX-License-Identifier: Apache-2.0
// A router may say that it looks at later tokens; an encoder takes it, a decoder does not.
// expect: decoder: use a causal-safe router; this one looks at later tokens and cannot be decoded step by step
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/decoder.hpp"
#include "sparsemoe/model/encoder.hpp"
#include "sparsemoe/routers/top_k.hpp"

using namespace sparsemoe;

struct LooksAhead : TopK<2> {
  static constexpr bool causal_safe = false;
};
struct Spec : SpecDefaults {
  using Router = LooksAhead;
  using Precision = Fp32;
  using Backend = Cpu;
  using Collective = Solo;
};
#ifdef SHOULD_FAIL
using Stack = Decoder<Spec>;
#else
using Stack = Encoder<Spec>;
#endif
std::size_t size() { return sizeof(Stack); }

// SPDX-License-Identifier: Apache-2.0
// A stack names what its bundle of policies lacks.
// expect: spec: add  using Precision = (sparsemoe::Fp32, Bf16, Fp16 or Fp64)
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/encoder.hpp"
#include "sparsemoe/routers/switch.hpp"

using namespace sparsemoe;

struct Spec : SpecDefaults {
  using Router = Switch;
#ifndef SHOULD_FAIL
  using Precision = Fp32;
#endif
  using Backend = Cpu;
  using Collective = Solo;
};
std::size_t size() { return sizeof(Encoder<Spec>); }

// SPDX-License-Identifier: Apache-2.0
// A bundle of policies inherits what it does not choose itself.
// expect: spec: derive from SpecDefaults
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/encoder.hpp"
#include "sparsemoe/routers/switch.hpp"

using namespace sparsemoe;

#ifdef SHOULD_FAIL
struct Spec {
#else
struct Spec : SpecDefaults {
#endif
  using Router = Switch;
  using Precision = Fp32;
  using Backend = Cpu;
  using Collective = Solo;
};
std::size_t size() { return sizeof(Encoder<Spec>); }

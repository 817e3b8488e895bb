// SPDX-License-Identifier: Apache-2.0
// SentencePrefix scores the target so far: a decoder takes it, an encoder does not.
// expect: encoder: use Sentence in place of SentencePrefix; an encoder sees the whole sentence
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/model/decoder.hpp"
#include "sparsemoe/model/encoder.hpp"
#include "sparsemoe/routers/sentence.hpp"

using namespace sparsemoe;

struct Spec : SpecDefaults {
  using Router = SentencePrefix;
  using Precision = Fp32;
  using Backend = Cpu;
  using Collective = Solo;
};
#ifdef SHOULD_FAIL
using Stack = Encoder<Spec>;
#else
using Stack = Decoder<Spec>;
#endif
std::size_t size() { return sizeof(Stack); }

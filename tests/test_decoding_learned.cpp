// SPDX-License-Identifier: Apache-2.0
// test_decoding_learned.cpp -- decoding step by step gives the logits of the full forward pass for the routers whose
// evaluation is not their training: noise, balanced assignment and masks over the batch are gone, thresholds and plain
// scores choose. Read next: test_decoding.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/balanced.hpp"
#include "sparsemoe/routers/base.hpp"
#include "sparsemoe/routers/hierarchical.hpp"
#include "sparsemoe/routers/hierarchical_gshard.hpp"
#include "sparsemoe/routers/no_token_left_behind.hpp"
#include "sparsemoe/routers/sigmoid.hpp"
#include "sparsemoe/routers/sinkhorn.hpp"
#include "tests/decoding_body.hpp"

namespace {

using namespace decoding_body;

TEST_CASE("cached decoding equals the full pass: two levels, sigmoid scores, thresholds, BASE") {
  check_decoding<Hierarchical<2, 1, 2>>();
  check_decoding<HierarchicalGShard<2>>();
  check_decoding<SigmoidTopK<2>>();
  check_decoding<StrictlyBalanced>();
  check_decoding<Base>();
}
TEST_CASE("cached decoding equals the full pass: noisy top-k, no token left behind, Sinkhorn") {
  check_decoding<NoisyTopK<2>>();
  check_decoding<NoTokenLeftBehind>();
  check_decoding<Sinkhorn<2>>();
}

}  // namespace

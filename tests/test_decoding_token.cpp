// SPDX-License-Identifier: Apache-2.0
// test_decoding_token.cpp -- as test_decoding.cpp, for decoders that route tokens, or nothing.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/top_k.hpp"
#include "tests/decoding_body.hpp"

namespace {

using namespace decoding_body;

TEST_CASE("cached decoding equals the full pass: dense and token routing") {
  check_decoding<Dense>();
  check_decoding<TopK<2>>();
  check_decoding<Switch>();
  check_decoding<GShard<>>();
}

}  // namespace

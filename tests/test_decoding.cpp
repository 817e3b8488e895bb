// SPDX-License-Identifier: Apache-2.0
// test_decoding.cpp -- decoding step by step with kept keys and values gives the logits of the full forward pass, for
// every router in the decoder, and a sentence's logits do not depend on its neighbours in the batch, to the bit. Read
// next: include/sparsemoe/model/decoder.hpp, test_decoding_token.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "sparsemoe/routers/hash.hpp"
#include "sparsemoe/routers/sentence.hpp"
#include "sparsemoe/routers/task.hpp"
#include "tests/decoding_body.hpp"

namespace {

using namespace decoding_body;

/// Looks at the token before it: wrong unless a step knows the previous id.
struct Bigram : Hash {
  template <class T>
  SPARSEMOE_HD Choice<1> choose(Row<const T> p, const TokenInfo& info) const {
    return {{static_cast<std::int32_t>((info.id * 31 + (info.previous + 1) * 7 + info.position) % p.size())}};
  }
};

TEST_CASE("cached decoding equals the full pass: sentence and task routing") {
  check_decoding<Sentence>();
  check_decoding<SentencePrefix>();
  check_decoding<Task>();
  check_decoding<StaticTask>();
}
TEST_CASE("cached decoding equals the full pass: hash routing, also by the previous id and the position") {
  const auto table = random_hash_table(vocabulary, 4, 42);
  check_decoding<Hash>(Hash{table.data()});
  check_decoding<Bigram>();
}

}  // namespace

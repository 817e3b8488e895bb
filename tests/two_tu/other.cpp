// SPDX-License-Identifier: Apache-2.0
// The second translation unit of two_tu.
#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#if __has_include("sparsemoe/sparsemoe.hpp")
#include "sparsemoe/sparsemoe.hpp"
#endif

const char* message_of_the_other_unit() {
  static const sparsemoe::Error there("two");
  return there.what();
}

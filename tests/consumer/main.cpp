// SPDX-License-Identifier: Apache-2.0
// What a user's first file does: include the library, call it, link.
#include <cstdio>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#if __has_include("sparsemoe/sparsemoe.hpp")
#include "sparsemoe/sparsemoe.hpp"
#endif

int main() {
  try {
    sparsemoe::require(2 + 2 == 5, "expected 4, got ", 5);
  } catch (const sparsemoe::Error& error) {
    std::printf("sparsemoe %s: %s\n", SPARSEMOE_VERSION, error.what());
    return 0;
  }
  return 1;
}

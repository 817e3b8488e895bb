// SPDX-License-Identifier: Apache-2.0
// Two translation units include the library; the program links only if every definition is inline or a template.
#include <cstdio>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#if __has_include("sparsemoe/sparsemoe.hpp")
#include "sparsemoe/sparsemoe.hpp"
#endif

const char* message_of_the_other_unit();

int main() {
  const sparsemoe::Error here("one");
  std::printf("%s %s\n", here.what(), message_of_the_other_unit());
}

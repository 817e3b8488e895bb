// SPDX-License-Identifier: Apache-2.0
// translator_bf16.cpp -- the translator in bf16, with the router and the master weights in float.
#include "translator_of.hpp"

namespace nmt {
std::unique_ptr<Translator> make_bf16_translator(const TranslatorRequest& request) {
  return std::make_unique<TranslatorOf<sparsemoe::Bf16>>(request);
}
}  // namespace nmt

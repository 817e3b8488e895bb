// SPDX-License-Identifier: Apache-2.0
// translator_fp32.cpp -- the translator with everything in float.
#include "translator_of.hpp"

namespace nmt {
std::unique_ptr<Translator> make_fp32_translator(const TranslatorRequest& request) {
  return std::make_unique<TranslatorOf<sparsemoe::Fp32>>(request);
}
std::vector<sparsemoe::ParamInfo> model_leaves(const ModelFile& file) {
  return TranslatorOf<sparsemoe::Fp32>::leaves(file);
}
}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// commands/expert_options.cpp -- the functions of expert_options.hpp.
#include "../expert_options.hpp"

#include <cstdio>

#include "sparsemoe/io/short_text.hpp"

namespace nmt {

std::vector<Option> expert_options(ExpertOptions& o) {
  return {{.name = "--int8-experts",
           .to = &o.int8,
           .help = "Hold expert matrices in 8 bits with a scale an output channel: a quarter of the memory of fp32"},
          {.name = "--mapped-experts",
           .to = &o.mapped,
           .help = "Leave expert matrices in the checkpoint; the pages that are used are read as they are needed"}};
}

LoadedModel load_model(const fs::path& path, std::int64_t threads, const ExpertOptions& experts) {
  const char* option = experts.int8 ? "--int8-experts" : "--mapped-experts";
  moe::require(!(experts.int8 && experts.mapped), "--int8-experts and --mapped-experts: give one of them");
  const auto form = experts.int8     ? moe::WeightForm::int8
                    : experts.mapped ? moe::WeightForm::file
                                     : moe::WeightForm::plain;
  LoadedModel loaded = load_model(path, threads, form);
  if (form == moe::WeightForm::plain) return loaded;
  const moe::ExpertBytes bytes = loaded.translator->expert_bytes();
  moe::require(bytes.weights > 0, option, ": the model has no experts");
  const auto size = [](moe::index_t n) { return moe::short_number(static_cast<double>(n)) + "B"; };
  std::fprintf(stderr, "%s: %s expert weights take %s of memory instead of %s as %s%s\n", option,
               moe::short_number(static_cast<double>(bytes.weights)).c_str(), size(bytes.held).c_str(),
               size(bytes.plain).c_str(), loaded.file.model.precision.c_str(),
               experts.mapped ? "; they are read from the checkpoint" : "");
  return loaded;
}

}  // namespace nmt

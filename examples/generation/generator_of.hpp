// generator_of.hpp -- what stands behind Generator: a model of one family, in fp32. Read next: generator.hpp.
#pragma once

#include <algorithm>
#include <cstdio>

#include "generator.hpp"
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/infer/search.hpp"

namespace generation {

/// Whether texts may be computed at once: alone where what is found for one would depend on those beside it.
enum class Company { together, alone };

/// The model and the context it computes in.
template <class Model>
class GeneratorOf : public Generator {
 public:
  GeneratorOf(const moe::hf::Config& config, Model model, const moe::hf::NameMap& names, int threads, Company company)
      : ctx_(threads), model_(std::move(model)), company_(company) {
    special_ = moe::hf::SpecialTokens::of(config);
    const std::string warning = moe::hf::load_directory(ctx_, model_.weights, names, config.path().parent_path());
    if (!warning.empty()) std::fprintf(stderr, "warning: %s\n", warning.c_str());
    vocabulary_ = model_.config().vocabulary;
    parameters_ = model_.weights.count();
  }
  moe::SearchResult search(const std::vector<Ids>& texts, const moe::SearchOptions& options) override {
    if (company_ == Company::together) return search_together(texts, options);
    moe::SearchResult all;
    for (const Ids& text : texts) all.push_back(search_together({text}, options).front());
    return all;
  }

 private:
  moe::SearchResult search_together(const std::vector<Ids>& texts, const moe::SearchOptions& options) {
    std::size_t length = 0;
    for (const Ids& ids : texts) {
      moe::require(!ids.empty(), "generate: a text without tokens");
      for (const std::int32_t id : ids)
        moe::require(id >= 0 && id < vocabulary_, "generate: id ", id, " is outside of the vocabulary of ",
                     vocabulary_);
      length = std::max(length, ids.size());
    }
    const auto padding = std::max(special_.padding, 0);
    Ids ids(texts.size() * length, padding), task(texts.size(), 0);
    std::vector<std::uint8_t> valid(ids.size(), 0);
    for (std::size_t r = 0; r < texts.size(); ++r) {
      std::copy(texts[r].begin(), texts[r].end(), ids.begin() + static_cast<std::ptrdiff_t>(r * length));
      std::fill_n(valid.begin() + static_cast<std::ptrdiff_t>(r * length), texts[r].size(), std::uint8_t(1));
    }
    const moe::Tokens tokens{static_cast<moe::index_t>(texts.size()),
                             static_cast<moe::index_t>(length),
                             ids.data(),
                             valid.data(),
                             task.data(),
                             0,
                             nullptr};
    ctx_.arena.reset();
    return moe::search(ctx_, model_, comm_, tokens, options);
  }

  moe::Cpu::Context ctx_;
  Model model_;
  moe::Solo comm_;
  Company company_;
};

/// The visitor of hf::with_...().
struct MakeGenerator {
  const moe::hf::Config& config;
  int threads;
  Company company = Company::together;
  template <class Model>
  std::unique_ptr<Generator> operator()(Model& model, const moe::hf::NameMap& names) const {
    return std::make_unique<GeneratorOf<Model>>(config, std::move(model), names, threads, company);
  }
};

}  // namespace generation

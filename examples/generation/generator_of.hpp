// SPDX-License-Identifier: Apache-2.0
// generator_of.hpp -- what stands behind Generator: a model of one family, in fp32. Read next: generator.hpp.
#pragma once

#include <algorithm>

#include "generator.hpp"
#include "sparsemoe/backend/cpu.hpp"
#include "sparsemoe/comm/solo.hpp"
#include "sparsemoe/hf/checkpoint.hpp"
#include "sparsemoe/infer/search.hpp"
#include "sparsemoe/io/environment.hpp"
#include "sparsemoe/io/short_text.hpp"
#include "sparsemoe/io/terminal.hpp"

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
    if (!warning.empty()) moe::warn(warning);
    vocabulary_ = model_.config().vocabulary;
    parameters_ = model_.weights.count();
    decoder_only_ = moe::Search<Model>::decoder_only;
  }
  moe::SearchResult search(const std::vector<Ids>& texts, const moe::SearchOptions& options) override {
    if (company_ == Company::together) return search_together(texts, options);
    moe::SearchResult all;
    moe::SearchOptions own = options;
    for (const Ids& text : texts) {
      all.push_back(search_together({text}, own).front());
      if (own.lengths != nullptr) ++own.lengths;
    }
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
    require_memory(static_cast<double>(texts.size()), static_cast<double>(length), options);
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

  /// The least that a search takes: one layer's attention over the input, and the keys and values that are kept. Taking
  /// it in vain would end the program where the system hands out memory that it does not have.
  void require_memory(double texts, double length, const moe::SearchOptions& options) const {
    const auto& s = model_.config().decoder;
    const double layers = static_cast<double>(s.layers), heads = static_cast<double>(s.heads);
    const moe::index_t head = s.head_width > 0 ? s.head_width : s.width / s.heads;
    const double width = static_cast<double>(head * (s.kv_heads > 0 ? s.kv_heads : s.heads));
    const double attention = texts * heads * length * length;
    const double kept = texts * static_cast<double>(options.beams) * layers * width *
                        (static_cast<double>(options.max_length) + length);
    const double needed = sizeof(float) * (attention + kept), there = static_cast<double>(moe::available_memory());
    moe::require(needed <= there, "an input of ", length, " tokens with up to ", options.max_length,
                 " new ones takes more than ", moe::short_number(needed), "B of memory; there is ",
                 moe::short_number(there), "B");
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

// SPDX-License-Identifier: Apache-2.0
// hf/any_model.hpp -- a model of whatever family a checkpoint's config.json names. Including this compiles them all;
// a program for one family includes that family's header. Read next: hf/t5.hpp.
#pragma once

#include <string>

#include "sparsemoe/hf/mixtral.hpp"
#include "sparsemoe/hf/nllb.hpp"
#include "sparsemoe/hf/switch_transformer.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

namespace hf {

/// Calls f(model, names): an encoder-decoder or a language model of config.json's sizes whose weights have no values
/// yet, and the family's names of them. All calls must return the same type. Throws FileError for a family or an option
/// that no model here has.
template <class P, class B, class F>
decltype(auto) with_model(typename B::Context& ctx, const Config& config, bool for_training, F&& f) {
  switch (family_of(config)) {
    case Family::switch_transformer:
      return with_switch_transformer<P, B>(ctx, config, for_training, std::forward<F>(f));
    case Family::m2m:
    case Family::nllb: return with_nllb<P, B>(ctx, config, for_training, std::forward<F>(f));
    case Family::mixtral: return with_mixtral<P, B>(ctx, config, for_training, std::forward<F>(f));
    default: return with_t5<P, B>(ctx, config, for_training, std::forward<F>(f));
  }
}

}  // namespace hf

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// pre_tokenizer.hpp -- the "pre_tokenizer" of a tokenizer.json: where a text is cut before the model sees it. Metaspace
// (SentencePiece's sign for a space), WhitespaceSplit and sequences of them are offered.
// Read next: unigram.hpp, bpe.hpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "component.hpp"
#include "unicode.hpp"

namespace generation {

/// A piece of a text on its way to ids: an added token's id, or text that the model will cut.
struct TextPart {
  std::string text;
  bool first = false;    // starts where the whole text does
  std::int32_t id = -1;  // of an added token
};
using SplitStep = std::function<void(const TextPart&, std::vector<TextPart>&)>;

/// When Metaspace puts its sign in front of a part that does not start with it.
enum class PrependScheme { always, first, never };

namespace steps {

/// Cuts before every `sign`.
inline void cut_before(const std::string& text, const std::string& sign, bool first, std::vector<TextPart>& out) {
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = text.find(sign, at + 1);
    if (end == std::string::npos) end = text.size();
    out.push_back({text.substr(at, end - at), first && at == 0});
    at = end;
  }
}

inline SplitStep metaspace_of(const Component& c) {
  c.expect_keys({"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  const std::string sign = c.text("replacement");
  if (sign.empty() || step_at(sign, 0).bytes != sign.size()) c.fail("key \"replacement\" must be one character");
  PrependScheme scheme = PrependScheme::always;
  if (c.has("prepend_scheme")) {
    const std::string name = c.text("prepend_scheme");
    if (name != "always" && name != "first" && name != "never")
      c.fail("key \"prepend_scheme\" is ", moe::detail::shown(name), ", expected always, first or never");
    scheme = name == "always" ? PrependScheme::always : name == "first" ? PrependScheme::first : PrependScheme::never;
  }
  if (!c.flag("add_prefix_space", true)) {  // what older files have in place of a scheme
    if (c.has("prepend_scheme") && scheme != PrependScheme::never)
      c.fail("has \"add_prefix_space\": false, which contradicts its prepend_scheme");
    scheme = PrependScheme::never;
  }
  const bool split = c.flag("split", true);
  return [=](const TextPart& part, std::vector<TextPart>& out) {
    std::string text = replaced(part.text, " ", sign);
    const bool wanted = scheme == PrependScheme::always || (scheme == PrependScheme::first && part.first);
    if (wanted && !text.starts_with(sign)) text = sign + text;
    if (split)
      cut_before(text, sign, part.first, out);
    else
      out.push_back({text, part.first});
  };
}

inline void split_at_white_space(const TextPart& part, std::vector<TextPart>& out) {
  const std::string_view text = part.text;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t word = run_at_start(text.substr(at), [](char32_t c) { return !is_white_space(c); });
    if (word > 0) out.push_back({std::string(text.substr(at, word)), part.first && at == 0});
    at += word;
    at += run_at_start(text.substr(at), is_white_space);
  }
}

}  // namespace steps

/// The steps that a pre_tokenizer stands for, in order. Throws FileError for one that is not offered.
inline std::vector<SplitStep> pre_tokenizer_of(const Component& c) {
  if (c.type() == "Sequence") {
    c.expect_keys({"pretokenizers"});
    std::vector<SplitStep> all;
    c.each("pretokenizers", [&](const Component& one) {
      for (SplitStep& step : pre_tokenizer_of(one)) all.push_back(std::move(step));
    });
    return all;
  }
  if (c.type() == "Metaspace") return {steps::metaspace_of(c)};
  if (c.type() == "WhitespaceSplit") {
    c.expect_keys({});
    return {steps::split_at_white_space};
  }
  c.refuse("Sequence, Metaspace and WhitespaceSplit");
}

}  // namespace generation

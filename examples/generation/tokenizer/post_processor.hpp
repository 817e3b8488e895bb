// SPDX-License-Identifier: Apache-2.0
// post_processor.hpp -- the "post_processor" of a tokenizer.json: ids before and behind those of a text. Templates are
// offered, since they are what the families that run here have. Read next: decoder.hpp.
#pragma once

#include <string>

#include "added_tokens.hpp"
#include "component.hpp"
#include "text_model.hpp"

namespace generation {

/// What stands around the ids of a text.
struct Frame {
  Ids before, behind;
};

/// Adds what a post_processor puts around a single text. Throws FileError for one that is not offered.
inline void add_post_processor(const Component& c, Frame& frame) {
  if (c.type() == "Sequence") {
    c.expect_keys({"processors"});
    c.each("processors", [&](const Component& one) { add_post_processor(one, frame); });
    return;
  }
  if (c.type() != "TemplateProcessing") c.refuse("Sequence and TemplateProcessing");
  c.expect_keys({"single", "pair", "special_tokens"});
  const moe::Json& single = c.at("single");
  const moe::Json& tokens = c.at("special_tokens");
  if (!single.is_array() || !tokens.is_object())
    c.fail("must have an array \"single\" and an object \"special_tokens\"");
  Ids before, behind;
  bool text = false;
  for (const moe::Json& item : single) {
    if (!item.is_object() || item.size() != 1) c.fail("has ", moe::detail::shown_json(item), " in \"single\"");
    const moe::Json& what = *item.begin();
    if (!what.is_object() || !what.contains("id")) c.fail("has ", moe::detail::shown_json(item), " in \"single\"");
    if (item.begin().key() == "Sequence") {
      if (what["id"] != "A" || text) c.fail("must have the text once in \"single\"");
      text = true;
      continue;
    }
    const bool known = item.begin().key() == "SpecialToken" && what["id"].is_string() &&
                       tokens.contains(what["id"].get<std::string>());
    if (!known) c.fail("has ", moe::detail::shown_json(item), " in \"single\", which is not in \"special_tokens\"");
    const moe::Json& token = tokens[what["id"].get<std::string>()];
    if (!token.is_object() || !token.contains("ids") || !token["ids"].is_array())
      c.fail("has ", moe::detail::shown_json(token), " in \"special_tokens\"");
    for (const moe::Json& id : token["ids"])
      (text ? behind : before).push_back(id_from_json(id, c.path(), "post_processor.special_tokens"));
  }
  if (!text) c.fail("has no text in \"single\"");
  frame.before.insert(frame.before.begin(), before.begin(), before.end());
  frame.behind.insert(frame.behind.end(), behind.begin(), behind.end());
}

}  // namespace generation

// SPDX-License-Identifier: Apache-2.0
// added_tokens.hpp -- tokens that are one token wherever a text has them: special tokens, sentinels, languages and what
// a user added. They are cut out before the model sees the text. Read next: settings.hpp, pipeline.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "component.hpp"
#include "pre_tokenizer.hpp"
#include "prefix_index.hpp"
#include "unicode.hpp"

namespace generation {

struct AddedToken {
  std::string content;
  std::int32_t id = -1;      // -1: not known yet
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and behind it
  bool single_word = false;  // only where no word goes on
  bool normalized = false;   // looked for in the text after the normaliser
  bool special = true;       // left out of what decode() shows
};

/// What a token of a file is unless the file says otherwise.
inline AddedToken plain_token() {
  AddedToken token;
  token.special = false;
  return token;
}

/// An id that a file says: from 0 to 2^31 - 1. `where` names the key.
inline std::int32_t id_from_json(const moe::Json& json, const fs::path& path, const std::string& where) {
  if (!json.is_number_integer() || json < 0 || json > std::numeric_limits<std::int32_t>::max())
    moe::fail_file(path, "key \"", where, "\" must be an id from 0 to 2147483647, got ", moe::detail::shown_json(json));
  return json.get<std::int32_t>();
}

/// A token as files have it: its text, or an object of it and its properties, which then replace those of `otherwise`.
inline AddedToken token_from_json(const moe::Json& json, const fs::path& path, const std::string& where,
                                  AddedToken otherwise = {}) {
  AddedToken token = std::move(otherwise);
  if (json.is_string()) {
    token.content = json.get<std::string>();
  } else if (json.is_object()) {
    const bool special = token.special;
    token = {};
    token.special = special;
    const auto content = json.find("content");
    if (content == json.end() || !content->is_string())
      moe::fail_file(path, "key \"", where, "\" must have a string \"content\", got ", moe::detail::shown_json(json));
    token.content = content->get<std::string>();
    const std::pair<const char*, bool AddedToken::*> flags[] = {{"lstrip", &AddedToken::lstrip},
                                                                {"rstrip", &AddedToken::rstrip},
                                                                {"single_word", &AddedToken::single_word},
                                                                {"normalized", &AddedToken::normalized},
                                                                {"special", &AddedToken::special}};
    token.normalized = json.contains("special") ? json["special"] == false : !special;
    for (const auto& [key, value] : json.items()) {
      if (key == "content" || key == "__type") continue;
      if (key == "id") {
        token.id = id_from_json(value, path, where + ".id");
        continue;
      }
      const auto flag =
          std::find_if(std::begin(flags), std::end(flags), [&name = key](const auto& f) { return f.first == name; });
      if (flag == std::end(flags))
        moe::fail_file(path, "key \"", where, "\" has an unknown key ", moe::detail::shown(key));
      if (!value.is_boolean())
        moe::fail_file(path, "key \"", where, ".", key, "\" must be true or false, got ",
                       moe::detail::shown_json(value));
      token.*flag->second = value.get<bool>();
    }
  } else {
    moe::fail_file(path, "key \"", where, "\" must be a string or an object, got ", moe::detail::shown_json(json));
  }
  if (token.content.empty()) moe::fail_file(path, "key \"", where, "\" is an empty token");
  return token;
}

/// Tokens by text and by id. A text and an id stand for each other.
class AddedTokens {
 public:
  const std::vector<AddedToken>& all() const { return all_; }
  const AddedToken* find(const std::string& content) const {
    const auto at = by_content_.find(content);
    return at == by_content_.end() ? nullptr : &all_[at->second];
  }
  const AddedToken* find(std::int32_t id) const {
    const auto at = by_id_.find(id);
    return at == by_id_.end() ? nullptr : &all_[at->second];
  }
  /// Adds a token with its id, or replaces the properties of the one of that text. Throws FileError if text or id stand
  /// for something else already.
  void add(const AddedToken& token, const fs::path& path) {
    const AddedToken* same = find(token.content);
    if (same != nullptr && same->id != token.id)
      moe::fail_file(path, "token ", moe::detail::shown(token.content), " has the ids ", same->id, " and ", token.id);
    const AddedToken* taken = find(token.id);
    if (taken != nullptr && taken->content != token.content)
      moe::fail_file(path, "id ", token.id, " is both ", moe::detail::shown(taken->content), " and ",
                     moe::detail::shown(token.content));
    if (same != nullptr) {
      all_[by_content_.at(token.content)] = token;
      return;
    }
    by_content_[token.content] = by_id_[token.id] = all_.size();
    all_.push_back(token);
  }
  /// The largest id, or -1.
  std::int32_t last_id() const { return by_id_.empty() ? -1 : by_id_.rbegin()->first; }

 private:
  std::vector<AddedToken> all_;
  std::map<std::string, std::size_t> by_content_;
  std::map<std::int32_t, std::size_t> by_id_;
};

/// Finds tokens in a text as the library "tokenizers" does: the leftmost, of those the longest.
class TokenSplitter {
 public:
  TokenSplitter() = default;
  /// Looks for `found_as[i]`, where it stands for `tokens[i]`.
  TokenSplitter(std::vector<AddedToken> tokens, const std::vector<std::string>& found_as) : tokens_(std::move(tokens)) {
    std::vector<PrefixIndex::Word> words;
    for (std::size_t i = 0; i < found_as.size(); ++i) words.emplace_back(found_as[i], static_cast<std::int32_t>(i));
    index_ = PrefixIndex(std::move(words));
  }

  void split(const TextPart& part, std::vector<TextPart>& out) const {
    const std::string_view text = part.text;
    std::size_t done = 0;
    for (std::size_t at = 0; !index_.empty() && at < text.size();) {
      const auto [length, number] = index_.longest(text.substr(at));
      if (length == 0) {
        at += step_at(text, at).bytes;
        continue;
      }
      const AddedToken& token = tokens_[static_cast<std::size_t>(number)];
      std::size_t from = at, to = at + length;
      at = to;
      if (token.single_word && !stands_alone(text, from, to)) continue;
      if (token.lstrip) from = std::max(from - run_at_end(text.substr(0, from), is_white_space), done);
      if (token.rstrip) to += run_at_start(text.substr(to), is_white_space);
      if (from > done) out.push_back({std::string(text.substr(done, from - done)), part.first && done == 0});
      out.push_back({{}, false, token.id});
      done = to;
      at = std::max(at, done);
    }
    if (done < text.size()) out.push_back({std::string(text.substr(done)), part.first && done == 0});
  }

 private:
  static bool stands_alone(std::string_view text, std::size_t from, std::size_t to) {
    const bool left = from == 0 || !is_word_character(step_at(text, last_character(text.substr(0, from))).code);
    return left && (to == text.size() || !is_word_character(step_at(text, to).code));
  }

  std::vector<AddedToken> tokens_;
  PrefixIndex index_;
};

}  // namespace generation

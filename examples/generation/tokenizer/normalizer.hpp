// SPDX-License-Identifier: Apache-2.0
// normalizer.hpp -- the "normalizer" of a tokenizer.json: what becomes of a text before it is cut. SentencePiece's
// precompiled map, replacements, stripping, Unicode's normal forms and lower case are offered.
// Read next: pre_tokenizer.hpp.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "charsmap.hpp"
#include "component.hpp"
#include "unicode.hpp"

namespace generation {

using TextStep = std::function<std::string(const std::string&)>;

namespace steps {

/// The bytes of a base64 text, or nothing if it is not one.
inline std::optional<std::string> from_base64(std::string_view text) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0, count = 0;
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  for (const char c : text) {
    const std::size_t digit = digits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out.push_back(static_cast<char>(bits >> count & 0xFF));
    }
  }
  return out;
}

/// A grapheme cluster of less than 6 bytes is looked up whole, then its characters one by one.
inline std::string precompiled(const Charsmap& map, const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = grapheme_bytes(text, at);
    const std::string_view cluster = std::string_view(text).substr(at, bytes);
    at += bytes;
    if (bytes < 6) {
      if (const auto found = map.find(cluster)) {
        out += *found;
        continue;
      }
    }
    for (std::size_t i = 0; i < cluster.size();) {
      const std::string_view character = cluster.substr(i, step_at(cluster, i).bytes);
      i += character.size();
      out += map.find(character).value_or(character);
    }
  }
  return out;
}

inline std::string normal_form(const std::string& text, int options) {
  utf8proc_uint8_t* found = nullptr;
  const utf8proc_ssize_t n =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &found, static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  moe::require(n >= 0, "cannot normalise text: ", n < 0 ? utf8proc_errmsg(n) : "");
  std::string out(reinterpret_cast<const char*>(found), static_cast<std::size_t>(n));
  std::free(found);
  return out;
}

/// Character by character, as Rust's to_lowercase of a char: U+0130 is the one that becomes two.
inline std::string lower_case(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const auto step = step_at(text, at);
    at += step.bytes;
    if (step.code == 0x130)
      out += "i\xCC\x87";
    else
      moe::append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(step.code))));
  }
  return out;
}

/// Every run of `least` or more of the character `one` as `to`.
inline std::string runs_replaced(const std::string& text, char one, std::size_t least, const std::string& to) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    while (end < text.size() && text[end] == one) ++end;
    if (end - at >= least)
      out += to;
    else
      out.append(text, at, end - at);
    if (end < text.size()) out += text[end];
    at = end + 1;
  }
  return out;
}

/// {"pattern": {"String": ...} or {"Regex": ...}, "content": ...}. Of regular expressions those of runs of spaces are
/// offered: they are what SentencePiece's normaliser becomes.
inline TextStep replace_of(const Component& c) {
  c.expect_keys({"pattern", "content"});
  const moe::Json& pattern = c.at("pattern");
  const std::string to = c.text("content");
  if (!pattern.is_object() || pattern.size() != 1 || !pattern.begin()->is_string())
    c.fail("key \"pattern\" must be {\"String\": ...} or {\"Regex\": ...}, got ", moe::detail::shown_json(pattern));
  const std::string kind = pattern.begin().key();
  const auto from = pattern.begin()->get<std::string>();
  if (kind == "String") {
    if (from.empty()) c.fail("has an empty pattern");
    return [from, to](const std::string& text) { return replaced(text, from, to); };
  }
  if (kind == "Regex" && from == " {2,}")
    return [to](const std::string& text) { return runs_replaced(text, ' ', 2, to); };
  if (kind == "Regex" && from == " +") return [to](const std::string& text) { return runs_replaced(text, ' ', 1, to); };
  c.fail("has the pattern ", moe::detail::shown(from), " (", moe::detail::shown(kind),
         "), which is not offered; texts and the regular expressions \" {2,}\" and \" +\" are");
}

}  // namespace steps

/// The function that a normalizer stands for. Throws FileError for one that is not offered.
inline TextStep normalizer_of(const Component& c) {
  const std::string& type = c.type();
  if (type == "Sequence") {
    c.expect_keys({"normalizers"});
    std::vector<TextStep> all;
    c.each("normalizers", [&](const Component& one) { all.push_back(normalizer_of(one)); });
    return [all](std::string text) {
      for (const TextStep& step : all) text = step(text);
      return text;
    };
  }
  if (type == "Precompiled") {
    c.expect_keys({"precompiled_charsmap"});
    if (!c.has("precompiled_charsmap") || c.text("precompiled_charsmap").empty())
      return [](const std::string& text) { return text; };
    const auto bytes = steps::from_base64(c.text("precompiled_charsmap"));
    if (!bytes) c.fail("key \"precompiled_charsmap\" is not base64");
    const auto map = std::make_shared<const Charsmap>(*bytes, c.path());
    return [map](const std::string& text) { return steps::precompiled(*map, text); };
  }
  if (type == "Replace") return steps::replace_of(c);
  if (type == "Prepend") {
    c.expect_keys({"prepend"});
    return [front = c.text("prepend")](const std::string& text) { return text.empty() ? text : front + text; };
  }
  if (type == "Strip") {
    c.expect_keys({"strip_left", "strip_right"});
    const bool left = c.flag("strip_left", true), right = c.flag("strip_right", true);
    return [left, right](const std::string& text) {
      const std::size_t from = left ? run_at_start(text, is_white_space) : 0;
      const std::string rest = text.substr(from);
      return rest.substr(0, rest.size() - (right ? run_at_end(rest, is_white_space) : 0));
    };
  }
  const std::pair<const char*, int> forms[] = {{"NFC", UTF8PROC_COMPOSE},
                                               {"NFD", UTF8PROC_DECOMPOSE},
                                               {"NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                                               {"NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  for (const auto& form : forms) {
    if (type != form.first) continue;
    c.expect_keys({});
    return [options = form.second](const std::string& text) { return steps::normal_form(text, options); };
  }
  if (type == "Lowercase") {
    c.expect_keys({});
    return steps::lower_case;
  }
  c.refuse("Sequence, Precompiled, Replace, Prepend, Strip, NFC, NFD, NFKC, NFKD and Lowercase");
}

}  // namespace generation

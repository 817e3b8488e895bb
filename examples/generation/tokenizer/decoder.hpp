// SPDX-License-Identifier: Apache-2.0
// decoder.hpp -- the "decoder" of a tokenizer.json: pieces back into text. Read next: pipeline.hpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "component.hpp"
#include "normalizer.hpp"
#include "unicode.hpp"

namespace generation {

using Pieces = std::vector<std::string>;
using DecodeStep = std::function<Pieces(Pieces)>;

namespace steps {

/// The byte that a piece as "<0x0A>" stands for, or -1.
inline int byte_of_piece(const std::string& piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  const int high = digit(piece[3]), low = digit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/// Runs of byte pieces become the text that they are; a run that is not UTF-8 becomes a U+FFFD a byte.
inline Pieces bytes_to_text(const Pieces& pieces) {
  Pieces out;
  std::string run;
  const auto flush = [&] {
    if (moe::find_invalid_utf8(run)) {
      for (std::size_t i = 0; i < run.size(); ++i) out.push_back("\xEF\xBF\xBD");
    } else if (!run.empty()) {
      out.push_back(run);
    }
    run.clear();
  };
  for (const std::string& piece : pieces) {
    const int byte = byte_of_piece(piece);
    if (byte >= 0) {
      run.push_back(static_cast<char>(byte));
    } else {
      flush();
      out.push_back(piece);
    }
  }
  flush();
  return out;
}

inline std::string joined(const Pieces& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += piece;
  return out;
}

/// Spaces for the sign; the signs of the first piece are what the model's text had in front.
inline DecodeStep metaspace_decoder_of(const Component& c) {
  c.expect_keys({"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  const std::string sign = c.text("replacement");
  if (sign.empty()) c.fail("has an empty \"replacement\"");
  const bool prepended =
      c.flag("add_prefix_space", true) && (!c.has("prepend_scheme") || c.text("prepend_scheme") != "never");
  return [sign, prepended](Pieces pieces) {
    for (std::size_t i = 0; i < pieces.size(); ++i)
      pieces[i] = replaced(pieces[i], sign, i == 0 && prepended ? "" : " ");
    return pieces;
  };
}

inline DecodeStep strip_of(const Component& c) {
  c.expect_keys({"content", "start", "stop"});
  const std::string content = c.text("content");
  if (content.empty()) c.fail("has an empty \"content\"");
  const std::int64_t start = c.count("start", 1 << 20), stop = c.count("stop", 1 << 20);
  return [=](Pieces pieces) {
    for (std::string& piece : pieces) {
      for (std::int64_t i = 0; i < start && piece.starts_with(content); ++i) piece.erase(0, content.size());
      for (std::int64_t i = 0; i < stop && piece.ends_with(content); ++i) piece.resize(piece.size() - content.size());
    }
    return pieces;
  };
}

}  // namespace steps

/// The function that a decoder stands for. Throws FileError for one that is not offered.
inline DecodeStep decoder_of(const Component& c) {
  const std::string& type = c.type();
  if (type == "Sequence") {
    c.expect_keys({"decoders"});
    std::vector<DecodeStep> all;
    c.each("decoders", [&](const Component& one) { all.push_back(decoder_of(one)); });
    return [all](Pieces pieces) {
      for (const DecodeStep& step : all) pieces = step(std::move(pieces));
      return pieces;
    };
  }
  if (type == "Metaspace") return steps::metaspace_decoder_of(c);
  if (type == "Strip") return steps::strip_of(c);
  if (type == "Replace") {
    const TextStep replace = steps::replace_of(c);
    return [replace](Pieces pieces) {
      for (std::string& piece : pieces) piece = replace(piece);
      return pieces;
    };
  }
  if (type == "ByteFallback") {
    c.expect_keys({});
    return steps::bytes_to_text;
  }
  if (type == "Fuse") {
    c.expect_keys({});
    return [](const Pieces& pieces) { return Pieces{steps::joined(pieces)}; };
  }
  c.refuse("Sequence, Metaspace, Strip, Replace, ByteFallback and Fuse");
}

}  // namespace generation

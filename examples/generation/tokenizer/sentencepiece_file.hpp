// SPDX-License-Identifier: Apache-2.0
// sentencepiece_file.hpp -- opens a SentencePiece model that may be damaged or hostile. The library believes indices of
// the file, so its bytes are looked through before: fields within their messages, pieces that are texts, maps that do
// not lead out of themselves. Read next: sentencepiece_tokenizer.hpp.
#pragma once

#include <sentencepiece_processor.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>

#include "charsmap.hpp"
#include "component.hpp"
#include "sparsemoe/text/utf8.hpp"

namespace generation {

namespace steps {

/// Calls visit(field, number, bytes) for every field of a protobuf message: `number` of a number (the bits of a float),
/// `bytes` of a nested message or text. False if the bytes are no such message.
template <class Visit>
bool each_field(std::string_view message, Visit&& visit) {
  std::size_t at = 0;
  const auto varint = [&](std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at >= message.size()) return false;
      const auto byte = static_cast<unsigned char>(message[at++]);
      value |= static_cast<std::uint64_t>(byte & 0x7Fu) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  while (at < message.size()) {
    std::uint64_t tag = 0, value = 0;
    std::string_view bytes;
    if (!varint(tag) || tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF) return false;
    const std::uint64_t kind = tag & 7;
    if (kind == 0) {
      if (!varint(value)) return false;
    } else if (kind == 1 || kind == 5) {
      const std::size_t size = kind == 1 ? 8 : 4;
      if (message.size() - at < size) return false;
      std::memcpy(&value, message.data() + at, size);  // little endian, as all machines that run this
      at += size;
    } else if (kind == 2) {
      if (!varint(value) || value > message.size() - at) return false;
      bytes = message.substr(at, static_cast<std::size_t>(value));
      at += static_cast<std::size_t>(value);
    } else {
      return false;
    }
    if (!visit(static_cast<std::uint32_t>(tag >> 3), value, bytes)) return false;
  }
  return true;
}

/// Throws FileError for a model that the library should not see.
inline void check_sentencepiece(std::string_view model, const fs::path& path) {
  std::uint64_t pieces = 0;
  const auto piece = [&](std::uint32_t field, std::uint64_t number, std::string_view bytes) {
    if (field == 1 && (bytes.find('\0') != std::string_view::npos || moe::find_invalid_utf8(bytes)))
      moe::fail_file(path, "piece ", pieces, " is not a text");
    if (field == 2) {
      float score = 0;
      const auto bits = static_cast<std::uint32_t>(number);
      std::memcpy(&score, &bits, sizeof score);
      if (!std::isfinite(score)) moe::fail_file(path, "piece ", pieces, " has a score that is not finite");
    }
    return true;
  };
  const auto normaliser = [&](std::uint32_t field, std::uint64_t, std::string_view bytes) {
    if (field == 2 && !bytes.empty()) Charsmap(bytes, path);  // precompiled_charsmap
    return true;
  };
  const bool whole = each_field(model, [&](std::uint32_t field, std::uint64_t, std::string_view bytes) {
    if (field == 1) return ++pieces, each_field(bytes, piece);
    if (field == 3 || field == 5) return each_field(bytes, normaliser);  // normalizer and denormalizer
    return true;
  });
  if (!whole || pieces == 0) moe::fail_file(path, "not a SentencePiece model");
}

}  // namespace steps

/// What SentencePiece puts in front of a text.
enum class DummyPrefix { as_model_says, none };

/// Opens a model of at most 256 MiB. Throws FileError.
inline std::unique_ptr<sentencepiece::SentencePieceProcessor> open_sentencepiece(const fs::path& path,
                                                                                 DummyPrefix prefix) {
  std::string model = moe::read_file(path, std::uint64_t{256} << 20);
  steps::check_sentencepiece(model, path);
  // normalizer_spec { add_dummy_prefix: false }: a message that comes twice is one, and its last values count.
  if (prefix == DummyPrefix::none) model += std::string("\x1A\x02\x18\x00", 4);
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  std::string problem;
  try {
    const auto status = processor->LoadFromSerializedProto(model);
    if (!status.ok()) problem = status.message();
  } catch (const std::exception& error) {  // of its trie
    problem = error.what();
  }
  if (!problem.empty()) moe::fail_file(path, "not a SentencePiece model: ", problem);
  return processor;
}

}  // namespace generation

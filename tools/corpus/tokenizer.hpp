// SPDX-License-Identifier: Apache-2.0
// tokenizer.hpp -- a SentencePiece model with one tag per language, as train_tokenizer.hpp makes it. No unit but its
// own sees SentencePiece's headers, so that CUDA sources may use it. Read next: train_tokenizer.hpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace nmt {

/// The tag that asks for a target language, e.g. "<2de>".
std::string language_tag(std::string_view language);

/// A loaded model. Ids: 0 padding, 1 begin, 2 end, 3 unknown.
class Tokenizer {
 public:
  static constexpr int pad = 0, begin = 1, end = 2, unknown = 3;

  /// Throws Error when the file is missing, no model, or has other special ids.
  explicit Tokenizer(const std::filesystem::path& file);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  int size() const;

  /// Ids of a text, without begin, end or tag; whatever it says, none of them is a tag's, nor another control symbol's.
  /// Throws Error on malformed UTF-8.
  std::vector<int> encode(std::string_view text) const;

  /// Text of ids; special ids vanish. Throws Error for an id outside the vocabulary.
  std::string decode(const std::vector<int>& ids) const;

  /// The byte that a piece stands for, -1 for text.
  std::int16_t byte(int id) const;

  /// The id of a language's tag, by any code of the language. Throws Error when the model has none.
  int tag(std::string_view language) const;

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::vector<std::string> languages_;  // that have a tag
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// engine.hpp -- what stands behind Tokenizer: one engine reads SentencePiece's model and bytes, as the slow tokenizers
// of transformers 4 do, one a tokenizer.json, as the fast ones. Read next: sentencepiece_tokenizer.hpp, pipeline.hpp.
#pragma once

#include <string>

#include "added_tokens.hpp"
#include "text_model.hpp"
#include "unicode.hpp"

namespace generation {

class TextEngine {
 public:
  virtual ~TextEngine() = default;
  /// The ids of a text without those that stand around it.
  virtual Ids encode(const std::string& text) const = 0;
  /// The text of ids, without special tokens but with sentinels.
  virtual std::string decode(const Ids& ids) const = 0;
  /// The id of a piece or an added token, or -1.
  virtual std::int32_t id_of(const std::string& token) const = 0;
  virtual const AddedTokens& added() const = 0;
};

/// "<extra_id_7>": a hole of T5, special to transformers, but the answer's only structure.
inline bool is_sentinel(const std::string& token) { return token.starts_with("<extra_id_"); }

/// Text, sentinel, text, ... with single spaces between.
inline std::string spaced(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) {
    if (text.empty()) continue;
    if (!out.empty()) out += ' ';
    out += text;
  }
  return out;
}

/// transformers' clean_up_tokenization_spaces: no space before English punctuation and contractions.
inline std::string cleaned_up(std::string text) {
  const std::pair<const char*, const char*> changes[] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                                         {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                                         {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& change : changes) text = replaced(text, change.first, change.second);
  return text;
}

}  // namespace generation

// SPDX-License-Identifier: Apache-2.0
// user_text.hpp -- what users send to be translated, a line or a row of JSON each, made into what the model has learnt
// to read: the same cleaning as training text had, no control token in it, not longer than allowed. Read next:
// translate.hpp and commands/samples.cpp, which read it; examples/generation/answers.hpp for requests and answers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "../generation/answers.hpp"
#include "data.hpp"
#include "sparsemoe/io/line_reader.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "tools/corpus/clean.hpp"

namespace nmt {

struct UserTextOptions {
  generation::RowFormat format = generation::RowFormat::text;
  generation::BadBytes bad_bytes = generation::BadBytes::replaced;
  std::int64_t max_source = 1024;  ///< tokens, tag and end among them; longer ones are cut, with a warning
};

/// A line that was sent.
struct UserLine {
  std::size_t number = 0;
  std::string text;  ///< as it was sent, but for bytes that are no UTF-8
  Ids ids;           ///< of the cleaned text, without tag and end; empty: nothing to translate
};

class UserText {
 public:
  UserText(const Tokenizer& tokenizer, const UserTextOptions& options, int fd = STDIN_FILENO,
           std::string name = "standard input")
      : tokenizer_(tokenizer), options_(options), name_(std::move(name)), lines_(fd, name_) {}

  /// The next line; false at the end. Throws Error with the line's number for what cannot be read.
  bool next(UserLine& line) {
    std::string text;
    if (!lines_.next(text)) return false;
    const std::string where = sparsemoe::join(name_, ":", ++number_);
    auto request = generation::read_request(text, options_.format, options_.bad_bytes, where);
    sparsemoe::require(!request.ids, where, ": has \"ids\"; texts are translated here");
    line = {number_, std::move(request.text), {}};
    const auto ids = tokenizer_.encode(clean_text(line.text));
    const auto most = static_cast<std::size_t>(options_.max_source - 2);
    if (ids.size() > most)
      sparsemoe::warn(where, ": ", ids.size(), " tokens, cut to --max-source ", options_.max_source);
    line.ids.assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), most)));
    return true;
  }

  /// True if next() need not wait, now or within `milliseconds` of every byte.
  bool ready(int milliseconds) { return lines_.ready(milliseconds); }

 private:
  const Tokenizer& tokenizer_;
  UserTextOptions options_;
  std::string name_;
  sparsemoe::LineReader lines_;
  std::size_t number_ = 0;
};

/// A source of the model: the tag of its target language, the text, the end.
inline Ids source_ids(std::int32_t tag, const Ids& text) {
  Ids out = {tag};
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(Tokenizer::end);
  return out;
}

}  // namespace nmt

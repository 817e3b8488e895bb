// SPDX-License-Identifier: Apache-2.0
// answers.hpp -- requests in and answers out, alike in every program: a request is a line of text or a row of JSON, an
// output is one row of text or a place in a row of JSON. Rows can be counted: text with line breaks is made fit for
// them. Read next: sparsemoe/text/input.hpp, generate.hpp.
#pragma once

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sparsemoe/io/json_config.hpp"
#include "sparsemoe/io/standard_output.hpp"
#include "sparsemoe/io/terminal.hpp"
#include "sparsemoe/text/input.hpp"

namespace generation {

namespace moe = sparsemoe;

/// text: a line. json: {"text": "..."} or {"source": "..."}, or {"ids": [1, 2]}; other keys are the user's own.
enum class RowFormat { text, json };
/// What happens to bytes of a line that are no UTF-8: U+FFFD with a warning, or an Error.
enum class BadBytes { replaced, refused };

struct Request {
  std::string text;                              // UTF-8; may hold line breaks if it came as JSON
  std::optional<std::vector<std::int32_t>> ids;  // in place of text
  bool empty() const { return ids ? ids->empty() : moe::is_blank(text); }
};

/// The line as UTF-8. `where` (as "standard input:3") opens the warning or the Error.
inline std::string utf8_line(std::string_view line, BadBytes bad, const std::string& where) {
  if (!moe::find_invalid_utf8(line)) return std::string(line);
  if (bad == BadBytes::refused) moe::require_utf8(line, where);
  moe::RepairedText repaired = moe::repair_utf8(line);
  moe::warn(where, ": not valid UTF-8; U+FFFD in ", repaired.replaced, " place", repaired.replaced == 1 ? "" : "s");
  return std::move(repaired.text);
}

/// A line of input as a request; a blank line is an empty one in both formats. Throws Error that begins with `where`.
inline Request read_request(std::string_view line, RowFormat format, BadBytes bad, const std::string& where) {
  std::string text = utf8_line(line, bad, where);
  if (format == RowFormat::text || moe::is_blank(text)) return {std::move(text), {}};
  const bool marked = text.starts_with("\xEF\xBB\xBF");  // as the first row of some editors' files is
  const moe::Json row = moe::parse_json(marked ? text.substr(3) : text, where);
  if (!row.is_object()) moe::fail_file(where, "must be an object with \"text\", \"source\" or \"ids\"");
  int found = 0;
  Request request;
  for (const auto& [key, value] : row.items()) {
    if (key != "text" && key != "source" && key != "ids") continue;
    ++found;
    if (key == "ids")
      moe::detail::field_from_json(request.ids.emplace(), value, key, where);
    else
      moe::detail::field_from_json(request.text, value, key, where);
  }
  if (found != 1) moe::fail_file(where, "must have one of \"text\", \"source\" and \"ids\"; it has ", found);
  return request;
}

/// One output of a request.
struct Answer {
  std::string text;
  double score = 0;
  bool ended = true;
};

/// How answers are written.
struct AnswerFormat {
  RowFormat rows = RowFormat::text;
  bool numbered = false;  // rows of text: line number, score and text, by tabs
};

/// Text made fit for a row: a line break is \n, a carriage return \r and, where tabs part the columns, a tab \t, each a
/// backslash and a letter. A backslash stays as it is: rows are to be read and counted; JSON is exact.
inline std::string row_text(std::string_view text, bool tabs) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t' && tabs)
      out += "\\t";
    else
      out += c;
  }
  return out;
}

/// The rows of line `number`, whose request was `source`: one for each answer, or one of JSON,
/// {"line": 3, "source": "...", "outputs": [{"text": "...", "score": -0.5, "ended": true}]}.
inline std::string answer_rows(const AnswerFormat& format, std::size_t number, const std::string& source,
                               const std::vector<Answer>& answers) {
  std::string out;
  if (format.rows == RowFormat::text) {
    for (const Answer& a : answers) {
      if (format.numbered) out += moe::join(number, "\t", a.score, "\t");
      out += row_text(a.text, format.numbered) + "\n";
    }
    return out;
  }
  moe::Json outputs = moe::Json::array();
  for (const Answer& a : answers) outputs.push_back({{"text", a.text}, {"score", a.score}, {"ended", a.ended}});
  const moe::Json all = {{"line", number}, {"source", source}, {"outputs", outputs}};
  return all.dump(-1, ' ', false, moe::Json::error_handler_t::replace) + "\n";
}

/// Writes to standard output, at once. Throws Error if that cannot be done.
inline void write_rows(const std::string& rows) {
  std::fwrite(rows.data(), 1, rows.size(), stdout);
  moe::require_output_written();
}

}  // namespace generation

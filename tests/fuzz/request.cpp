// SPDX-License-Identifier: Apache-2.0
// fuzz/request.cpp -- libFuzzer target: bytes as what is translated or prompted, a line or a row of JSON, and as an
// answer. An Error that begins with the line's place, or text that is UTF-8; rows of output that can be counted and
// read back.
#include <cstdlib>
#include <string>

#include "examples/generation/answers.hpp"
#include "tools/corpus/clean.hpp"

namespace moe = sparsemoe;

namespace {

void check_rows(const std::string& text) {
  for (const bool json : {false, true}) {
    generation::AnswerFormat format;
    format.rows = json ? generation::RowFormat::json : generation::RowFormat::text;
    const std::string rows = generation::answer_rows(format, 1, text, {{.text = text, .score = -1, .ended = true}});
    if (std::count(rows.begin(), rows.end(), '\n') != 1 || rows.back() != '\n') std::abort();
    if (json && moe::parse_json(rows, "again")["outputs"][0]["text"] != text) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string line(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto format = data[0] % 2 == 0 ? generation::RowFormat::text : generation::RowFormat::json;
  const auto bad = data[0] % 4 < 2 ? generation::BadBytes::replaced : generation::BadBytes::refused;
  try {
    const generation::Request request = generation::read_request(line, format, bad, "standard input:3");
    if (moe::find_invalid_utf8(request.text)) std::abort();
    const std::string clean = nmt::clean_text(request.text);
    if (moe::find_invalid_utf8(clean) || nmt::clean_text(clean) != clean) std::abort();
    if (request.ids == std::nullopt && moe::is_blank(request.text) != request.empty()) std::abort();
    check_rows(request.text);
  } catch (const moe::Error& error) {
    if (!std::string(error.what()).starts_with("standard input:3")) std::abort();
  }
  return 0;
}

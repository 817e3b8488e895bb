// SPDX-License-Identifier: Apache-2.0
// fuzz/report.cpp -- libFuzzer target: bytes as a run's files. A FileError, or a page without markup of the input's and
// without numbers that a browser cannot draw. Up to the first NUL: log.jsonl; to the second: scores.json; then
// samples.json.
#include <cstdlib>
#include <string>
#include <string_view>

#include "memory_directory.hpp"
#include "sparsemoe/report/training_report.hpp"

namespace moe = sparsemoe;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  std::string_view rest = all;
  fuzz::put("log.jsonl", fuzz::take(rest));
  for (const char* name : {"scores.json", "samples.json"}) {
    const std::string_view bytes = fuzz::take(rest);
    if (bytes.empty())
      fuzz::remove(name);
    else
      fuzz::put(name, bytes);
  }
  try {
    moe::write_training_report(fuzz::directory(), fuzz::directory() / "report.html");
    const std::string page = moe::read_file(fuzz::directory() / "report.html");
    if (page.find("<script") != std::string::npos) std::abort();
    for (const char* wrong : {"=\"nan", "=\"inf", "=\"-inf", "=\"-nan"})
      if (page.find(wrong) != std::string::npos && all.find(wrong) == std::string_view::npos) std::abort();
  } catch (const moe::FileError&) {
  }
  return 0;
}

// fuzz/report.cpp -- libFuzzer target: bytes as a run's files. A FileError, or a page without markup of the input's and
// without numbers that a browser cannot draw. Up to the first NUL: log.jsonl; to the second: scores.json; then samples.json.
#include <stdlib.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "sparsemoe/report/training_report.hpp"

namespace moe = sparsemoe;
namespace fs = std::filesystem;

namespace {

/// A directory in memory, where the system has one.
const fs::path& run() {
  static const fs::path path = [] {
    std::string name = fs::is_directory("/dev/shm") ? "/dev/shm/fuzz-report-XXXXXX" : "/tmp/fuzz-report-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    std::atexit([] {
      std::error_code ignored;
      fs::remove_all(run(), ignored);
    });
    return fs::path(name);
  }();
  return path;
}

void put(const char* name, std::string_view bytes) {
  std::FILE* file = std::fopen((run() / name).c_str(), "wb");
  if (file == nullptr) std::abort();
  std::fwrite(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  for (const char* name : {"log.jsonl", "scores.json", "samples.json"}) {
    const std::size_t end = std::min(rest.find('\0'), rest.size());
    if (end == 0 && std::string_view(name) != "log.jsonl")
      ::unlink((run() / name).c_str());
    else
      put(name, rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  try {
    moe::write_training_report(run(), run() / "report.html");
    const std::string page = moe::read_file(run() / "report.html");
    for (const char* wrong : {"<script", "=\"nan", "=\"inf", "=\"-inf", "=\"-nan", "javascript:"})
      if (page.find(wrong) != std::string::npos && rest.find(wrong) == std::string_view::npos &&
          std::string_view(reinterpret_cast<const char*>(data), size).find(wrong) == std::string_view::npos)
        std::abort();
    if (page.find("<script") != std::string::npos) std::abort();  // whatever the input holds
  } catch (const moe::FileError&) {
  }
  return 0;
}

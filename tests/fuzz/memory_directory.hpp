// SPDX-License-Identifier: Apache-2.0
// fuzz/memory_directory.hpp -- a directory of a fuzz target's own, in memory where the system has one: targets of code
// that reads files run a few thousand times a second.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <system_error>

namespace fuzz {

namespace fs = std::filesystem;

/// Made at the first call, removed at the end of the process.
inline const fs::path& directory() {
  static const fs::path path = [] {
    std::string name = fs::is_directory("/dev/shm") ? "/dev/shm/fuzz-XXXXXX" : "/tmp/fuzz-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    std::atexit([] {
      std::error_code ignored;
      fs::remove_all(directory(), ignored);
    });
    return fs::path(name);
  }();
  return path;
}

inline fs::path put(const char* name, std::string_view bytes) {
  fs::path path = directory() / name;
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size()) std::abort();
  std::fclose(file);
  return path;
}
inline void remove(const char* name) { ::unlink((directory() / name).c_str()); }

/// What stands before the first NUL of `rest`, which loses it.
inline std::string_view take(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\0'), rest.size());
  const std::string_view first = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return first;
}

}  // namespace fuzz

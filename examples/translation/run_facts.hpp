// SPDX-License-Identifier: Apache-2.0
// run_facts.hpp -- what a log says of the program and the machine that wrote it: time of day, host, processor,
// compiler, version and commit. Read next: train.hpp, which writes them at the start of a run and whenever it goes on.
#pragma once

#include <unistd.h>

#include <array>
#include <cstdint>
#include <ctime>
#include <string>
#include <thread>

#include "sparsemoe/config.hpp"
#include "sparsemoe/io/file.hpp"
#include "sparsemoe/io/json.hpp"
#include "sparsemoe/io/line_reader.hpp"

namespace nmt {

/// The commit this program was built from, "" where that is not known; "+" ends one with changes. Made by the build.
const char* build_commit();

/// "2026-01-31T12:00:00Z".
inline std::string time_of_day(std::time_t now = std::time(nullptr)) {
  std::tm utc{};
  std::array<char, 32> text{};
  ::gmtime_r(&now, &utc);
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

inline std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// As the system calls it; "" where it does not say.
inline std::string processor_name() {
  try {
    const auto file = sparsemoe::File::open_read("/proc/cpuinfo");
    sparsemoe::LineReader about(file.descriptor(), file.path().string());
    for (std::string line; about.next(line);)
      if (const std::size_t at = line.find(": "); line.starts_with("model name") && at != std::string::npos)
        return line.substr(at + 2);
  } catch (const sparsemoe::Error&) {
    return "";
  }
  return "";
}

inline std::string compiler_name() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

/// Adds time, host, processor, cores, threads, compiler, version and, where it is known, commit to a record.
inline void add_run_facts(sparsemoe::Json& record, std::int64_t threads) {
  const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  record["time"] = time_of_day();
  record["host"] = host_name();
  record["processor"] = processor_name();
  record["cores"] = cores;
  record["threads"] = threads > 0 ? threads : cores;
  record["compiler"] = compiler_name();
  record["version"] = SPARSEMOE_VERSION;
  if (*build_commit() != '\0') record["commit"] = build_commit();
}

}  // namespace nmt

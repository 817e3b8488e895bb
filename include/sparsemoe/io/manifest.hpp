// SPDX-License-Identifier: Apache-2.0
// manifest.hpp -- manifest.json of a checkpoint directory: every file with its size and SHA-256.
// Main idea: written last into a directory that appears by one rename; verified before a byte of it is used, so that a
// missing, truncated or corrupt file is one sentence and not a wrong model. Read next: checksum.hpp, directory.hpp.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sparsemoe/io/checksum.hpp"
#include "sparsemoe/io/directory.hpp"
#include "sparsemoe/io/json.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

inline constexpr const char* kManifestName = "manifest.json";

struct ManifestEntry {
  std::string name;  // relative to the directory, with '/'
  std::uint64_t bytes = 0;
  std::string sha256;  // 64 hexadecimal digits
};

/// Hashes every file below `directory` and writes manifest.json there. Call it after the last file is complete and
/// before AtomicDirectory::commit(). `extra` (step, format version, ...) is stored under "about".
inline void write_manifest(const std::filesystem::path& directory, const Json& extra = Json::object()) {
  std::vector<std::string> names;
  for (const auto& entry : list_directory(directory, Listing::deep)) {
    if (!entry.is_regular_file()) continue;
    names.push_back(entry.path().lexically_relative(directory).generic_string());
  }
  std::sort(names.begin(), names.end());
  Json files = Json::array();
  for (const std::string& name : names) {
    if (name == kManifestName) continue;
    const std::filesystem::path path = directory / name;
    files.push_back({{"name", name}, {"bytes", File::open_read(path).size()}, {"sha256", sha256_file(path)}});
  }
  write_json(directory / kManifestName, {{"format", "sparsemoe-manifest-1"}, {"about", extra}, {"files", files}});
}

/// Reads manifest.json; throws FileError if it is absent, malformed, or names a file outside the directory.
inline std::vector<ManifestEntry> read_manifest(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kManifestName;
  const Json json = read_json(path);
  const auto bad = [&](const std::string& what) { fail_file(path, what); };
  if (!json.is_object() || json.value("format", Json()) != "sparsemoe-manifest-1") bad("is not a sparsemoe-manifest-1");
  if (!json.contains("files") || !json["files"].is_array()) bad("has no list of files");
  std::vector<ManifestEntry> entries;
  for (const Json& row : json["files"]) {
    const bool shaped = row.is_object() && row.value("name", Json()).is_string() &&
                        row.value("bytes", Json()).is_number_unsigned() && row.value("sha256", Json()).is_string();
    if (!shaped) bad("has an entry without name, bytes and sha256");
    ManifestEntry entry{row["name"], row["bytes"], row["sha256"]};
    const std::filesystem::path name(entry.name);
    const bool inside = !entry.name.empty() && entry.name.find('\0') == std::string::npos && name.is_relative() &&
                        std::none_of(name.begin(), name.end(), [](const auto& part) { return part == ".."; });
    if (!inside) bad("names a file outside its directory");
    if (entry.sha256.size() != 64) bad("has a malformed sha256 for " + entry.name);
    const bool twice = std::any_of(entries.begin(), entries.end(), [&](const auto& e) { return e.name == entry.name; });
    if (twice) bad("lists " + detail::shown(entry.name) + " twice");
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// How much verify_manifest reads: names and sizes only, or every byte.
enum class Verify { sizes, content };

/// Throws FileError with one sentence for the first file that is missing, truncated, too long or corrupt. Of several
/// files a reader wants `only` some: the others are not looked at.
inline void verify_manifest(const std::filesystem::path& directory, Verify how = Verify::content,
                            const std::vector<std::string>& only = {}) {
  const std::vector<ManifestEntry> entries = read_manifest(directory);
  for (const std::string& name : only)
    if (std::none_of(entries.begin(), entries.end(), [&](const auto& e) { return e.name == name; }))
      fail_file(directory / kManifestName, "does not list ", name);
  for (const ManifestEntry& entry : entries) {
    if (!only.empty() && std::find(only.begin(), only.end(), entry.name) == only.end()) continue;
    const std::filesystem::path path = directory / entry.name;
    std::error_code code;
    if (!std::filesystem::exists(path, code)) fail_file(path, "missing, but listed in ", kManifestName);
    const std::uint64_t bytes = File::open_read(path).size();
    if (bytes < entry.bytes) fail_file(path, "truncated: ", bytes, " of ", entry.bytes, " bytes");
    if (bytes > entry.bytes) fail_file(path, "too long: ", bytes, " bytes instead of ", entry.bytes);
    if (how == Verify::content && sha256_file(path) != entry.sha256)
      fail_file(path, "corrupt: its SHA-256 differs from ", kManifestName);
  }
}

/// A checkpoint to resume from, and the damaged newer ones that were passed over (one sentence each).
struct FoundCheckpoint {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::vector<std::string> refused;
};

/// The newest RUN/step-N whose manifest verifies; nothing if RUN has no step directory. Throws FileError if there are
/// some and none verifies: starting from scratch would hide the loss. The LATEST pointer is not consulted, because a
/// kill between the two writes leaves it one step behind. `only`: as in verify_manifest.
inline std::optional<FoundCheckpoint> find_checkpoint(const std::filesystem::path& run, Verify how = Verify::content,
                                                      const std::vector<std::string>& only = {}) {
  FoundCheckpoint found;
  const std::vector<std::int64_t> steps = list_steps(run);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    try {
      found.path = step_path(run, *step);
      found.step = *step;
      verify_manifest(found.path, how, only);
      return found;
    } catch (const FileError& error) {
      found.refused.push_back(error.what());
    }
  }
  if (!found.refused.empty()) fail_file(run, "no usable checkpoint; the newest: ", found.refused.front());
  return std::nullopt;
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// archive.cpp -- the functions of archive.hpp, which says what they do.
#include "archive.hpp"

#include <map>
#include <sstream>
#include <string>
#include <string_view>

#include "child.hpp"
#include "sparsemoe/io/checksum.hpp"
#include "sparsemoe/io/directory.hpp"
#include "text_file.hpp"

namespace nmt {

SuiteLists::SuiteLists(const fs::path& folder, const std::string& suite, const std::string& keyring) : folder_(folder) {
  const std::string mark = "_dists_" + suite + "_";
  std::map<std::string, fs::path> releases;
  for (const auto& entry : sparsemoe::list_directory(folder)) {
    std::string name = entry.path().filename().string();
    const auto at = name.find(mark);
    if (at == std::string::npos || !fs::is_regular_file(entry.symlink_status())) continue;
    name = plain_path(name.substr(at + mark.size()));
    if (name == "InRelease" || name == "Release" || name == "Release.gpg") {
      releases[name] = entry.path();
    } else {
      const auto dot = name.find('.', name.rfind('/'));  // .lz4 and the like
      files_[name.substr(0, dot)] = entry.path();
    }
  }
  read_hashes(signed_text(releases, keyring), suite);
}

std::string SuiteLists::find(std::string_view start, std::string_view end) const {
  for (const auto& [path, file] : files_)
    if (path.starts_with(start) && path.ends_with(end)) return path;
  return {};
}

std::string SuiteLists::read(const std::string& path) const {
  const auto file = files_.at(path);
  std::string text = run_program({"/usr/lib/apt/apt-helper", "cat-file", file.string()}, {"APT_CONFIG="});
  sparsemoe::Sha256 hash;
  hash.add(text.data(), text.size());
  const auto wanted = hashes_.find(path);
  sparsemoe::require(wanted != hashes_.end() && hash.hex() == wanted->second, file.string(),
                     ": not the file that the archive has signed; --refresh fetches it again");
  return text;
}

std::string SuiteLists::signed_text(const std::map<std::string, fs::path>& releases, const std::string& keyring) const {
  try {
    if (releases.contains("InRelease"))  // what the signature covers, and nothing around it
      return run_program({"gpgv", "--quiet", "--keyring", keyring, "--output", "-", releases.at("InRelease").string()});
    sparsemoe::require(releases.contains("Release") && releases.contains("Release.gpg"),
                       "it has no signed release file");
    run_program({"gpgv", "--quiet", "--keyring", keyring, releases.at("Release.gpg").string(),
                 releases.at("Release").string()});
    return read_text(releases.at("Release"));
  } catch (const sparsemoe::Error& problem) {
    sparsemoe::fail_file(folder_, "not signed by the archive: ", problem.what());
  }
}

void SuiteLists::read_hashes(const std::string& release, const std::string& suite) {
  bool in_hashes = false, named = false;
  std::istringstream lines(release);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(' ')) {
      in_hashes = line.starts_with("SHA256:");
      named = named || line == "Suite: " + suite || line == "Codename: " + suite;
      continue;
    }
    std::istringstream fields(line);
    std::string hash, size, path;
    if (in_hashes && fields >> hash >> size >> path) hashes_[path] = hash;
  }
  if (!named) sparsemoe::fail_file(folder_, "its release file is of another suite than ", suite);
}

std::string SuiteLists::plain_path(const std::string& name) {
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const std::string_view rest = std::string_view(name).substr(i);
    if (rest.starts_with("%5f") || rest.starts_with("%40")) {
      out += rest[1] == '5' ? '_' : '@';
      i += 2;
    } else {
      out += name[i] == '_' ? '/' : name[i];
    }
  }
  return out;
}

}  // namespace nmt

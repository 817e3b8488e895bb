// archive.hpp -- the index files of one suite as apt left them, believed only as far as the archive has signed them.
// Main idea: gpgv checks the signature of the release file, the release file has the SHA-256 of every index, and an
// index is read only if it has it. So it does not matter who put the files there. Read next: fetch.hpp, which gets
// them.
#pragma once

#include <map>
#include <sstream>
#include <string>
#include <string_view>

#include "child.hpp"
#include "sparsemoe/io/checksum.hpp"
#include "sparsemoe/io/directory.hpp"
#include "text_file.hpp"

namespace nmt {

class SuiteLists {
 public:
  /// `folder` is apt's directory of lists. Throws Error when there is no release file of this suite that a key in
  /// `keyring` has signed.
  SuiteLists(const fs::path& folder, const std::string& suite, const std::string& keyring) : folder_(folder) {
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

  /// The index at `path`, as "main/i18n/Translation-de", is there.
  bool has(const std::string& path) const { return files_.contains(path); }

  /// The first path that starts and ends so; empty where there is none.
  std::string find(std::string_view start, std::string_view end) const {
    for (const auto& [path, file] : files_)
      if (path.starts_with(start) && path.ends_with(end)) return path;
    return {};
  }

  /// Its text, in whatever compression apt keeps it. Throws Error when it is not what the archive has signed.
  std::string read(const std::string& path) const {
    const auto file = files_.at(path);
    std::string text = run_program({"/usr/lib/apt/apt-helper", "cat-file", file.string()}, {"APT_CONFIG="});
    sparsemoe::Sha256 hash;
    hash.add(text.data(), text.size());
    const auto wanted = hashes_.find(path);
    sparsemoe::require(wanted != hashes_.end() && hash.hex() == wanted->second, file.string(),
                       ": not the file that the archive has signed; --refresh fetches it again");
    return text;
  }

 private:
  /// apt writes a path with _ for / and quotes what else could be meant.
  static std::string plain_path(const std::string& name) {
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

  std::string signed_text(const std::map<std::string, fs::path>& releases, const std::string& keyring) const {
    try {
      if (releases.contains("InRelease"))  // what the signature covers, and nothing around it
        return run_program(
            {"gpgv", "--quiet", "--keyring", keyring, "--output", "-", releases.at("InRelease").string()});
      sparsemoe::require(releases.contains("Release") && releases.contains("Release.gpg"),
                         "it has no signed release file");
      run_program({"gpgv", "--quiet", "--keyring", keyring, releases.at("Release.gpg").string(),
                   releases.at("Release").string()});
      return read_text(releases.at("Release"));
    } catch (const sparsemoe::Error& problem) {
      sparsemoe::fail_file(folder_, "not signed by the archive: ", problem.what());
    }
  }

  void read_hashes(const std::string& release, const std::string& suite) {
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

  fs::path folder_;
  std::map<std::string, fs::path> files_;      // by path in the archive, without compression
  std::map<std::string, std::string> hashes_;  // SHA-256 by path, uncompressed files among them
};

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// archive.hpp -- the index files of one suite as apt left them, believed only as far as the archive has signed them.
// Main idea: gpgv checks the signature of the release file, the release file has the SHA-256 of every index, and an
// index is read only if it has it. So it does not matter who put the files there. Read next: fetch.hpp, which gets
// them.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "text_file.hpp"

namespace nmt {

class SuiteLists {
 public:
  /// `folder` is apt's directory of lists. Throws Error when there is no release file of this suite that a key in
  /// `keyring` has signed.
  SuiteLists(const fs::path& folder, const std::string& suite, const std::string& keyring);

  /// The index at `path`, as "main/i18n/Translation-de", is there.
  bool has(const std::string& path) const { return files_.contains(path); }

  /// The first path that starts and ends so; empty where there is none.
  std::string find(std::string_view start, std::string_view end) const;

  /// Its text, in whatever compression apt keeps it. Throws Error when it is not what the archive has signed.
  std::string read(const std::string& path) const;

 private:
  /// apt writes a path with _ for / and quotes what else could be meant.
  static std::string plain_path(const std::string& name);

  std::string signed_text(const std::map<std::string, fs::path>& releases, const std::string& keyring) const;

  void read_hashes(const std::string& release, const std::string& suite);

  fs::path folder_;
  std::map<std::string, fs::path> files_;      // by path in the archive, without compression
  std::map<std::string, std::string> hashes_;  // SHA-256 by path, uncompressed files among them
};

}  // namespace nmt

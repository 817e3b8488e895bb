// SPDX-License-Identifier: Apache-2.0
// file_set.hpp -- several files of one directory that belong together: all new or all old.
// Main idea: a new directory is filled, with links to whatever else the old one holds, and the two names are swapped in
// one step. A directory that cannot be swapped gets its files one by one, each whole. Read next: directory.hpp.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sparsemoe/io/directory.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Files to be written into `directory`, which commit() makes if it is not there. Nothing is visible before.
class FileSet {
 public:
  explicit FileSet(std::filesystem::path directory) : directory_(std::move(directory)) {
    require(!directory_.empty(), "a directory to write into has an empty name");
    if (!directory_.has_filename()) directory_ = directory_.parent_path();  // "OUT/"
  }

  /// `name` is a plain file name.
  void add(std::string name, std::string bytes) { files_.emplace_back(std::move(name), std::move(bytes)); }

  /// Throws FileError if something cannot be written; what was there is untouched then.
  void commit() const {
    std::error_code code;
    if (directory_.has_parent_path()) std::filesystem::create_directories(directory_.parent_path(), code);
    if (code) fail_file(directory_.parent_path(), "cannot create the directory: ", code.message());
    struct stat info {};
    const bool there = ::stat(directory_.c_str(), &info) == 0;
    if (there && !S_ISDIR(info.st_mode)) fail_file(directory_, "is not a directory");
    if (there && !can_be_swapped()) return write_one_by_one();
    AtomicDirectory next(directory_);
    if (there && !link_others(next.path(), info.st_mode)) return write_one_by_one();
    for (const auto& [name, bytes] : files_) {
      File file = File::create(next.path() / name);
      file.write_all(bytes);
      file.close();
    }
    next.commit(Existing::replace);
  }

 private:
  bool is_ours(const std::filesystem::path& name) const {
    return std::any_of(files_.begin(), files_.end(), [&](const auto& file) { return file.first == name; });
  }

  /// A link to the directory and ".." cannot be swapped, and a directory of directories cannot be linked anew.
  bool can_be_swapped() const {
    const std::string last = directory_.filename().string();
    if (last == "." || last == ".." || std::filesystem::is_symlink(std::filesystem::symlink_status(directory_)))
      return false;
    const auto entries = list_directory(directory_);
    return entries.size() < 1000 && std::all_of(entries.begin(), entries.end(), [](const auto& entry) {
             std::error_code ignored;
             return std::filesystem::is_regular_file(entry.symlink_status(ignored));
           });
  }

  /// False where the file system has no links.
  bool link_others(const std::filesystem::path& next, mode_t mode) const {
    if (::chmod(next.c_str(), mode & 07777) != 0) return false;
    for (const auto& entry : list_directory(directory_)) {
      const std::filesystem::path name = entry.path().filename();
      if (is_ours(name) || detail::is_temporary_name(name.string())) continue;
      if (::link(entry.path().c_str(), (next / name).c_str()) != 0) return false;
    }
    return true;
  }

  void write_one_by_one() const {
    std::vector<std::unique_ptr<AtomicFile>> all;
    for (const auto& [name, bytes] : files_) {
      all.push_back(std::make_unique<AtomicFile>(directory_ / name));
      all.back()->write(bytes);
    }
    for (const auto& file : all) file->commit();
  }

  std::filesystem::path directory_;
  std::vector<std::pair<std::string, std::string>> files_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

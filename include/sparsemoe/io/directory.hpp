// SPDX-License-Identifier: Apache-2.0
// directory.hpp -- checkpoint directories that appear whole or not at all, and the LATEST pointer beside them.
// Main idea: RUN/step-120.tmp-<id>/ is filled, every file in it is fsynced, then one rename makes it RUN/step-120/.
// Read next: file.hpp, file_set.hpp; manifest.hpp, which says whether a finished directory can still be believed.
#pragma once

#include <stdio.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <string>
#include <vector>

#include "sparsemoe/io/file.hpp"
#include "sparsemoe/io/terminal.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

enum class Listing { flat, deep };

/// Entries of `directory`, with those of its subdirectories if deep. Throws FileError if it cannot be listed.
inline std::vector<std::filesystem::directory_entry> list_directory(const std::filesystem::path& directory,
                                                                    Listing listing = Listing::flat) {
  std::vector<std::filesystem::directory_entry> entries;
  try {
    if (listing == Listing::deep) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) entries.push_back(entry);
    } else {
      for (const auto& entry : std::filesystem::directory_iterator(directory)) entries.push_back(entry);
    }
  } catch (const std::filesystem::filesystem_error& error) {
    fail_file(directory, "cannot list: ", error.code().message());
  }
  return entries;
}

namespace detail {

/// The lock that says that a directory is in use by a living process; another one that finds it free may clear it away.
class DirectoryLock {
 public:
  DirectoryLock() = default;
  explicit DirectoryLock(const std::filesystem::path& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)), held_(fd_ >= 0 && lock_unfinished(fd_, path)) {}
  DirectoryLock(DirectoryLock&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), held_(std::exchange(other.held_, false)) {}
  DirectoryLock& operator=(DirectoryLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(held_, other.held_);
    return *this;
  }
  ~DirectoryLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  bool held() const { return held_; }

 private:
  int fd_ = -1;
  bool held_ = false;
};

}  // namespace detail

/// What AtomicDirectory::commit does when the final name is taken.
enum class Existing { refuse, replace };

/// A directory built under a temporary name. A destructor without commit() removes it with its content, and a
/// constructor what killed writers of the same name have left.
class AtomicDirectory {
 public:
  /// `final_path` is the name after commit(), as RUN/step-120; RUN must exist.
  explicit AtomicDirectory(std::filesystem::path final_path) : final_path_(std::move(final_path)) {
    if (!final_path_.has_filename()) final_path_ = final_path_.parent_path();  // "RUN/step-120/"
    detail::remove_abandoned(final_path_);
    path_ = detail::Unfinished::of_process().create(final_path_, [&](const std::filesystem::path& name) {
      if (::mkdir(name.c_str(), 0777) != 0) {
        if (errno == EEXIST) return false;
        fail_output(final_path_, "create a temporary directory beside it", errno);
      }
      lock_ = detail::DirectoryLock(name);
      return lock_.held();
    });
  }
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory() {
    if (committed_) return;
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    detail::Unfinished::of_process().forget(path_);
  }

  /// Where to write while the directory is being built.
  const std::filesystem::path& path() const { return path_; }

  /// Syncs every file and directory below path(), renames it to the final name, syncs the parent.
  /// Existing::replace swaps the two names in one step and deletes the old directory afterwards.
  void commit(Existing existing = Existing::refuse) {
    for (const auto& entry : list_directory(path_, Listing::deep)) {
      if (entry.is_directory()) sync_directory(entry.path());
      if (entry.is_regular_file()) File::open_read(entry.path()).sync();
    }
    sync_directory(path_);
    const bool taken = std::filesystem::exists(std::filesystem::symlink_status(final_path_));
    if (taken && existing == Existing::refuse) fail_file(final_path_, "already exists; not overwritten");
    if (taken) {
      exchange();
    } else {
      detail::Unfinished::of_process().commit(path_, [&] { detail::rename_path(path_, final_path_); });
      committed_ = true;
    }
    sync_directory(final_path_.parent_path());
  }

 private:
  /// After the swap path_ names the old content, which the destructor deletes. A signal's removal of path_ that began
  /// before the swap would go on in the new content under its final name: the two keep out of each other's way.
  void exchange() {
    detail::Unfinished::of_process().hold([&] {
#if defined(RENAME_EXCHANGE)
      if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) == 0) return;
      if (errno != EINVAL && errno != ENOSYS) fail_output(final_path_, "replace", errno);
#endif
      // This file system cannot swap: for a moment neither name is there, and a kill in it leaves both under
      // temporary names. The previous checkpoint is unaffected.
      const std::filesystem::path old = detail::temporary_name(final_path_);
      detail::rename_path(final_path_, old);
      detail::rename_path(path_, final_path_);
      detail::rename_path(old, path_);
    });
  }

  std::filesystem::path final_path_;
  std::filesystem::path path_;
  detail::DirectoryLock lock_;
  bool committed_ = false;
};

/// Deletes what killed writers left in `directory` (entries named *.tmp-<digits>-<digits>), never what a living process
/// writes; returns how many. Throws FileError if something cannot be removed.
inline std::size_t remove_unfinished(const std::filesystem::path& directory) {
  std::size_t removed = 0;
  for (const auto& entry : list_directory(directory)) {
    if (!detail::is_temporary_name(entry.path().filename().string())) continue;
    std::error_code code;
    removed += detail::remove_if_abandoned(entry.path(), code) ? 1 : 0;
    if (code) fail_file(entry.path(), "cannot remove: ", code.message());
  }
  return removed;
}

/// "RUN/step-120" for step 120.
inline std::filesystem::path step_path(const std::filesystem::path& run, std::int64_t step) {
  return run / join("step-", step);
}

/// Steps that have a finished directory RUN/step-N, ascending.
inline std::vector<std::int64_t> list_steps(const std::filesystem::path& run) {
  std::vector<std::int64_t> steps;
  for (const auto& entry : list_directory(run)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-") || !entry.is_directory()) continue;
    const std::string digits = name.substr(5);
    const bool number = !digits.empty() && digits.size() <= 18 &&
                        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (number) steps.push_back(std::stoll(digits));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

/// Points RUN/LATEST at `name`, a directory in RUN. Call it after AtomicDirectory::commit.
inline void write_latest(const std::filesystem::path& run, const std::string& name) {
  atomic_write(run / "LATEST", name + "\n");
}

/// The name in RUN/LATEST, or nothing if there is no such file. Throws FileError if it leaves RUN.
inline std::optional<std::string> read_latest(const std::filesystem::path& run) {
  const std::filesystem::path path = run / "LATEST";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  std::string name = read_file(path, 4096);
  while (!name.empty() && (name.back() == '\n' || name.back() == '\r')) name.pop_back();
  const bool plain = !name.empty() && name != "." && name != ".." &&
                     std::none_of(name.begin(), name.end(), [](unsigned char c) { return c == '/' || c < 32; });
  if (!plain) fail_file(path, "must hold one plain directory name");
  return name;
}

/// Deletes `directory`, which lies in RUN, so that a kill in between never leaves half of it under its name. Where that
/// fails it warns: what is left under a temporary name goes with the next deletion, and no run ends for it.
inline void remove_step(const std::filesystem::path& directory) {
  try {
    const std::filesystem::path trash = detail::temporary_name(directory);
    detail::rename_path(directory, trash);
    sync_directory(directory.parent_path());
    std::error_code code;
    std::filesystem::remove_all(trash, code);
    if (code) fail_file(trash, "cannot remove: ", code.message());
  } catch (const FileError& error) {
    warn(error.what());
  }
}

/// Deletes the oldest finished step directories but the newest `keep`, which must be at least 1, and what former
/// deletions have left. Steps beyond `last` are not counted and not touched.
inline void prune_steps(const std::filesystem::path& run, std::size_t keep,
                        std::int64_t last = std::numeric_limits<std::int64_t>::max()) {
  require(keep >= 1, "prune_steps: keep must be at least 1");
  std::vector<std::int64_t> steps = list_steps(run);
  std::erase_if(steps, [last](std::int64_t step) { return step > last; });
  for (std::size_t i = 0; i + keep < steps.size(); ++i) remove_step(step_path(run, steps[i]));
  std::error_code ignored;
  for (const auto& entry : list_directory(run))
    if (detail::is_temporary_name(entry.path().filename().string())) detail::remove_if_abandoned(entry.path(), ignored);
}

/// Throws FileError unless `path` still names the directory that is open as `fd`. Somebody who deletes a run's
/// directory and begins another one there must not find files of the first in it: call it before every checkpoint.
inline void require_same_directory(int fd, const std::filesystem::path& path) {
  struct stat opened {
  }, named{};
  const bool same = ::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
                    opened.st_dev == named.st_dev;
  if (!same)
    throw FileError(path, "this directory was removed or replaced while the run wrote to it; nothing more is written",
                    Exit::output);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

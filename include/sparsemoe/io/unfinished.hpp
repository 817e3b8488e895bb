// SPDX-License-Identifier: Apache-2.0
// unfinished.hpp -- what this process has half built on disk, so that it can be removed when the process is told to
// end, and what processes that are gone have left, so that the next one removes it. Main idea: temporary names lie
// beside their target as TARGET.tmp-PID-TIME; their writer holds a lock (flock) on each as long as it lives, whatever
// its number, its container or its end. Read next: file.hpp, directory.hpp, signals.hpp.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI::detail {

inline constexpr std::string_view kUnfinishedMark = ".tmp-";

/// "target.tmp-<pid>-<nanoseconds>": beside the target, so that rename() never crosses a file system.
inline std::filesystem::path temporary_name(const std::filesystem::path& target) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  std::filesystem::path name = target;
  name += join(kUnfinishedMark, ::getpid(), "-", now);
  return name;
}

/// Is `name` one that temporary_name gives to a target called `target` (empty: to any)?
inline bool is_temporary_name(std::string_view name, std::string_view target = {}) {
  const std::size_t at = name.rfind(kUnfinishedMark);
  if (at == std::string_view::npos || (!target.empty() && name.substr(0, at) != target)) return false;
  const std::string_view id = name.substr(at + kUnfinishedMark.size());
  return !id.empty() && id.find_first_not_of("0123456789-") == std::string_view::npos;
}

/// True if the writer's lock on `fd` was taken and `path` is still what was opened: a process that clears away may have
/// come in between. Where a file system has no locks, true as well: nothing is cleared away there.
inline bool lock_unfinished(int fd, const std::filesystem::path& path) {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
  struct stat opened {
  }, named{};
  return ::fstat(fd, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

/// Removes the file or directory `path`, a temporary name, if no living process writes it. Returns whether it is gone;
/// `code` says why it could not be removed.
inline bool remove_if_abandoned(const std::filesystem::path& path, std::error_code& code) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT;
  const bool abandoned = ::flock(fd, LOCK_EX | LOCK_NB) == 0;
  if (abandoned) std::filesystem::remove_all(path, code);
  ::close(fd);
  return abandoned && !code;
}

/// Removes what writers of `target` that are gone have left beside it. What cannot be removed stays: it harms nobody.
inline void remove_abandoned(const std::filesystem::path& target) {
  const std::filesystem::path parent = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  const std::string name = target.filename().string();
  std::error_code code;
  std::vector<std::filesystem::path> left;
  for (std::filesystem::directory_iterator at(parent, code), end; !code && at != end; at.increment(code))
    if (is_temporary_name(at->path().filename().string(), name)) left.push_back(at->path());
  for (const auto& path : left) {
    std::error_code ignored;
    remove_if_abandoned(path, ignored);
  }
}

/// The temporary files and directories of this process. All of its writers tell it; it lives as long as the process.
class Unfinished {
 public:
  static Unfinished& of_process() {
    static auto* all = new Unfinished;  // never destroyed: a signal may come while the process ends
    return *all;
  }

  /// Makes a temporary by `make(name)` under fresh names until it returns true, and notes it. `target` is beside it.
  template <class Make>
  std::filesystem::path create(const std::filesystem::path& target, Make&& make) {
    const std::lock_guard hold(mutex_);
    for (;;) {
      const std::filesystem::path name = temporary_name(target);
      if (make(name)) return *paths_.insert(name).first;
    }
  }
  /// Calls `step()`, in which temporaries change their names: nothing is removed meanwhile, be it half moved.
  template <class Step>
  void hold(Step&& step) {
    const std::lock_guard hold(mutex_);
    step();
  }
  /// `finish()` gives a temporary its final name; only then it is no longer ours to remove.
  template <class Finish>
  void commit(const std::filesystem::path& path, Finish&& finish) {
    hold([&] {
      finish();
      paths_.erase(path);
    });
  }
  /// `path` is removed, or about to be.
  void forget(const std::filesystem::path& path) {
    const std::lock_guard hold(mutex_);
    paths_.erase(path);
  }
  /// The process ends: removes everything, and keeps whoever wants to write more waiting for ever.
  void remove_all_and_hold() {
    mutex_.lock();
    for (const auto& path : paths_) {
      std::error_code code;
      for (int attempt = 0; attempt < 100; ++attempt) {  // another thread may still write into a directory
        std::filesystem::remove_all(path, code);
        if (!std::filesystem::exists(std::filesystem::symlink_status(path, code))) break;
      }
    }
  }

 private:
  std::mutex mutex_;
  std::set<std::filesystem::path> paths_;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI::detail

// SPDX-License-Identifier: Apache-2.0
// file.hpp -- files that are either whole or absent: RAII descriptors, atomic files, atomic directories.
// Main idea: write under a temporary name in the same directory, fsync, rename, fsync the directory. A kill, a full
// disk or a power cut leaves the old content or the new content, never a mixture. Read next: unfinished.hpp for what a
// kill leaves, line_reader.hpp for input that comes line by line, json.hpp.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"
#include "sparsemoe/io/unfinished.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// A file that cannot be opened, read, written or believed. what() starts with the path.
class FileError : public Error {
 public:
  FileError(const std::filesystem::path& path, const std::string& sentence, Exit status = Exit::error)
      : Error(path.string() + ": " + sentence, status), path_(path.string()) {}
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

template <class... Parts>
[[noreturn]] void fail_file(const std::filesystem::path& path, const Parts&... parts) {
  throw FileError(path, join(parts...));
}

namespace detail {
/// Text that came from a file, safe to put into a sentence: short, printable ASCII.
inline std::string shown(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 60)) out += c >= 32 && c < 127 ? c : '?';
  return out + (text.size() > 60 ? "...\"" : "\"");
}
}  // namespace detail

/// What a reader of an untrusted file may allocate beyond the file's own size, in bytes.
inline constexpr std::uint64_t kSpareMemory = std::uint64_t{16} << 20;

/// Throws FileError "path: cannot <verb>: <errno text>". `code` is an errno value.
[[noreturn]] inline void fail_errno(const std::filesystem::path& path, std::string_view verb, int code) {
  fail_file(path, "cannot ", verb, ": ", std::generic_category().message(code));
}

/// The same about a file that is being written.
[[noreturn]] inline void fail_output(const std::filesystem::path& path, std::string_view verb, int code) {
  throw FileError(path, join("cannot ", verb, ": ", std::generic_category().message(code)), Exit::output);
}

/// An owned POSIX file descriptor. Every failing call throws FileError; interrupted and short calls are resumed.
class File {
 public:
  /// Does not wait for the writer of a named pipe: size() then says what is wrong.
  static File open_read(const std::filesystem::path& path) {
    return File(path, O_RDONLY | O_NONBLOCK, "open for reading");
  }
  /// Fails if `path` exists.
  static File create(const std::filesystem::path& path) { return File(path, O_WRONLY | O_CREAT | O_EXCL, "create"); }
  /// Does not wait for the reader of a named pipe.
  static File open_append(const std::filesystem::path& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode)) fail_file(path, "not a regular file");
    return File(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, "open for appending");
  }
  static File open_write(const std::filesystem::path& path) { return File(path, O_WRONLY, "open for writing"); }

  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
  File& operator=(File&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(path_, other.path_);
    return *this;
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }

  /// Another descriptor of the same open file: its lock (flock) is held until both are closed.
  File duplicate() const { return File(path_, ::fcntl(fd_, F_DUPFD_CLOEXEC, 0), "duplicate", Opened{}); }

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return fd_; }

  /// Bytes in the file. Throws for directories, pipes and devices: nothing here may wait for ever.
  std::uint64_t size() const {
    struct stat info {};
    if (::fstat(fd_, &info) != 0) fail_errno(path_, "stat", errno);
    if (!S_ISREG(info.st_mode)) fail_file(path_, "not a regular file");
    return static_cast<std::uint64_t>(info.st_size);
  }

  /// Reads exactly `bytes` bytes at `offset`; throws if the file ends before that.
  void read_at(std::uint64_t offset, void* target, std::uint64_t bytes) const {
    auto* out = static_cast<char*>(target);
    while (bytes > 0) {
      const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, kPiece));
      const ssize_t got = ::pread(fd_, out, piece, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_errno(path_, "read", errno);
      if (got == 0) fail_file(path_, "truncated: ends at byte ", offset, ", ", bytes, " more bytes expected");
      out += got;
      offset += static_cast<std::uint64_t>(got);
      bytes -= static_cast<std::uint64_t>(got);
    }
  }

  void write_all(const void* source, std::uint64_t bytes) {
    const auto* in = static_cast<const char*>(source);
    while (bytes > 0) {
      const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, kPiece));
      const ssize_t put = ::write(fd_, in, piece);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_output(path_, "write", errno);
      if (put == 0) fail_output(path_, "write", ENOSPC);
      in += put;
      bytes -= static_cast<std::uint64_t>(put);
    }
  }
  void write_all(std::string_view bytes) { write_all(bytes.data(), bytes.size()); }

  void truncate(std::uint64_t bytes) {
    if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail_output(path_, "truncate", errno);
  }
  void sync() {
    if (::fsync(fd_) != 0) fail_output(path_, "sync to disk", errno);
  }
  /// Closes and reports what close() says: on network file systems that is where a full disk shows up.
  void close() {
    if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail_output(path_, "close", errno);
  }

 private:
  static constexpr std::uint64_t kPiece = std::uint64_t{1} << 30;  // Linux moves at most 2 GiB - 4 KiB per call

  struct Opened {};
  File(const std::filesystem::path& path, int flags, std::string_view verb)
      : File(path, ::open(path.c_str(), flags | O_CLOEXEC, 0666), verb, Opened{}) {}
  File(const std::filesystem::path& path, int fd, std::string_view verb, Opened) : fd_(fd), path_(path) {
    if (fd_ < 0) fail_errno(path, verb, errno);
  }

  int fd_;
  std::filesystem::path path_;
};

/// A read-only mapping of a whole file. Opt-in: a file that shrinks while mapped kills the process with SIGBUS.
class MappedFile {
 public:
  explicit MappedFile(const File& file) : bytes_(static_cast<std::size_t>(file.size())) {
    if (bytes_ == 0) return;
    data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      fail_errno(file.path(), "map", errno);
    }
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  std::size_t size() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The whole file as bytes. Throws FileError if it is larger than `limit` bytes (checked before any allocation).
inline std::string read_file(const std::filesystem::path& path, std::uint64_t limit = std::uint64_t{1} << 30) {
  const File file = File::open_read(path);
  const std::uint64_t bytes = file.size();
  if (bytes > limit) fail_file(path, "has ", bytes, " bytes, more than the limit of ", limit);
  std::string text(static_cast<std::size_t>(bytes), '\0');
  file.read_at(0, text.data(), bytes);
  return text;
}

/// Makes a rename or unlink in `directory` durable. An empty path means the current directory.
inline void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory.empty() ? std::filesystem::path(".") : directory;
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno(path, "open directory", errno);
  const int code = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (code != 0 && code != EINVAL) fail_output(path, "sync directory", code);  // EINVAL: not supported there
}

namespace detail {

inline void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_output(to, join("rename ", from.string(), " to it"), errno);
}

}  // namespace detail

/// A file being written under a temporary name. Nothing is visible at `path` before commit(); a destructor without
/// commit() removes the temporary file. An existing file at `path` is replaced whole (a symbolic link too); what killed
/// writers of `path` have left beside it is removed. Throws FileError if `path` is something else than a file.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    struct stat info {};
    if (::stat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
      fail_file(path_, S_ISDIR(info.st_mode) ? "is a directory" : "is not a regular file", "; not overwritten");
    detail::remove_abandoned(path_);
    about_target([&] {
      detail::Unfinished::of_process().create(path_, [&](const std::filesystem::path& name) {
        struct stat taken {};
        if (::lstat(name.c_str(), &taken) == 0) return false;
        file_.emplace(File::create(name));
        return detail::lock_unfinished(file_->descriptor(), name);
      });
    });
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (committed_) return;
    ::unlink(file_->path().c_str());
    detail::Unfinished::of_process().forget(file_->path());
  }

  void write(const void* source, std::uint64_t bytes) {
    about_target([&] { file_->write_all(source, bytes); });
  }
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }

  void commit() {
    about_target([&] {
      file_->sync();
      const File locked = file_->duplicate();  // else another writer of `path_` could clear this one away
      file_->close();
      detail::Unfinished::of_process().commit(file_->path(), [&] { detail::rename_path(file_->path(), path_); });
    });
    committed_ = true;
    sync_directory(path_.parent_path());
  }

 private:
  /// The user asked for `path_`, so an error names it and not only the temporary file.
  template <class Step>
  void about_target(Step&& step) {
    try {
      step();
    } catch (const FileError& error) {
      throw FileError(path_, join("not written (", error.what(), ")"), Exit::output);
    }
  }

  std::filesystem::path path_;
  std::optional<File> file_;
  bool committed_ = false;
};

/// Replaces the content of `path` durably. On any failure the old file is untouched and no temporary file remains.
inline void atomic_write(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

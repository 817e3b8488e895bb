// SPDX-License-Identifier: Apache-2.0
// line_reader.hpp -- lines of a file descriptor such as standard input: an error of read() is never the end of the
// input, and a program that reads ahead for speed can ask whether the next line is there already, as it must not wait
// for more while somebody waits for its answer. Read next: file.hpp, for whole files.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>
#include <utility>

#include "sparsemoe/config.hpp"
#include "sparsemoe/error.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

class LineReader {
 public:
  /// The most bytes of a line: a device without line ends would take all memory.
  static constexpr std::size_t kLongest = std::size_t{64} << 20;

  /// `name` is what errors call the input. The descriptor stays the caller's.
  LineReader(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  /// The next line, without its end (LF or CR LF); false at the end of the input. Throws Error if it cannot be read or
  /// is longer than kLongest.
  bool next(std::string& line) {
    std::size_t end;
    while ((end = find()) == std::string::npos && !over_) fill();
    if (end == std::string::npos && at_ == held_.size()) return false;
    line.assign(held_, at_, end == std::string::npos ? end : end - at_);
    at_ = end == std::string::npos ? held_.size() : end + 1;
    searched_ = at_;
    ++lines_;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return true;
  }
  /// True if next() need not wait, now or within `milliseconds` of every byte.
  bool ready(int milliseconds) {
    while (find() == std::string::npos && !over_) {
      pollfd p{fd_, POLLIN, 0};
      if (::poll(&p, 1, milliseconds) <= 0) return false;
      fill();
    }
    return true;
  }
  /// Lines that next() has given.
  std::size_t lines() const { return lines_; }

 private:
  std::size_t find() {
    const std::size_t end = held_.find('\n', searched_);
    searched_ = end == std::string::npos ? held_.size() : end;
    return end;
  }
  void fill() {
    held_.erase(0, at_);
    searched_ -= at_;
    at_ = 0;
    require(held_.size() <= kLongest, name_, ":", lines_ + 1, ": a line of more than ", kLongest >> 20, " MiB");
    std::array<char, 65536> part;
    ssize_t n;
    while ((n = ::read(fd_, part.data(), part.size())) < 0 && errno == EINTR) {
    }
    if (n < 0) fail(name_, ": cannot read: ", std::generic_category().message(errno));
    over_ = n == 0;
    held_.append(part.data(), static_cast<std::size_t>(n));
  }

  int fd_;
  std::string name_, held_;
  std::size_t at_ = 0, searched_ = 0;  // of the line begun, and of what has not been looked at
  std::size_t lines_ = 0;
  bool over_ = false;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

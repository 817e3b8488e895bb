// line_reader.hpp -- lines of a file descriptor, and whether the next one is there already: a program that reads ahead
// for speed must not wait for more while somebody waits for its answer. Read next: translate.hpp.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "sparsemoe/error.hpp"

namespace nmt {

class LineReader {
 public:
  /// `name` is what errors call the input.
  LineReader(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  /// The next line, without its end (LF or CR LF); false at the end of the input. Throws Error if it cannot be read.
  bool next(std::string& line) {
    std::size_t end;
    while ((end = find()) == std::string::npos && !over_) fill();
    if (end == std::string::npos && at_ == held_.size()) return false;
    line.assign(held_, at_, end == std::string::npos ? end : end - at_);
    at_ = end == std::string::npos ? held_.size() : end + 1;
    searched_ = at_;
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
    std::array<char, 65536> part;
    ssize_t n;
    while ((n = ::read(fd_, part.data(), part.size())) < 0 && errno == EINTR) {
    }
    sparsemoe::require(n >= 0, name_, ": cannot read: ", std::strerror(errno));
    over_ = n == 0;
    held_.append(part.data(), static_cast<std::size_t>(n));
  }

  int fd_;
  std::string name_, held_;
  std::size_t at_ = 0, searched_ = 0;  // of the line begun, and of what has not been looked at
  bool over_ = false;
};

}  // namespace nmt

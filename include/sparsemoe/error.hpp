// SPDX-License-Identifier: Apache-2.0
// error.hpp -- the one exception the library throws on the host, and the way to build its sentence.
// A message says what was wrong, where (file, line, tensor), and what was expected. Device code has no error path.
// Read next: view.hpp.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// What a program that ends says to the shell, beside 128 + signal where one ended it.
enum class Exit : int {
  done = 0,
  error = 1,      // the input, a file or the machine: the sentence says which
  usage = 64,     // the command line or the environment
  output = 74,    // something could not be written: a full disk, a reader that went away
  diverged = 76,  // training: too many steps in a row were not finite
};

/// Thrown for everything a caller can get wrong: shapes, files, configurations.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& sentence, Exit status = Exit::error)
      : std::runtime_error(sentence), status_(status) {}

  /// What a program ends with that does not catch it.
  Exit status() const noexcept { return status_; }

 private:
  Exit status_;
};

/// Concatenates its arguments with operator<<: join("row ", 3, " of ", 7).
template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws Error with the joined sentence.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(join(parts...));
}

/// Throws Error with the joined sentence, about the command line or the environment.
template <class... Parts>
[[noreturn]] void fail_usage(const Parts&... parts) {
  throw Error(join(parts...), Exit::usage);
}

/// Throws Error with the joined sentence unless `ok`.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

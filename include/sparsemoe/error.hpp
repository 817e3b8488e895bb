// error.hpp -- the one exception the library throws on the host, and the way to build its sentence.
// A message says what was wrong, where (file, line, tensor), and what was expected. Device code has no error path.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "sparsemoe/config.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Thrown for everything a caller can get wrong: shapes, files, configurations.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
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

/// Throws Error with the joined sentence unless `ok`.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

}  // namespace sparsemoe::inline SPARSEMOE_ABI

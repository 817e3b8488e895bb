// SPDX-License-Identifier: Apache-2.0
// child.hpp -- runs another program without a shell, and takes what it says.
// Read next: fetch.hpp, which runs apt.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nmt {

/// The last line that is not blank, for one-sentence errors.
std::string last_line(std::string_view text);

/// Runs a program without a shell and returns its standard output, at most `limit` bytes. `variables` ("NAME=value")
/// are added to its environment. It ends when this process does, however that ends. Throws Error with the program's
/// last line on standard error when it cannot be started, is killed or does not exit with 0.
std::string run_program(const std::vector<std::string>& command, const std::vector<std::string>& variables = {},
                        std::size_t limit = std::size_t{2} << 30);

}  // namespace nmt

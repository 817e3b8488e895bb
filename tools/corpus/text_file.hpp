// SPDX-License-Identifier: Apache-2.0
// text_file.hpp -- the whole text of a file that somebody else wrote: plain, gzip or xz, told apart by its first bytes.
// Main idea: a limit before every allocation, so that a pipe, a device, a hole of terabytes or a bomb is one sentence
// at once. Read next: import.hpp and read_corpus.hpp, which take it apart.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace nmt {

namespace fs = std::filesystem;

/// What a text may have, in bytes. Packed text may be 100 times its file, which no text is, or 64 MiB.
struct TextLimits {
  std::uint64_t bytes = std::uint64_t{32} << 30;
  std::uint64_t packed_ratio = 100, packed_spare = std::uint64_t{64} << 20;
};

/// The text of a file, unpacked. Throws Error, which begins with the path, for what cannot be read, is no regular file,
/// is larger than the limits, is damaged, or is certainly no text in UTF-8.
std::string read_text(const fs::path& path, const TextLimits& limits = {});

/// A name without .gz or .xz: what is in the file.
fs::path without_packing(fs::path path);

/// Anything of that name: a link that leads nowhere counts, so that reading it says what is wrong.
bool is_there(const fs::path& path);

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// text_file.cpp -- the functions of text_file.hpp, which says what they do.
#include "text_file.hpp"

#if __has_include(<zlib.h>)
#include <zlib.h>
#define SPARSEMOE_NMT_GZIP 1
#endif
#if defined(SPARSEMOE_HAS_LZMA)
#include <lzma.h>
#endif

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "sparsemoe/io/environment.hpp"
#include "sparsemoe/io/file.hpp"

namespace nmt {

namespace {

enum class Packing { none, gzip, xz, other };

// By the first bytes; `name` is what other packings are called.
Packing packing_of(std::string_view start, std::string_view& name) {
  using namespace std::string_view_literals;
  if (start.starts_with("\x1F\x8B"sv)) return Packing::gzip;
  if (start.starts_with("\xFD"
                        "7zXZ\0"sv))
    return Packing::xz;
  for (const auto& [magic, what] : {std::pair{"BZh"sv, "bzip2"sv},
                                    {"\x28\xB5\x2F\xFD"sv, "zstd"sv},
                                    {"PK\x03\x04"sv, "zip"sv},
                                    {"7z\xBC\xAF"sv, "7z"sv}})
    if (start.starts_with(magic) && start.size() > 6) return name = what, Packing::other;
  return Packing::none;
}

/// Grows to what arrives, up to the limit for `packed` bytes.
class Unpacked {
 public:
  Unpacked(const fs::path& path, std::uint64_t packed, const TextLimits& limits)
      : path_(path), most_(std::min(limits.bytes, std::max(limits.packed_spare, packed * limits.packed_ratio))) {}
  void add(const unsigned char* bytes, std::size_t count) {
    if (text.size() + count > most_)
      sparsemoe::fail_file(path_, "unpacks to more than ", most_, " bytes, which no text of its size does");
    text.append(reinterpret_cast<const char*>(bytes), count);
    if (text[0] == '\0') sparsemoe::fail_file(path_, "begins with a NUL byte: not a text");
  }
  std::string text;

 private:
  const fs::path& path_;
  std::uint64_t most_;
};

#if defined(SPARSEMOE_NMT_GZIP)
std::string gunzip(const fs::path& path, const std::string& packed, const TextLimits& limits) {
  Unpacked out(path, packed.size(), limits);
  std::string piece(std::size_t{1} << 18, '\0');
  z_stream z{};
  if (::inflateInit2(&z, 15 + 16) != Z_OK) throw std::bad_alloc();
  struct End {
    z_stream* z;
    ~End() { ::inflateEnd(z); }
  } end{&z};
  std::size_t at = 0;
  for (bool more = true; more;) {  // members one after another
    int code = Z_OK;
    while (code != Z_STREAM_END) {
      const std::size_t in = std::min(packed.size() - at, std::size_t{1} << 20);
      z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data() + at));
      z.avail_in = static_cast<uInt>(in);
      z.next_out = reinterpret_cast<Bytef*>(piece.data());
      z.avail_out = static_cast<uInt>(piece.size());
      code = ::inflate(&z, Z_NO_FLUSH);
      at += in - z.avail_in;
      if (const std::size_t n = piece.size() - z.avail_out; n > 0)
        out.add(reinterpret_cast<const unsigned char*>(piece.data()), n);
      if (code == Z_MEM_ERROR) throw std::bad_alloc();
      if (code == Z_BUF_ERROR && at == packed.size())
        sparsemoe::fail_file(path, "is cut short: its gzip data has no end");
      if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        sparsemoe::fail_file(path, "is damaged: ", z.msg != nullptr ? z.msg : "not gzip data");
    }
    more = std::string_view(packed).substr(at).starts_with("\x1F\x8B");
    if (more) ::inflateReset(&z);
  }
  if (packed.find_first_not_of('\0', at) != std::string::npos)
    sparsemoe::fail_file(path, "is damaged: other bytes after its gzip data");
  return std::move(out.text);
}
#endif

#if defined(SPARSEMOE_HAS_LZMA)
std::string unxz(const fs::path& path, const std::string& packed, const TextLimits& limits) {
  Unpacked out(path, packed.size(), limits);
  std::string piece(std::size_t{1} << 18, '\0');
  lzma_stream z = LZMA_STREAM_INIT;
  struct End {
    lzma_stream* z;
    ~End() { ::lzma_end(z); }
  } end{&z};
  if (::lzma_stream_decoder(&z, std::uint64_t{512} << 20, LZMA_CONCATENATED) != LZMA_OK) throw std::bad_alloc();
  z.next_in = reinterpret_cast<const std::uint8_t*>(packed.data());
  z.avail_in = packed.size();
  for (lzma_ret code = LZMA_OK; code != LZMA_STREAM_END;) {
    z.next_out = reinterpret_cast<std::uint8_t*>(piece.data());
    z.avail_out = piece.size();
    code = ::lzma_code(&z, LZMA_FINISH);
    if (const std::size_t n = piece.size() - z.avail_out; n > 0)
      out.add(reinterpret_cast<const unsigned char*>(piece.data()), n);
    if (code == LZMA_OK || code == LZMA_STREAM_END) continue;
    if (code == LZMA_MEM_ERROR) throw std::bad_alloc();
    if (code == LZMA_MEMLIMIT_ERROR) sparsemoe::fail_file(path, "needs more than 512 MiB to be unpacked");
    if (code == LZMA_BUF_ERROR) sparsemoe::fail_file(path, "is cut short: its xz data has no end");
    sparsemoe::fail_file(path, "is damaged: not what xz writes");
  }
  return std::move(out.text);
}
#endif

std::string unpacked(const fs::path& path, Packing packing, std::string packed,
                     [[maybe_unused]] const TextLimits& limits) {
  if (packing == Packing::none) return packed;
#if defined(SPARSEMOE_NMT_GZIP)
  if (packing == Packing::gzip) return gunzip(path, packed, limits);
#endif
#if defined(SPARSEMOE_HAS_LZMA)
  if (packing == Packing::xz) return unxz(path, packed, limits);
#endif
  const bool gzip = packing == Packing::gzip;
  sparsemoe::fail_file(path, "is packed with ", gzip ? "gzip" : "xz", ", and this program was built without ",
                       gzip ? "zlib" : "liblzma", ": unpack it first");
}

/// Text in units of two or four bytes is told by its mark, or by NUL bytes, which text of Latin letters then has in
/// half of its places or more.
void refuse_wide(const fs::path& path, std::string_view text) {
  using namespace std::string_view_literals;
  const auto refuse = [&](const std::string& name) {
    sparsemoe::fail_file(path, "is ", name, ": convert it to UTF-8 first, as by iconv -f ", name, " -t UTF-8");
  };
  if (text.starts_with("\xFF\xFE\0\0"sv) || text.starts_with("\0\0\xFE\xFF"sv)) refuse("UTF-32");
  if (text.starts_with("\xFF\xFE"sv) || text.starts_with("\xFE\xFF"sv)) refuse("UTF-16");
  const std::string_view head = text.substr(0, 4096);
  std::size_t even = 0, odd = 0;
  for (std::size_t i = 0; i < head.size(); ++i)
    if (head[i] == '\0') ++(i % 2 == 0 ? even : odd);
  if (head.size() >= 8 && odd == head.size() / 2 && even == 0) refuse("UTF-16LE");
  if (head.size() >= 8 && even == (head.size() + 1) / 2 && odd == 0) refuse("UTF-16BE");
  if (text.starts_with('\0')) sparsemoe::fail_file(path, "begins with a NUL byte: not a text");
}

}  // namespace

std::string read_text(const fs::path& path, const TextLimits& limits) {
  const auto file = sparsemoe::File::open_read(path);
  const std::uint64_t bytes = file.size(), memory = sparsemoe::available_memory();
  if (bytes > memory / 2)  // the text, and what is made of it
    sparsemoe::fail_file(path, "has ", bytes, " bytes, more than half of the ", memory, " bytes of memory");
  if (bytes > limits.bytes) sparsemoe::fail_file(path, "has ", bytes, " bytes, more than the limit of ", limits.bytes);
  std::string start(static_cast<std::size_t>(std::min<std::uint64_t>(bytes, 8)), '\0');
  file.read_at(0, start.data(), start.size());
  std::string_view name;
  const auto packing = packing_of(start, name);
  if (packing == Packing::other)
    sparsemoe::fail_file(path, "is packed with ", name, ": unpack it first; gzip and xz are read as they are");
  if (packing == Packing::none) refuse_wide(path, start);
  try {
    std::string text(static_cast<std::size_t>(bytes), '\0');
    file.read_at(0, text.data(), bytes);
    text = unpacked(path, packing, std::move(text), limits);
    refuse_wide(path, text);
    // Lines may end as those of old Macs do, in a carriage return alone.
    if (text.find('\n') == std::string::npos) std::replace(text.begin(), text.end(), '\r', '\n');
    return text;
  } catch (const std::bad_alloc&) {
    sparsemoe::fail_file(path, "not enough memory to read its ", bytes, " bytes");
  } catch (const std::length_error&) {
    sparsemoe::fail_file(path, "not enough memory to read its ", bytes, " bytes");
  }
}

fs::path without_packing(fs::path path) {
  const auto extension = path.extension();
  return extension == ".gz" || extension == ".xz" ? path.replace_extension() : path;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

}  // namespace nmt

// SPDX-License-Identifier: Apache-2.0
// infer/utf8_mask.hpp -- byte-fallback pieces that keep to UTF-8: which bytes may follow those of a character begun.
// Read next: infer/beam.hpp.
#pragma once

#include <array>
#include <cstdint>

#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// The bytes of a character begun and not complete: none, or a lead byte and what follows it.
struct Utf8Pending {
  std::array<std::uint8_t, 3> bytes{};
  int count = 0;

  /// Whether `byte` may come next: Unicode 15, table 3-7, and never the last byte of U+FFFD.
  bool allows(unsigned byte) const {
    if (count == 0) return byte < 0x80 || (byte >= 0xC2 && byte <= 0xF4);
    unsigned low = 0x80, high = 0xBF;
    if (count == 1) {
      if (bytes[0] == 0xE0) low = 0xA0;
      if (bytes[0] == 0xED) high = 0x9F;
      if (bytes[0] == 0xF0) low = 0x90;
      if (bytes[0] == 0xF4) high = 0x8F;
    }
    if (count == 2 && bytes[0] == 0xEF && bytes[1] == 0xBF && byte == 0xBD) return false;
    return byte >= low && byte <= high;
  }
  /// Goes on with a byte that is allowed.
  void add(unsigned byte) {
    const unsigned lead = count == 0 ? byte : bytes[0];
    const int length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (count + 1 == length) {
      count = 0;
      return;
    }
    bytes[static_cast<std::size_t>(count++)] = static_cast<std::uint8_t>(byte);
  }
  /// What is pending after these tokens, whose bytes are those of SearchOptions::bytes.
  static Utf8Pending after(const std::int32_t* tokens, index_t n, const std::int16_t* bytes_of) {
    index_t from = n;  // a character has at most four bytes: its lead is among the last three
    while (from > 0 && n - from < 3 && bytes_of[tokens[from - 1]] >= 0x80 && bytes_of[tokens[from - 1]] < 0xC0) --from;
    Utf8Pending p;
    if (from == 0 || n - from >= 3 || bytes_of[tokens[from - 1]] < 0xC0) return p;
    for (index_t i = from - 1; i < n; ++i) p.add(static_cast<unsigned>(bytes_of[tokens[i]]));
    return p;
  }
};

/// logits(r, id) = lowest wherever allowed (rows, 257) is 0 for the id's byte, 256 being that of text.
template <class S>
struct MaskBytesRow {
  static constexpr index_t classes = 257;
  Matrix<S> logits;
  const std::int16_t* byte_class;  // (V) 0 to 256
  const std::uint8_t* allowed;     // (rows, 257)
  S lowest;                        // minus infinity
  template <class Team>
  SPARSEMOE_HD void operator()(Team team, index_t r) const {
    for (index_t j = team.lane(); j < logits.cols; j += Team::lanes)
      if (allowed[r * classes + byte_class[j]] == 0) logits(r, j) = lowest;
  }
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI

// SPDX-License-Identifier: Apache-2.0
// fuzz/safetensors.cpp -- libFuzzer target: bytes as a whole safetensors file. A FileError or a header that keeps its
// promises (ranges tile the data, shapes match them, names unique); a header that is accepted survives a round trip.
#include <cstdlib>

#include "sparsemoe/io/safetensors_header.hpp"

namespace moe = sparsemoe;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    moe::SafetensorsHeader header = moe::parse_safetensors(file, "input");
    auto& tensors = header.tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (i > 0 && !(tensors[i - 1].name < tensors[i].name)) std::abort();
      if (tensors[i].offset_begin > tensors[i].offset_end || tensors[i].offset_end > size) std::abort();
      if (moe::detail::tensor_bytes(tensors[i].dtype, tensors[i].shape) != tensors[i].bytes()) std::abort();
    }
    std::uint64_t data_bytes = 0;
    for (const auto& t : tensors) data_bytes += t.bytes();
    const std::string text = moe::dump_safetensors_header(tensors, header.metadata);
    const auto again = moe::parse_safetensors_header(text, data_bytes, "again");
    if (again.tensors.size() != tensors.size() || again.metadata != header.metadata) std::abort();
  } catch (const moe::FileError& error) {
    if (error.path() != "input") std::abort();
  }
  return 0;
}

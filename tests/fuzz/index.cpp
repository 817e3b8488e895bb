// SPDX-License-Identifier: Apache-2.0
// fuzz/index.cpp -- libFuzzer target: bytes as model.safetensors.index.json. A FileError, or an index that keeps its
// promises: names sorted and unique, every shard a plain file name beside the index.
#include <cstdlib>

#include "sparsemoe/io/sharded.hpp"

namespace moe = sparsemoe;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto index = moe::parse_shard_index({reinterpret_cast<const char*>(data), size}, "input");
    if (index.entries.empty() || index.memory > moe::kSpareMemory) std::abort();
    for (std::size_t i = 0; i < index.entries.size(); ++i) {
      if (i > 0 && !(index.entries[i - 1].tensor < index.entries[i].tensor)) std::abort();
      if (index.entries[i].shard >= index.shards.size()) std::abort();
    }
    for (const std::string& shard : index.shards) {
      if (std::filesystem::path("model") / shard != "model/" + shard) std::abort();
      if (std::filesystem::path(shard).filename() != shard || shard == "..") std::abort();
    }
  } catch (const moe::FileError& error) {
    if (error.path() != "input") std::abort();
  }
  return 0;
}

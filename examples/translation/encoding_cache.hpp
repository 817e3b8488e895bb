// SPDX-License-Identifier: Apache-2.0
// encoding_cache.hpp -- the encoded pairs of a run in a file, so that going on does not encode the corpus again.
// Main idea: a file is believed if it was made from the same text, tokenizer and options (its key), has the checksum
// that it says, holds ids of the tokenizer, and says of some pairs what the tokenizer says now. Otherwise, and where it
// cannot be written, the run goes on without; its bits are the same. Read next: training_data.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data.hpp"
#include "sparsemoe/io/checksum.hpp"
#include "sparsemoe/io/safetensors.hpp"

namespace nmt {

namespace moe = sparsemoe;

/// The two sides of one direction, flat: token ids, and where each row ends.
struct FlatRows {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> ends;

  explicit FlatRows(const std::vector<Ids>& rows) {
    for (const Ids& row : rows) {
      ids.insert(ids.end(), row.begin(), row.end());
      ends.push_back(static_cast<std::int64_t>(ids.size()));
    }
  }
};

class EncodingCache {
 public:
  /// `key`: a checksum of everything that the encoding depends on.
  EncodingCache(fs::path path, std::string key) : path_(std::move(path)), key_(std::move(key)) {}

  /// Fills the rows and counts of `pairs`, whose directions are given, and returns true; or leaves them as they are.
  bool load(std::vector<EncodedDirection>& pairs, std::int64_t vocabulary, std::int64_t max_length) const {
    std::error_code none;
    if (!fs::exists(path_, none)) return false;
    try {
      const moe::SafetensorsReader file(path_);
      if (text_of(file, "key") != key_) return false;
      std::vector<EncodedDirection> read = pairs;
      moe::Sha256 sum;
      for (std::size_t i = 0; i < read.size(); ++i) {
        read[i].source = rows(file, name(i, "source"), vocabulary, max_length, sum);
        read[i].target = rows(file, name(i, "target"), vocabulary, max_length, sum);
        if (read[i].source.size() != read[i].target.size()) return false;
        file.read(name(i, "too_long"), moe::DType::kI64, {1}, &read[i].too_long);
        sum.add(&read[i].too_long, sizeof read[i].too_long);
        if (read[i].too_long < 0) return false;
      }
      if (text_of(file, "sha256") != sum.hex()) return false;
      pairs = std::move(read);
      return true;
    } catch (const moe::Error&) {
      return false;  // damaged or of another form: it is written anew
    }
  }

  /// Returns why it could not be written, or "".
  std::string save(const std::vector<EncodedDirection>& pairs) const {
    std::vector<FlatRows> flat;
    std::vector<std::int64_t> too_long;
    flat.reserve(2 * pairs.size()), too_long.reserve(pairs.size());
    std::vector<moe::TensorView> tensors;
    moe::Sha256 sum;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      for (const auto& [side, rows] : {std::pair{"source", &pairs[i].source}, {"target", &pairs[i].target}}) {
        const FlatRows& f = flat.emplace_back(*rows);
        tensors.push_back({name(i, side), moe::DType::kI32, {static_cast<std::int64_t>(f.ids.size())}, f.ids.data()});
        tensors.push_back(
            {name(i, side) + ".ends", moe::DType::kI64, {static_cast<std::int64_t>(f.ends.size())}, f.ends.data()});
        add(sum, f.ids, f.ends);
      }
      too_long.push_back(pairs[i].too_long);
      tensors.push_back({name(i, "too_long"), moe::DType::kI64, {1}, &too_long.back()});
      sum.add(&too_long.back(), sizeof too_long.back());
    }
    try {
      moe::write_safetensors(path_, tensors, {{"key", key_}, {"sha256", sum.hex()}});
      return "";
    } catch (const moe::Error& problem) {
      return problem.what();
    }
  }

 private:
  static std::string name(std::size_t direction, const char* what) { return moe::join(direction, ".", what); }
  static std::string text_of(const moe::SafetensorsReader& file, const char* key) {
    for (const auto& [name, value] : file.metadata())
      if (name == key) return value;
    return "";
  }
  static void add(moe::Sha256& sum, const std::vector<std::int32_t>& ids, const std::vector<std::int64_t>& ends) {
    sum.add(ids.data(), ids.size() * sizeof(std::int32_t));
    sum.add(ends.data(), ends.size() * sizeof(std::int64_t));
  }
  /// Throws Error for rows that no tokenizer of this size made.
  static std::vector<Ids> rows(const moe::SafetensorsReader& file, const std::string& name, std::int64_t vocabulary,
                               std::int64_t max_length, moe::Sha256& sum) {
    const auto& id_info = file.at(name);
    const auto& end_info = file.at(name + ".ends");
    std::vector<std::int32_t> ids(static_cast<std::size_t>(id_info.elements()));
    std::vector<std::int64_t> ends(static_cast<std::size_t>(end_info.elements()));
    file.read(name, moe::DType::kI32, {static_cast<std::int64_t>(ids.size())}, ids.data());
    file.read(name + ".ends", moe::DType::kI64, {static_cast<std::int64_t>(ends.size())}, ends.data());
    add(sum, ids, ends);
    for (const auto id : ids) moe::require(id >= 0 && id < vocabulary, "no id");
    std::vector<Ids> out;
    std::int64_t at = 0;
    for (const std::int64_t end : ends) {
      moe::require(end >= at && end - at <= max_length && end <= static_cast<std::int64_t>(ids.size()), "no row");
      out.emplace_back(ids.begin() + at, ids.begin() + end);
      at = end;
    }
    moe::require(at == static_cast<std::int64_t>(ids.size()), "ids behind the last row");
    return out;
  }

  fs::path path_;
  std::string key_;
};

}  // namespace nmt

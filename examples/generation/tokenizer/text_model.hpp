// SPDX-License-Identifier: Apache-2.0
// text_model.hpp -- the "model" of a tokenizer.json: pieces with ids, and how a part of a text is cut into them.
// Read next: unigram.hpp, bpe.hpp.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace generation {

using Ids = std::vector<std::int32_t>;

/// What an object "model" of a tokenizer.json may hold in bulk.
struct ModelTables {
  std::vector<std::pair<std::string, double>> vocabulary;  // a list's pieces and scores, an object's pieces and ids
  std::vector<std::array<std::string, 2>> merges;
};

class TextModel {
 public:
  virtual ~TextModel() = default;
  /// Appends the ids of `text`, which is not empty.
  virtual void encode(const std::string& text, Ids& ids) const = 0;

  /// The id of a piece, or -1.
  std::int32_t id_of(const std::string& piece) const {
    const auto at = ids_.find(piece);
    return at == ids_.end() ? -1 : at->second;
  }
  /// The piece of an id, or nullptr.
  const std::string* piece_of(std::int32_t id) const {
    return id >= 0 && id < size() && used_[static_cast<std::size_t>(id)] ? &pieces_[static_cast<std::size_t>(id)]
                                                                         : nullptr;
  }
  /// One more than the largest id.
  std::int32_t size() const { return static_cast<std::int32_t>(pieces_.size()); }

 protected:
  void add(std::string piece, std::size_t id) {
    if (id >= pieces_.size()) {
      pieces_.resize(id + 1);
      used_.resize(id + 1);
    }
    ids_[piece] = static_cast<std::int32_t>(id);
    pieces_[id] = std::move(piece);
    used_[id] = true;
  }
  /// Appends the ids of the pieces "<0x41>" of every byte, if all are pieces.
  bool add_bytes(std::string_view text, Ids& ids) const {
    const std::size_t before = ids.size();
    for (const char c : text) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(static_cast<unsigned char>(c)));
      const std::int32_t id = id_of(name);
      if (id < 0) {
        ids.resize(before);
        return false;
      }
      ids.push_back(id);
    }
    return true;
  }

 private:
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<std::string> pieces_;
  std::vector<bool> used_;
};

}  // namespace generation
